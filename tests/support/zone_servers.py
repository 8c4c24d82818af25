"""Three real S3 servers as the zones of a region, and the faults of one server.

A request passes toxiproxy (the network), an HTTP proxy (counts and lies) and the server. Each server has a process, a
fixed port and a folder, so that a test can kill the process and start the server again with the same or no content.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from pathlib import Path
from typing import Final

from imgstore.domain.effects import Effects
from imgstore.testing.engines import Found, S3Engine, free_ports, start_minio, start_seaweedfs
from imgstore.testing.latency_proxy import LatencyProxies, LatencyProxy
from tests.support.s3_proxy import (
    Exchange,
    Forward,
    ProxiedAnswer,
    ProxiedRequest,
    S3Proxy,
    pass_through,
    start_s3_proxy,
)

_DISK_BYTES: Final = 3 << 30
"""The size of a sparse file system for a server. MinIO refuses writes on a disk with little free space."""
_LOOKS_MAX: Final = 500
_S3_PORT: Final = 3
"""The index of the S3 endpoint in the ports of SeaweedFS."""


@dataclass(kw_only=True)
class ZoneServer:
    """The server of a zone."""

    zone: str
    kind: str
    """"minio" or "seaweedfs"."""
    folder: Path
    ports: Sequence[int]
    way: LatencyProxy
    """The network before the server. Clients use `way.engine.endpoint`."""
    proxy: S3Proxy
    disk: Path | None = None
    """The mounted file system with the data; None for a plain folder."""
    _process: ExitStack = field(default_factory=ExitStack)
    engine: S3Engine = field(init=False)
    """The server itself, without the proxies."""

    def start(self) -> None:
        """Start the process on the present content."""
        if self.kind == "minio":
            self.engine = self._process.enter_context(start_minio(self.folder, port=self.ports[0]))
        else:
            self.engine = self._process.enter_context(start_seaweedfs(self.folder, ports=self.ports))()

    def kill(self) -> None:
        """End the process with SIGKILL."""
        self._process.close()

    def wipe(self) -> None:
        """Delete the content of a server without a process."""
        for each in (self.folder / "data").iterdir():
            if each.name != "lost+found":
                shutil.rmtree(each) if each.is_dir() else each.unlink()

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Read each object of a bucket without the code under test, except the marks of the zone."""
        client = self.engine.client()
        try:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            keys = [each["Key"] for page in pages for each in page.get("Contents", [])]
            return {
                key: client.get_object(Bucket=bucket, Key=key)["Body"].read()
                for key in keys
                if key.startswith(("pools/", "repairs/"))
            }
        finally:
            client.close()

    def clear(self, bucket: str) -> None:
        """Delete each object of a bucket, also the marks of the zone."""
        client = self.engine.client()
        try:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                for each in page.get("Contents", []):
                    client.delete_object(Bucket=bucket, Key=each["Key"])
        finally:
            client.close()

    def remove_bucket(self, bucket: str) -> None:
        """Delete a bucket with its objects. SeaweedFS has room for the volumes of few buckets."""
        self.clear(bucket)
        client = self.engine.client()
        try:
            client.delete_bucket(Bucket=bucket)
        finally:
            client.close()

    def set_read_only(self, *, read_only: bool) -> None:
        """Refuse every write, or no write."""
        if self.kind == "minio":
            self._remount("ro" if read_only else "rw")
        else:
            self._permit(["Read", "List"] if read_only else ["Admin", "Read", "Write", "List", "Tagging"])
            self._await_put(refused=read_only)

    def _remount(self, option: str) -> None:
        """Change a mount option of the disk. Wait for writes in progress, which keep the disk busy."""
        assert self.disk is not None, "the server has a disk of its own"
        command = ["mount", "-o", f"remount,{option}", str(self.disk)]
        for _ in range(_LOOKS_MAX):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            Effects().wait(0.02)
        raise RuntimeError(done.stderr)

    def _permit(self, actions: Sequence[str]) -> None:
        """Change the rights of the access key. SeaweedFS keeps its files open, so its disk cannot be remounted."""
        file = self.folder / "s3.json"
        configuration = json.loads(file.read_text())
        configuration["identities"][0]["actions"] = actions
        file.write_text(json.dumps(configuration))
        assert self.engine.pid is not None, "it was started here"
        os.kill(self.engine.pid, signal.SIGHUP)

    def _await_put(self, *, refused: bool) -> None:
        client = self.engine.client()
        try:
            for _ in range(_LOOKS_MAX):
                try:
                    client.put_object(Bucket="ready", Key="ready", Body=b"ready")
                except client.exceptions.ClientError:
                    if refused:
                        return
                else:
                    if not refused:
                        return
                Effects().wait(0.02)
        finally:
            client.close()
        raise RuntimeError("the rights did not change")


@contextmanager
def start_zone_servers(
    folder: Path, latency_proxies: LatencyProxies, kind: str, disks: Sequence[str] = ()
) -> Iterator[tuple[ZoneServer, ...]]:
    """Start the three servers, each behind its proxies, until the block ends.

    Args:
        folder: the folder of the processes.
        latency_proxies: the networks.
        kind: "minio" or "seaweedfs".
        disks: the zones whose data is on a file system of its own. Needs root and loop devices.
    """
    with ExitStack() as stack:
        servers = []
        for zone in ("1", "2", "3"):
            below = folder / f"zone-{zone}"
            (below / "data").mkdir(parents=True)
            disk = stack.enter_context(_mount_disk(below)) if zone in disks else None
            ports = free_ports(1 if kind == "minio" else 8)
            proxy = stack.enter_context(start_s3_proxy(f"http://127.0.0.1:{ports[0 if kind == 'minio' else _S3_PORT]}"))
            way = latency_proxies.to(_engine_at(proxy.endpoint))
            server = ZoneServer(zone=zone, kind=kind, folder=below, ports=ports, way=way, proxy=proxy, disk=disk)
            stack.callback(server.kill)
            server.start()
            server.way = replace(way, engine=replace(server.engine, endpoint=way.engine.endpoint))
            servers.append(server)
        yield tuple(servers)


def _engine_at(endpoint: str) -> S3Engine:
    found = Found(name="proxy", version="", how="")
    return S3Engine(found=found, endpoint=endpoint, access_key="", secret_key="")


@contextmanager
def _mount_disk(below: Path) -> Iterator[Path]:
    image, mount = below / "disk.img", below / "data"
    with image.open("wb") as file:
        file.truncate(_DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)
        image.unlink()


# -- faults -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneFault:
    """A fault of one server."""

    begin: Callable[[ZoneServer], None]
    end: Callable[[ZoneServer], None]
    needs_disk: bool = False
    loses_content: bool = False
    """Whether the zone returns without its content, so that an operator must accept the empty zone."""


def _lose(server: ZoneServer) -> None:
    server.way.set_enabled(enabled=False)
    server.kill()


def _return(server: ZoneServer) -> None:
    server.start()
    server.way.set_enabled(enabled=True)


def _fill(server: ZoneServer) -> None:
    with (server.folder / "data" / "fill").open("wb") as file:
        size = 1 << 30
        while size >= 1 << 12:
            done = subprocess.run(
                ["fallocate", "-o", str(file.tell()), "-l", str(size), file.name], capture_output=True, check=False
            )
            if done.returncode == 0:
                file.seek(size, 1)
            else:
                size //= 2


def _empty_disk(server: ZoneServer) -> None:
    (server.folder / "data" / "fill").unlink()


def _empty(server: ZoneServer) -> None:
    server.kill()
    server.wipe()
    server.start()


def _corrupt(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
    """Change a bit of each object."""
    given = forward()
    if request.method != "GET" or _is_listing(request.path) or not given.body:
        return given
    return replace(given, body=given.body[:-1] + bytes([given.body[-1] ^ 1]))


class _OldObjects:
    """Answer each read with the first object of its kind. Objects of a kind are in the same folder of the slot."""

    def __init__(self) -> None:
        self._first: dict[str, ProxiedAnswer] = {}
        self._lock = threading.Lock()

    def __call__(self, request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
        given = forward()
        if request.method != "GET" or _is_listing(request.path) or given.status != 200:
            return given
        with self._lock:
            return self._first.setdefault(_kind_of(request.path), given)


def _kind_of(path: str) -> str:
    parts = path.split("/")
    return parts[6] if "pools" in parts[:3] and len(parts) > 6 else path


def _forget(request: ProxiedRequest, forward: Forward) -> ProxiedAnswer:
    """Acknowledge each put without storing the object."""
    if request.method != "PUT" or request.path.count("/") < 2:
        return forward()
    etag = hashlib.md5(request.body, usedforsecurity=False).hexdigest()
    headers = {"ETag": f'"{etag}"', "Date": formatdate(usegmt=True), "Server": "MinIO"}
    return ProxiedAnswer(status=200, headers=headers, body=b"", length=0)


def _is_listing(path: str) -> bool:
    return "list-type" in path or path.count("/") < 2


def _lie(exchange: Callable[[], Exchange]) -> ZoneFault:
    def begin(server: ZoneServer) -> None:
        server.proxy.exchange = exchange()

    def end(server: ZoneServer) -> None:
        server.proxy.exchange = pass_through

    return ZoneFault(begin=begin, end=end)


FAULTS: Final[dict[str, ZoneFault]] = {
    "lost": ZoneFault(begin=_lose, end=_return),
    "full": ZoneFault(begin=_fill, end=_empty_disk, needs_disk=True),
    "read-only": ZoneFault(
        begin=lambda server: server.set_read_only(read_only=True),
        end=lambda server: server.set_read_only(read_only=False),
        needs_disk=True,
    ),
    "slow": ZoneFault(
        begin=lambda server: server.way.set_round_trip(1.0), end=lambda server: server.way.set_round_trip(0.0)
    ),
    "half-open": ZoneFault(begin=lambda server: server.way.hold(), end=lambda server: server.way.release()),
    "empty": ZoneFault(begin=_empty, end=lambda _server: None, loses_content=True),
    "wrong bytes": _lie(lambda: _corrupt),
    "old bytes": _lie(_OldObjects),
    "unstored": _lie(lambda: _forget),
}
"""The faults of the table in DESIGN.md, section 10. The last three are the lies of a server."""
