"""A catalog file that was restored while the write-ahead log of a later state remained."""

import random
import shutil
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from imgstore.catalog import Catalog
from imgstore.catalog.engine.write_ahead_log import check_log_matches
from imgstore.domain.effects import Effects
from imgstore.domain.errors import StoreMismatch


def opened(file: Path) -> AbstractContextManager[Catalog]:
    return closing(Catalog.open(f"sqlite:///{file}", Effects()))


def write(catalog: Catalog, times: int = 1) -> None:
    for _ in range(times):
        with catalog.transaction() as transaction:
            transaction.sequence.next()


def files_of(file: Path, to: Path) -> Path:
    """Copy the files of a catalog that a process has open, as a crash leaves the files."""
    to.mkdir()
    for each in file.parent.glob(f"{file.name}*"):
        shutil.copyfile(each, to / each.name)
    return to / file.name


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite"


@pytest.mark.parametrize("shared_memory", ["kept", "gone"])
@pytest.mark.parametrize(("between", "after"), [(1, 1), (1, 5), (7, 1), (40, 40)])
def test_an_older_file_beside_a_newer_log_is_refused(
    file: Path, tmp_path: Path, between: int, after: int, shared_memory: str
) -> None:
    with opened(file) as catalog:
        write(catalog)
    shutil.copyfile(file, tmp_path / "backup")
    with opened(file) as catalog:
        write(catalog, between)
    with opened(file) as catalog:
        write(catalog, after)
        crashed = files_of(file, tmp_path / "crashed")
    shutil.copyfile(tmp_path / "backup", crashed)
    if shared_memory == "gone":
        crashed.with_name("catalog.sqlite-shm").unlink(missing_ok=True)
    with pytest.raises(StoreMismatch, match="was replaced by an older one") as caught:
        opened(crashed)
    assert "catalog.sqlite-wal" in (caught.value.hint or "")
    assert crashed.with_name("catalog.sqlite-wal").stat().st_size > 0
    for name in ("catalog.sqlite-wal", "catalog.sqlite-shm"):
        crashed.with_name(name).unlink(missing_ok=True)
    with opened(crashed) as catalog:
        write(catalog)


def test_log_that_belongs_to_its_file_is_accepted(file: Path, tmp_path: Path) -> None:
    """The log of a crash may be written into the file partly or wholly, restarted, or untouched."""
    numbers = random.Random(7)
    for crash in range(12):
        with opened(file) as catalog:
            for _ in range(numbers.randrange(1, 9)):
                write(catalog, numbers.randrange(1, 4))
                if numbers.randrange(3) == 0:
                    catalog._database.empty_log()
            crashed = files_of(file, tmp_path / f"crash{crash}")
        with opened(crashed) as catalog:
            write(catalog)
        file = crashed


def test_a_transaction_that_changes_nothing_writes_nothing(file: Path) -> None:
    with opened(file) as catalog:
        write(catalog)
        log = file.with_name("catalog.sqlite-wal")
        before = log.stat().st_size
        with catalog.transaction() as transaction:
            transaction.sequence.last()
        assert log.stat().st_size == before


@pytest.mark.parametrize("content", [b"", b"\0" * 20, b"\0" * 4096, random.Random(1).randbytes(300)])
def test_invalid_log_is_left_to_sqlite(file: Path, content: bytes) -> None:
    with opened(file) as catalog:
        write(catalog)
    file.with_name("catalog.sqlite-wal").write_bytes(content)
    check_log_matches(file)
    file.unlink()
    check_log_matches(file)
