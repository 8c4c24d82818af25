"""Hostile clients of the NBD server: stalls, floods, huge lengths, odd names and wrong certificates.

After each attack, another client is served, and nbdinfo still describes the disk.
"""

import os
import resource
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from imgstore.nbd.channels import load_certificates
from imgstore.nbd.listeners import listen_tcp, listen_unix, uri_of
from imgstore.nbd.protocol import OPTION, OPTION_MAGIC, PAYLOAD_BYTES_MAX, REQUEST, REQUEST_MAGIC, Command, Option
from imgstore.nbd.server import NbdServer
from imgstore.nbd.session import ServerLimits
from imgstore.testing.pytest_plugin import require
from tests.nbd.memory_disk import BLOCK, Client, MemoryDisk
from tests.support.certificates import Issued, issue

SIZE: Final = 48 << 20
FLAGS: Final = struct.pack(">I", 3)
QUICK: Final = ServerLimits(handshake_seconds=0.3)


def option(number: int, body: bytes = b"", length: int | None = None) -> bytes:
    return OPTION.pack(OPTION_MAGIC, number, len(body) if length is None else length) + body


def request(command: int, offset: int, length: int, payload: bytes = b"") -> bytes:
    return REQUEST.pack(REQUEST_MAGIC, 0, command, 7, offset, length) + payload


class Site:
    """A running server, and the checks after an attack."""

    def __init__(self, stack: ExitStack, folder: Path, limits: ServerLimits = QUICK) -> None:
        self.disk = MemoryDisk(virtual_bytes=SIZE)
        self.disk.write_at(0, b"a" * BLOCK)
        self.path = folder / "s"
        self.notes: list[str] = []
        self.checks = 0
        """The reads of `check_alive`."""
        self.server = NbdServer(self.disk, description="a secret name", limits=limits, note=self.notes.append)
        self._stack = stack
        self.server.start(stack.enter_context(listen_unix(self.path)))
        stack.callback(self.server.stop)

    def connect(self, *, started: bool = False) -> Client:
        client = Client(self.path)
        self._stack.callback(client.socket.close)
        if started:
            client.start(structured=False)
        return client

    def check_alive(self) -> None:
        """Check that another client is served."""
        client = self.connect(started=True)
        client.request(Command.READ, 0, 1)
        assert client.simple() == 0
        assert client.receive(1) == b"a"
        client.socket.close()
        self.checks += 1


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture
def site(stack: ExitStack, tmp_path: Path) -> Site:
    return Site(stack, tmp_path)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        FLAGS[:3],
        FLAGS,
        FLAGS + option(Option.LIST)[:15],
        FLAGS + option(Option.GO, b"\0\0", 6),
        FLAGS + option(Option.STRUCTURED_REPLY),
        FLAGS + option(Option.LIST) * 3,
    ],
)
def test_a_stall_in_each_phase_of_the_handshake_ends(site: Site, sent: bytes) -> None:
    client = site.connect()
    client.socket.sendall(sent)
    while client.socket.recv(4096):
        pass
    site.check_alive()


@pytest.mark.parametrize(
    "sent", [request(Command.READ, 0, 1)[:27], request(Command.WRITE, 0, 1 << 20, bytes(1000)), b"%"]
)
def test_a_stall_inside_a_request_holds_only_its_connection(site: Site, sent: bytes) -> None:
    client = site.connect(started=True)
    client.socket.sendall(sent)
    site.check_alive()
    client.socket.close()
    site.check_alive()


def test_a_hundred_thousand_requests_without_a_read_of_replies_are_bounded(stack: ExitStack, tmp_path: Path) -> None:
    """A slow reader later gets all replies, and the unread replies need no memory before."""
    site = Site(stack, tmp_path, ServerLimits(unanswered_requests=128))
    client = site.connect(started=True)
    client.socket.settimeout(None)  # A limit would hold for all sends together.
    many = 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def flood() -> None:
        client.socket.sendall(request(Command.READ, 0, 512) * many)

    sender = threading.Thread(target=flood)
    sender.start()
    seen = -1
    while seen != site.disk.reads - site.checks:
        seen = site.disk.reads - site.checks
        for _ in range(20):
            site.check_alive()
    assert sender.is_alive(), "the server stops receiving"
    buffered_bytes = client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) + (2 << 20)
    assert 0 < seen <= 128 + buffered_bytes // (16 + 512)
    left = many * (16 + 512)
    while left:
        received = client.socket.recv(min(left, 1 << 20))
        assert received
        left -= len(received)
    sender.join()
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 64 << 10


@pytest.mark.parametrize("length", [PAYLOAD_BYTES_MAX + 1, 2**31, 2**32 - 1])
def test_a_huge_write_ends_the_connection_before_its_payload(site: Site, length: int) -> None:
    client = site.connect(started=True)
    client.socket.sendall(request(Command.WRITE, 0, length, bytes(4096)))
    assert client.is_closed()
    site.check_alive()
    assert site.notes == [f"a client breaks the protocol: a write of {length} bytes"]


def test_the_largest_write_is_served(site: Site) -> None:
    client = site.connect(started=True)
    payload = os.urandom(PAYLOAD_BYTES_MAX)
    client.socket.sendall(request(Command.WRITE, BLOCK, len(payload), payload))
    assert client.simple() == 0
    assert site.disk.content[BLOCK : BLOCK + len(payload)] == payload


def test_many_connections_leave_the_server_usable(stack: ExitStack, tmp_path: Path) -> None:
    site = Site(stack, tmp_path, ServerLimits(connections=8, handshake_seconds=60))
    made = []
    for _ in range(200):
        made.append(socket.socket(socket.AF_UNIX))
        stack.callback(made[-1].close)
        made[-1].connect(str(site.path))
    served = [each for each in made if each.recv(18)]
    assert len(served) == 8
    for each in made:
        each.close()
    while not is_served(site):
        site.server.wait(0.05)
    site.check_alive()


def is_served(site: Site) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(20)
        probe.connect(str(site.path))
        return bool(probe.recv(18))


def test_an_option_after_the_handshake_ends_the_connection(site: Site) -> None:
    client = site.connect(started=True)
    client.socket.sendall(option(Option.LIST) * 2)
    assert client.is_closed()
    site.check_alive()


@pytest.mark.parametrize("name", [b"\xff\xfe", b"\0", b"../../etc", b"a" * 4096, b"a" * 4097, "ü".encode(), b"%s%n"])
def test_any_name_of_an_export_is_refused(site: Site, name: bytes) -> None:
    body = struct.pack(">I", len(name)) + name
    client = site.connect()
    client.socket.sendall(FLAGS)
    for number, rest in ((Option.INFO, bytes(2)), (Option.GO, bytes(2))):
        ((kind, _),) = client.option(number, body + rest)
        assert kind >> 31
    client.socket.sendall(option(Option.EXPORT_NAME, name))
    assert client.is_closed()
    site.check_alive()


def test_libnbd_is_served_after_the_attacks(site: Site) -> None:
    require("nbdcopy")
    client = site.connect(started=True)
    client.socket.sendall(os.urandom(4096))
    uri = f"nbd+unix:///odd%00%ff?socket={site.path}"
    refused = subprocess.run(["nbdinfo", uri], check=False, capture_output=True, timeout=60)
    assert refused.returncode
    about = subprocess.run(
        ["nbdinfo", f"nbd+unix:///?socket={site.path}"], check=True, capture_output=True, text=True, timeout=60
    )
    assert f"export-size: {SIZE}" in about.stdout


def write_pki(folder: Path, authority: Issued, server: Issued, client: Issued | None) -> Path:
    """Write the files that a server and libnbd expect."""
    folder.mkdir()
    (folder / "ca-cert.pem").write_bytes(authority.pem)
    for name, issued in (("server", server), ("client", client)):
        if issued is not None:
            (folder / f"{name}-cert.pem").write_bytes(issued.pem)
            (folder / f"{name}-key.pem").write_bytes(issued.key_pem)
    return folder


def test_a_client_needs_a_valid_certificate_of_the_authority(stack: ExitStack, tmp_path: Path) -> None:
    require("nbdcopy")
    authority, stranger = issue("authority", authority=True), issue("stranger", authority=True)
    server_certificate = issue("localhost", "127.0.0.1", by=authority)
    day = timedelta(days=1)
    clients: dict[str, Issued | None] = {
        "valid": issue("guest", by=authority),
        "expired": issue("guest", by=authority, begins=-9 * day, ends=-day),
        "not-yet": issue("guest", by=authority, begins=day, ends=9 * day),
        "foreign": issue("guest", by=stranger),
        "self-signed": issue("guest"),
        "none": None,
    }
    folders = {name: write_pki(tmp_path / name, authority, server_certificate, each) for name, each in clients.items()}
    notes: list[str] = []
    disk = MemoryDisk(virtual_bytes=1 << 20)
    server = NbdServer(disk, description="a secret name", note=notes.append, limits=ServerLimits(handshake_seconds=5))
    listener = stack.enter_context(listen_tcp("127.0.0.1", 0))
    server.start(listener, load_certificates(folders["valid"]))
    stack.callback(server.stop)
    results = {}
    for name, folder in folders.items():
        line = ["nbdinfo", "--size", f"{uri_of(listener)}?tls-certificates={folder}"]
        results[name] = subprocess.run(line, check=False, capture_output=True, timeout=60).returncode == 0
    assert results == {name: name == "valid" for name in clients}
    assert len(notes) == len(clients) - 1
    listed = subprocess.run(
        ["nbdinfo", "--list", uri_of(listener).replace("nbds:", "nbd:")],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert listed.returncode
    assert "secret" not in listed.stdout + listed.stderr, "a list needs a certificate, too"


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", bytes(range(64)), b"\x16\x03\x01\x02\x00" + bytes(511)])
def test_a_stall_or_noise_in_the_handshake_of_tls_ends(stack: ExitStack, tmp_path: Path, sent: bytes) -> None:
    authority = issue("authority", authority=True)
    folder = write_pki(tmp_path / "pki", authority, issue("localhost", "127.0.0.1", by=authority), None)
    server = NbdServer(MemoryDisk(virtual_bytes=BLOCK), description="a disk", limits=QUICK)
    listener = stack.enter_context(listen_tcp("127.0.0.1", 0))
    server.start(listener, load_certificates(folder))
    stack.callback(server.stop)
    with socket.create_connection(listener.getsockname(), timeout=20) as client:
        client.sendall(FLAGS + option(Option.STARTTLS))
        answered = b""
        while len(answered) < 18 + 20:
            answered += client.recv(4096)
        client.sendall(sent)
        with_end: Callable[[], bytes] = lambda: client.recv(4096)  # noqa: E731
        try:
            while with_end():
                pass
        except ConnectionResetError:
            pass
