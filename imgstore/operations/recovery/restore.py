"""Restore a backup into an empty home and an empty database (invariant K4).

A mark in the home is written first and removed last, and a home with the mark is not opened. The same command continues
an interrupted restore. The catalog is the last part, because a home without a catalog serves nothing.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from shlex import quote
from typing import Final

from imgstore.catalog.recovery.catalog_dumps import (
    Engine,
    check_restorable,
    find_content,
    find_file,
    find_place,
    read_identity,
    restore_dump,
)
from imgstore.catalog.recovery.file_locks import hold_file, hold_lock_file, lock_path
from imgstore.catalog.recovery.postgresql_dumps import Program
from imgstore.catalog.recovery.sqlite_copies import check_sqlite
from imgstore.catalog.schema import REVISION
from imgstore.domain.errors import CatalogOutdated, Conflict, InvalidInput, ObjectCorrupt, StoreMismatch, WorkHeld
from imgstore.domain.host import file_systems
from imgstore.domain.host.file_systems import check_free_bytes, sync_folder
from imgstore.domain.host.os_errors import translate_host_faults
from imgstore.domain.host.private_files import make_private_folder, write_private_file
from imgstore.domain.identity.access import INSTALLATION, Action, Principal
from imgstore.domain.progress import Subscriber, ignore_event
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation
from imgstore.operations.recovery.backup import REGIONS_FILE, TLS_FOLDER, shipped_regions
from imgstore.operations.recovery.backup_file import Backup, hash_first_bytes, open_backup, upload_member
from imgstore.operations.recovery.byte_progress import ByteProgress
from imgstore.operations.recovery.restore_mark import mark_path, read_mark
from imgstore.operations.shared_settings import SETTINGS_FILE
from imgstore.operations.stores.catalog_checks import check_catalog_is_current
from imgstore.operations.stores.first_start import DATABASE_FILE, read_marked_folders
from imgstore.transfer.spool import spool_folder, uploads_folder
from imgstore.transfer.spool_journal import DATA_FILE, JOURNAL_FILE
from imgstore.transfer.spool_snapshot import write_snapshot

_KEPT: Final = frozenset(
    {"regions", "scratch", "lost+found", f"{DATABASE_FILE}.lock", lock_path(Path(DATABASE_FILE)).name}
)
"""The names that an empty home may have. The folder `regions` has the stored bytes of zones without an endpoint."""
_FOUND_MAX: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRequest:
    """The target of a restore."""

    file: Path
    """The backup."""
    home: Path
    database: str | None = None
    """The address of the database. None for SQLite in the home."""

    @property
    def url(self) -> str:
        """The address of the database, also for SQLite in the home."""
        return self.database or f"sqlite:///{self.home / DATABASE_FILE}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """The result of a restore."""

    backup: Backup
    place: str
    """The catalog, without a password."""
    regions_file: Path | None
    """The restored `regions.yaml`, if it differs from the document of the package."""


def restore_backup(request: RestoreRequest, subscriber: Subscriber = ignore_event) -> RestoreReport:
    """Restore a backup. After an interruption, the same call continues.

    The user of the operating system needs no role, because the roles are in the backup.

    Raises:
        InvalidInput: the file is no backup, or has a newer schema, or the database has another engine.
        ObjectCorrupt: the file is damaged. Nothing was written.
        Conflict: the home or the database is not empty, or another process restores into the home or the database.
        StoreMismatch: the regions in the home belong to another installation.
        StoreError: the database refused, or no space is left.
    """
    request = replace(request, home=request.home.absolute(), file=request.file.absolute())
    backup = open_backup(request.file, subscriber)
    _check_revision(backup)
    file = _choose_file(backup, request)
    mark = {"digest": backup.digest, "file": str(request.file), "place": find_place(request.url)}
    with translate_host_faults(), _hold_home(request.home) as descriptor:
        with nullcontext() if file is None else hold_file(file):
            is_resumed, program = _begin(request, backup, file, descriptor, mark)
            progress = ByteProgress(subscriber, "restore", sum(each.stored_bytes for each in backup.members.values()))
            regions_file = _restore_files(backup, request.home, progress)
            if file is not None:
                _restore_sqlite(backup, file, progress)
            elif program is not None and not (is_resumed and find_content(request.url)):
                restore_dump(request.url, backup.description.dump, program, progress.count(backup.read(backup.catalog)))
            progress.end()
        # The lock of the catalog is gone before the mark, so that a killed restore leaves no file without a mark.
        sync_folder(request.home)
        mark_path(request.home).unlink()
        sync_folder(request.home)
    return RestoreReport(backup=backup, place=mark["place"], regions_file=regions_file)


def record_restore(installation: Installation, principal: Principal, created_at: datetime) -> str | None:
    """Record a restore in the activity log of the restored catalog, and compare the catalog with its buckets.

    Args:
        installation: the restored installation.
        principal: the operator.
        created_at: the time of the backup.

    Returns:
        The evidence that the buckets are newer than the catalog, or None.

    Raises:
        StoreMismatch: zones belong to another installation.
        StoreError: the catalog cannot be read.
    """
    about = f"backup of {created_at:%Y-%m-%d %H:%M:%S} UTC"
    with record_activity(
        installation, principal, Action.ADMINISTER, INSTALLATION, "imgstore/catalog/restore", about=about
    ):
        foreign = {
            zone: uid for zone, uid in installation.locator.read_marked_zones().items() if uid != installation.uid
        }
        if foreign:
            raise _foreign_zones_error(foreign, installation.uid)
        try:
            check_catalog_is_current(installation, also_unrecorded=True)
        except CatalogOutdated as error:
            return error.found
    return None


def _check_revision(backup: Backup) -> None:
    dump = backup.description.dump
    if not dump.oldest_code.isdecimal() or dump.oldest_code > REVISION:
        raise InvalidInput(
            f"The backup {backup.path} has a catalog that this imgstore does not know.",
            found=f"revision {dump.revision} for code of revision {dump.oldest_code} or newer, written by imgstore {backup.description.imgstore}",
            expected=f"a catalog for code of revision {REVISION}, which this imgstore has",
            hint="restore with the version of imgstore that wrote the backup, or with a newer version",
            target=str(backup.path),
        )


def _choose_file(backup: Backup, request: RestoreRequest) -> Path | None:
    """Return the file of an SQLite catalog, or None for PostgreSQL."""
    file = find_file(request.url)
    is_sqlite = file is not None
    if is_sqlite is not (backup.description.dump.engine is Engine.SQLITE):
        raise InvalidInput(
            "The backup cannot be restored into a database of another engine.",
            found=f"a backup of {backup.description.dump.engine}, and {'SQLite' if is_sqlite else 'PostgreSQL'} as target",
            expected=f"a database of the engine {backup.description.dump.engine}",
            hint="name an empty PostgreSQL database with --database"
            if is_sqlite
            else "restore without --database, then run `imgstore catalog copy --to` with the address of the database",
            target="database",
        )
    return file


@contextmanager
def _hold_home(home: Path) -> Iterator[int]:
    """Hold the lock on the mark of a home, and yield its descriptor. An empty mark is removed."""
    make_private_folder(home)
    with hold_lock_file(mark_path(home), _busy_error(home)) as descriptor:
        try:
            yield descriptor
        finally:
            if not os.fstat(descriptor).st_size:
                mark_path(home).unlink(missing_ok=True)


def _begin(
    request: RestoreRequest, backup: Backup, file: Path | None, descriptor: int, mark: dict[str, str]
) -> tuple[bool, Program | None]:
    """Check the target, and write the mark.

    Returns:
        Whether an interrupted restore continues, and the program that restores into PostgreSQL.
    """
    home = request.home
    program: Program | None = None
    found = read_mark(home)
    if found is None:
        _check_home(home)
    elif found["digest"] not in {"", backup.digest} or found.get("place", mark["place"]) != mark["place"]:
        raise Conflict(
            f"The home {home} has an interrupted restore of another backup or into another database.",
            found=f"a restore of {found['file']}",
            expected="the same backup and the same options",
            hint=f"run `imgstore catalog restore {quote(found['file'])}` with the former options, or name an empty home",
            target=str(home),
        )
    _check_owner(home, backup)
    if file is not None:
        _check_file(file, backup, is_resumed=found is not None)
    else:
        program = check_restorable(request.url, backup.description.dump)
        _check_database(request.url, mark["place"], backup, is_resumed=found is not None)
    _check_space(home, backup, file)
    text = json.dumps(mark).encode()
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))
    os.fsync(descriptor)
    sync_folder(home)
    if found is not None:
        _remove_leftovers(home)
    return found is not None, program


def _check_home(home: Path) -> None:
    """Refuse a home with files of an installation, apart from stored bytes."""
    empty = {home / DATABASE_FILE, home / TLS_FOLDER, uploads_folder(home)}
    found = [
        each.name
        for each in sorted(home.iterdir())
        if each.name not in _KEPT and each != mark_path(home) and not (each in empty and _is_empty(each))
    ]
    if found:
        names = ", ".join(found[:_FOUND_MAX]) + (
            f" and {len(found) - _FOUND_MAX} more" if len(found) > _FOUND_MAX else ""
        )
        raise Conflict(
            f"The home {home} is not empty, and nothing was written.",
            found=names,
            expected="an empty folder. The folder `regions` with stored bytes may exist",
            hint="move these files to another folder and keep `regions`, or name an empty folder with --home. If an earlier run of "
            "this restore was interrupted after its last step, the home is complete",
            target=str(home),
        )


def _is_empty(path: Path) -> bool:
    return not any(path.iterdir()) if path.is_dir() else not path.stat().st_size


def _check_space(home: Path, backup: Backup, file: Path | None) -> None:
    """Refuse file systems without space for the files of the home and an SQLite catalog."""
    catalog_bytes = backup.catalog.stored_bytes
    needed = Counter({home: sum(each.stored_bytes for each in backup.members.values()) - catalog_bytes})
    if file is not None:
        needed[home if home.stat().st_dev == file.parent.stat().st_dev else file.parent] += catalog_bytes
    for folder, needed_bytes in needed.items():
        check_free_bytes(folder, needed_bytes)


def _check_owner(home: Path, backup: Backup) -> None:
    uid = backup.description.installation
    foreign = {zone: owner for zone, owner in read_marked_folders(home).items() if owner != uid}
    if foreign:
        raise _foreign_zones_error(foreign, uid)


def _foreign_zones_error(foreign: dict[str, str], uid: str) -> StoreMismatch:
    zone, owner = next(iter(foreign.items()))
    return StoreMismatch(
        "The zones belong to another installation than the backup.",
        found=f"{zone} of installation {owner}" + (f", and {len(foreign) - 1} more zones" if len(foreign) > 1 else ""),
        expected=f"zones of installation {uid}, or zones without a mark",
        hint="restore the backup of that installation, or name another home (--home) and other buckets (--regions)",
        target=zone,
    )


def _check_file(file: Path, backup: Backup, *, is_resumed: bool) -> None:
    for each in (file, file.with_name(f"{file.name}-wal")):
        is_present = each.exists() and each.stat().st_size
        if is_present and not (is_resumed and each == file and _hash_file(file) == backup.catalog.blake3):
            raise Conflict(
                f"The catalog {file} exists, and was not replaced.",
                found=f"{each.name} with {each.stat().st_size} bytes",
                expected="no catalog",
                hint=f"move {each} to another folder, or name another catalog with --home or --database",
                target=str(file),
            )


def _hash_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hash_first_bytes(stream.fileno(), os.fstat(stream.fileno()).st_size)


def _check_database(url: str, place: str, backup: Backup, *, is_resumed: bool) -> None:
    tables = find_content(url)
    if not tables:
        return
    if is_resumed:
        identity = read_identity(url)
        if identity is not None and identity[1] == backup.description.installation:
            return  # The interrupted restore had committed.
    shown = ", ".join(tables[:_FOUND_MAX])
    raise Conflict(
        f"The database {place} is not empty, and nothing was written.",
        found=f"{len(tables)} tables: {shown}{', ...' if len(tables) > _FOUND_MAX else ''}",
        expected="a database without tables",
        hint="create an empty database (`createdb`), and name the database with --database",
        target=place,
    )


def _remove_leftovers(home: Path) -> None:
    """Remove the files of an interrupted restore. The home was empty before."""
    for folder in (home / TLS_FOLDER, uploads_folder(home)):
        shutil.rmtree(folder, ignore_errors=True)
    for name in (SETTINGS_FILE, REGIONS_FILE):
        (home / name).unlink(missing_ok=True)


def _restore_files(backup: Backup, home: Path, progress: ByteProgress) -> Path | None:
    """Restore the files of a home. Return `regions.yaml`, unless the package has the same document."""
    regions_file = None
    for member in backup.members.values():
        if member.upload_uid is not None or member == backup.catalog:
            continue
        content = b"".join(progress.count(backup.read(member)))
        if member.name == REGIONS_FILE and content == shipped_regions():
            continue
        path = home / member.name
        make_private_folder(path.parent)
        write_private_file(path, [content])
        sync_folder(path.parent)
        if member.name == REGIONS_FILE:
            regions_file = path
    for uid in backup.upload_uids:
        journal, data = (backup.members[upload_member(uid, name)] for name in (JOURNAL_FILE, DATA_FILE))
        write_snapshot(
            spool_folder(home, uid),
            b"".join(progress.count(backup.read(journal))),
            data.file_bytes,
            data.extents or (),
            progress.count(backup.read(data)),
        )
    return regions_file


def _restore_sqlite(backup: Backup, file: Path, progress: ByteProgress) -> None:
    """Restore and check an SQLite catalog under a temporary name, then give it the final name."""
    temporary = file.with_name(f".{file.name}.restore")
    temporary.unlink(missing_ok=True)  # A killed restore may leave the second name of the published catalog.
    # A server that a service manager starts again and again may have made a catalog since the first check.
    _check_file(file, backup, is_resumed=True)
    if file.exists() and file.stat().st_size:
        return
    make_private_folder(file.parent)
    write_private_file(temporary, progress.count(backup.read(backup.catalog)))
    found = check_sqlite(temporary)
    expected = (backup.description.dump.revision, backup.description.installation)
    if found != expected:
        temporary.unlink()
        raise ObjectCorrupt(
            f"The catalog in {backup.path} is not the catalog of the backup's manifest.",
            found=f"revision {found[0]} of installation {found[1]}",
            expected=f"revision {expected[0]} of installation {expected[1]}",
            hint="use another backup",
            target=str(backup.path),
        )
    file.unlink(missing_ok=True)  # An empty file of a lost catalog.
    file_systems.publish(temporary, file)
    sync_folder(file.parent)


def _busy_error(home: Path) -> WorkHeld:
    return WorkHeld(
        f"Another process restores into the home {home}.",
        found="a locked mark of a restore",
        expected="one restore at a time",
        hint="wait for the other process to end, then run the command again",
        target=str(home),
    )
