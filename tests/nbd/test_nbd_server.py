"""Tests of a running NBD server: real clients, hostile clients, and the ends of a server."""

import os
import socket
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgstore.domain.errors import HostFault, ImgstoreError, InvalidInput, OutputError, StoreFull
from imgstore.nbd.channels import load_certificates
from imgstore.nbd.listeners import listen_tcp, listen_unix, uri_of
from imgstore.nbd.protocol import Command, CommandFlag, ErrorNumber, Option
from imgstore.nbd.server import NbdServer
from imgstore.nbd.session import ServerLimits
from imgstore.testing.pytest_plugin import require
from tests.nbd.memory_disk import BLOCK, Client, MemoryDisk
from tests.support.certificates import issue

SIZE = 1 << 20
Connect = Callable[[], Client]
_LIMITS = ServerLimits()


@contextmanager
def serve(
    disk: MemoryDisk, path: Path, limits: ServerLimits = _LIMITS, notes: list[str] | None = None
) -> Iterator[NbdServer]:
    """Serve a disk at a Unix socket."""
    server = NbdServer(
        disk, description="a disk in memory", limits=limits, note=(notes if notes is not None else []).append
    )
    with listen_unix(path) as listener:
        server.start(listener)
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def disk() -> MemoryDisk:
    """A disk with data at its first block and in the middle."""
    made = MemoryDisk(virtual_bytes=SIZE)
    made.write_at(0, b"a" * BLOCK)
    made.write_at(SIZE // 2, os.urandom(100_000))
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of the socket."""
    return tmp_path / "nbd.sock"


@pytest.fixture
def connect(path: Path) -> Iterator[Connect]:
    """Connects a client to the socket. All clients are closed at the end."""
    made: list[Client] = []

    def connect_one() -> Client:
        made.append(Client(path))
        return made[-1]

    yield connect_one
    for each in made:
        each.socket.close()


@pytest.fixture
def client(disk: MemoryDisk, path: Path, connect: Connect) -> Iterator[Client]:
    """A client after the handshake, with structured replies."""
    with serve(disk, path):
        made = connect()
        made.start()
        yield made
        made.socket.close()


def run(*words: str | Path) -> str:
    """Run a program that succeeds, and return its output."""
    done = subprocess.run([str(word) for word in words], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_libnbd_reads_the_disk(disk: MemoryDisk, path: Path, tmp_path: Path) -> None:
    require("nbdcopy")
    uri = f"nbd+unix:///?socket={path}"
    with serve(disk, path):
        about = run("nbdinfo", uri)
        mapped = run("nbdinfo", "--map", uri)
        run("nbdcopy", uri, tmp_path / "copy.raw")
    assert "export-size: 1048576 (1M)" in about
    assert "can_multi_conn: true" in about
    assert [line.split()[3] for line in mapped.splitlines()] == ["data", "hole,zero", "data", "hole,zero"]
    assert (tmp_path / "copy.raw").read_bytes() == disk.content


def test_qemu_writes_and_compares(disk: MemoryDisk, path: Path, tmp_path: Path) -> None:
    require("qemu-io")
    raw = tmp_path / "copy.raw"
    raw.write_bytes(disk.content)
    words = ("write -P 7 1000 5000", "write -zu 520192 65536", "discard 0 4096", "flush", "read -P 0 520192 65536")
    commands = [word for each in words for word in ("-c", each)]
    uri = f"nbd+unix:///?socket={path}"
    with serve(disk, path):
        run("qemu-io", "-f", "raw", *commands, uri)
        run("qemu-io", "-f", "raw", *commands, raw)
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, raw)
    assert disk.flushes
    assert 520192 // BLOCK not in disk.data


def test_tls_needs_a_certificate_of_the_same_authority(disk: MemoryDisk, tmp_path: Path) -> None:
    require("nbdcopy")
    certificates, strangers = tmp_path / "pki", tmp_path / "strangers"
    authority, other = issue("authority", authority=True), issue("other", authority=True)
    for folder, by in ((certificates, authority), (strangers, other)):
        folder.mkdir()
        (folder / "ca-cert.pem").write_bytes(authority.pem)
        for name, issued in (("server", issue("localhost", "127.0.0.1", by=by)), ("client", issue("guest", by=by))):
            (folder / f"{name}-cert.pem").write_bytes(issued.pem)
            (folder / f"{name}-key.pem").write_bytes(issued.key_pem)
    server = NbdServer(disk, description="a disk")
    with listen_tcp("127.0.0.1", 0) as listener:
        server.start(listener, load_certificates(certificates))
        uri = uri_of(listener)
        run("nbdcopy", f"{uri}?tls-certificates={certificates}", tmp_path / "copy.raw")
        refused = subprocess.run(
            ["nbdinfo", f"{uri}?tls-certificates={strangers}"], check=False, capture_output=True, timeout=60
        )
        plain = subprocess.run(
            ["nbdinfo", uri.replace("nbds:", "nbd:")], check=False, capture_output=True, text=True, timeout=60
        )
        server.stop()
    assert (tmp_path / "copy.raw").read_bytes() == disk.content
    assert refused.returncode
    assert plain.returncode


def test_certificates_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be used"):
        load_certificates(tmp_path)


def test_a_read_of_data_and_zeros_has_a_chunk_for_each(client: Client) -> None:
    client.request(Command.READ, 0, 128 << 10)
    (first, data), (second, hole) = client.chunks()
    assert (first, data) == (1, bytes(8) + b"a" * BLOCK)
    assert (second, hole) == (2, struct.pack(">QI", BLOCK, (128 << 10) - BLOCK))


def test_a_read_that_must_not_be_cut_has_one_chunk(client: Client) -> None:
    client.request(Command.READ, 0, 128 << 10, CommandFlag.DF)
    assert [len(data) for _, data in client.chunks()] == [8 + (128 << 10)]


def test_the_status_of_one_extent(client: Client) -> None:
    client.request(Command.BLOCK_STATUS, 100, 8192, CommandFlag.REQ_ONE)
    assert client.chunks() == [(5, struct.pack(">III", 1, BLOCK - 100, 0))]


@pytest.mark.parametrize(
    ("command", "offset", "length", "flags", "error"),
    [
        (Command.READ, SIZE - 1, 2, 0, ErrorNumber.EINVAL),
        (Command.READ, 2**64 - 1, 2, 0, ErrorNumber.EINVAL),
        (Command.READ, 0, 1, 1 << 9, ErrorNumber.EINVAL),
        (Command.BLOCK_STATUS, 0, 0, 0, ErrorNumber.EINVAL),
        (Command.WRITE_ZEROES, SIZE, 1, 0, ErrorNumber.ENOSPC),
        (Command.WRITE_ZEROES, 1, 1, CommandFlag.FAST_ZERO, ErrorNumber.ENOTSUP),
        (Command.TRIM, SIZE, 1, 0, ErrorNumber.EINVAL),
        (9, 0, 0, 0, ErrorNumber.EINVAL),
    ],
)
def test_a_request_that_is_refused(
    client: Client, command: int, offset: int, length: int, flags: int, error: ErrorNumber
) -> None:
    client.request(command, offset, length, flags)
    if command in (Command.READ, Command.BLOCK_STATUS):
        ((kind, payload),) = client.chunks()
        assert (kind, struct.unpack_from(">I", payload)[0]) == (2**15 + 1, error)
    else:
        assert client.simple() == error
    client.request(Command.FLUSH)
    assert client.simple() == 0


def test_a_read_only_disk_refuses_writes(disk: MemoryDisk, path: Path, connect: Connect) -> None:
    disk.is_read_only = True
    with serve(disk, path):
        client = connect()
        client.start(structured=False)
        client.request(Command.WRITE, 0, 3, payload=b"xyz")
        assert client.simple() == ErrorNumber.EPERM


def test_writes_with_fua_are_flushed(disk: MemoryDisk, client: Client) -> None:
    client.request(Command.WRITE, 5, 3, CommandFlag.FUA, b"xyz")
    assert (client.simple(), disk.flushes, bytes(disk.content[5:8])) == (0, 1, b"xyz")
    client.request(Command.WRITE_ZEROES, BLOCK, BLOCK, CommandFlag.NO_HOLE)
    assert client.simple() == 0
    assert 1 in disk.data
    client.request(Command.CACHE, 0, SIZE)
    assert (client.simple(), disk.prefetched) == (0, [(0, SIZE)])


def test_a_failed_read_names_the_reason_and_the_session_continues(
    disk: MemoryDisk, path: Path, connect: Connect
) -> None:
    notes: list[str] = []
    disk.broken_from = SIZE // 2
    with serve(disk, path, notes=notes):
        client = connect()
        client.start()
        client.request(Command.READ, SIZE // 2, BLOCK)
        ((_, payload),) = client.chunks()
        assert struct.unpack_from(">I", payload)[0] == ErrorNumber.EIO
        assert payload.endswith(b"The store does not answer.")
        client.request(Command.READ, 0, 1)
        assert client.chunks() == [(1, bytes(8) + b"a")]
    assert notes == ["READ at 524288 failed: The store does not answer."]


@pytest.mark.parametrize(
    ("kind", "number"),
    [(StoreFull, ErrorNumber.ENOSPC), (OutputError, ErrorNumber.EPERM), (HostFault, ErrorNumber.EIO)],
)
def test_a_failed_write_has_the_error_number_of_its_reason(
    disk: MemoryDisk, client: Client, kind: type[ImgstoreError], number: ErrorNumber
) -> None:
    disk.write_fault = kind("The write failed.", found="a fault", expected="none", hint="none")
    client.request(Command.WRITE, 0, 3, payload=b"xyz")
    assert client.simple() == number


def test_slow_reads_run_at_the_same_time(disk: MemoryDisk, path: Path, connect: Connect) -> None:
    with serve(disk, path):
        client = connect()
        client.start(structured=False)
        disk.gate.clear()
        for _ in range(8):
            client.request(Command.READ, 0, 1)
        for _ in range(8):
            assert disk.waiting.acquire(timeout=20)
        disk.gate.set()
        for _ in range(8):
            assert client.simple() == 0
            assert client.receive(1) == b"a"


def test_unanswered_requests_are_bounded(disk: MemoryDisk, path: Path, connect: Connect) -> None:
    with serve(disk, path, ServerLimits(unanswered_requests=3)):
        client = connect()
        client.start(structured=False)
        disk.gate.clear()
        for _ in range(10):
            client.request(Command.READ, 0, 1)
        for _ in range(3):
            assert disk.waiting.acquire(timeout=20)
        assert not disk.waiting.acquire(blocking=False)
        disk.gate.set()
        for _ in range(10):
            assert client.simple() == 0
            client.receive(1)


def test_a_client_that_reads_no_replies_is_disconnected_and_others_are_served(
    disk: MemoryDisk, path: Path, connect: Connect
) -> None:
    with serve(disk, path, ServerLimits(send_seconds=1, workers=2)) as server:
        silent = connect()
        silent.start()
        for _ in range(64):
            silent.request(Command.READ, 0, SIZE, CommandFlag.DF)
        other = connect()
        other.start()
        for _ in range(20):
            other.request(Command.READ, 0, 1)
            assert other.chunks() == [(1, bytes(8) + b"a")]
        other.socket.close()
        while not server.is_left:
            server.wait(1)


def test_a_slow_handshake_ends(disk: MemoryDisk, path: Path, connect: Connect) -> None:
    with serve(disk, path, ServerLimits(handshake_seconds=0.2)):
        assert connect().is_closed()


def test_connections_are_bounded(disk: MemoryDisk, path: Path, connect: Connect) -> None:
    with serve(disk, path, ServerLimits(connections=1)):
        first = connect()
        with socket.socket(socket.AF_UNIX) as second:
            second.connect(str(path))
            assert second.recv(1) == b""
        first.start()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(is_started=st.booleans(), data=st.binary(max_size=400))
def test_any_bytes_leave_the_server_alive(client: Client, path: Path, *, is_started: bool, data: bytes) -> None:
    hostile = Client(path)
    if is_started:
        hostile.start()
    hostile.socket.sendall(data)
    hostile.socket.close()
    client.request(Command.READ, 0, 1)
    assert client.chunks() == [(1, bytes(8) + b"a")]


def test_a_stop_answers_received_requests_and_flushes(disk: MemoryDisk, path: Path, connect: Connect) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(serve(disk, path))
        client = connect()
        client.start(structured=False)
        disk.gate.clear()
        client.request(Command.READ, 0, 1)
        assert disk.waiting.acquire(timeout=20)
        disk.gate.set()
        server.stop()
        assert client.simple() == 0
        assert client.receive(1) == b"a"
        assert client.is_closed()
        assert disk.flushes == 1


def test_the_socket_is_private_and_removed(disk: MemoryDisk, path: Path, connect: Connect) -> None:
    with serve(disk, path) as server:
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        with pytest.raises(OutputError, match="A server listens"), listen_unix(path):
            pass
        client = connect()
        client.start()
        client.request(Command.DISC)
        assert client.is_closed()
        while not server.is_left:
            server.wait(1)
    assert not path.exists()


def test_a_socket_of_a_dead_server_is_replaced_and_a_file_is_kept(
    disk: MemoryDisk, path: Path, connect: Connect
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serve(disk, path):
        connect()
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists"), listen_unix(path):
        pass
    assert path.read_text() == "mine"
    with pytest.raises(InvalidInput, match="too long"), listen_unix(path.parent / ("x" * 108)):
        pass


def test_tls_is_not_accepted_on_a_plain_socket(disk: MemoryDisk, path: Path, connect: Connect) -> None:
    with serve(disk, path):
        client = connect()
        client.socket.sendall(struct.pack(">I", 3))
        ((kind, _),) = client.option(Option.STARTTLS)
        assert kind == 2**31 + 2
