"""Back up the catalog and the files of a home into one file, while servers and workers run (invariant K4).

Unfinished uploads are copied before the catalog. If an upload ends in between, the catalog has the finished disk, and
the copied upload is removed as a leftover. In the opposite order, the catalog would wait for an upload without bytes.
"""

import importlib.resources
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import imgstore
from imgstore.domain.host.os_errors import translate_host_faults
from imgstore.domain.host.private_files import FILE_MODE
from imgstore.domain.identity.access import INSTALLATION, Action, Principal
from imgstore.domain.storage.sizes import MIB
from imgstore.formats.files.atomic_file import PendingFile
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation
from imgstore.operations.recovery.backup_file import (
    CATALOG_FILES,
    Backup,
    BackupDescription,
    BackupWriter,
    is_known_member,
    open_backup,
    upload_member,
)
from imgstore.operations.recovery.byte_progress import ByteProgress
from imgstore.operations.shared_settings import SETTINGS_FILE
from imgstore.transfer.spool import uploads_folder
from imgstore.transfer.spool_journal import DATA_FILE, JOURNAL_FILE
from imgstore.transfer.spool_snapshot import SpoolSnapshot, open_snapshot

TLS_FOLDER: Final = "tls"
NEW_SUFFIX: Final = ".new"
"""The suffix of a file of the folder `tls` that is being written."""
REGIONS_FILE: Final = "regions.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    """The result of a backup."""

    backup: Backup
    file_bytes: int


def backup_catalog(
    installation: Installation, principal: Principal, path: Path, *, overwrite: bool = False
) -> BackupReport:
    """Write a backup into a new file, with mode 0600, and check the file before the file appears.

    Args:
        installation: the installation. Other processes may use and change the installation.
        principal: the operator.
        path: the new file, or a folder that gets a file with a name from installation and time.
        overwrite: whether an existing file may be replaced. The former file stays until the new file is complete.

    Raises:
        OutputError: the file exists, or cannot be written.
        ToolMissing: PostgreSQL's programs are missing or older than the server.
        StoreError: the catalog cannot be read.
        ObjectCorrupt: the copy of the catalog is damaged, or the written file does not have the written bytes.
    """
    with record_activity(
        installation, principal, Action.ADMINISTER, INSTALLATION, "imgstore/catalog/backup", about=str(path)
    ):
        target = path / _file_name(installation) if path.is_dir() else path
        pending = PendingFile(target, overwrite=overwrite, read_soon=True, mode=FILE_MODE, effects=installation.effects)
        try:
            with translate_host_faults():
                _write(installation, BackupWriter(pending))
            backup = open_backup(pending.temporary, installation.subscriber)
            file_bytes = pending.publish()
        finally:
            pending.discard()
        return BackupReport(backup=replace(backup, path=pending.path), file_bytes=file_bytes)


def _file_name(installation: Installation) -> str:
    return f"imgstore-{installation.uid[:8]}-{installation.effects.now():%Y%m%dT%H%M%SZ}.tar"


def _write(installation: Installation, writer: BackupWriter) -> None:
    for name, content in _home_files(installation):
        writer.add(name, len(content), [content])
    copied = ByteProgress(installation.subscriber, "uploads and catalog")
    for uid, snapshot in _open_uploads(installation):
        with closing(snapshot):
            copied.extend(snapshot.data_bytes)
            writer.add(upload_member(uid, JOURNAL_FILE), len(snapshot.journal), [snapshot.journal])
            parts = copied.count(snapshot.read())
            writer.add_sparse(upload_member(uid, DATA_FILE), snapshot.file_bytes, snapshot.extents, parts)
    with installation.catalog.reading() as transaction:
        sequence = transaction.sequence.last()
    # A home with little free space can be backed up to another disk.
    has_space = installation.has_free_space(installation.catalog.file_bytes)
    place = installation.scratch if has_space else None
    with tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as folder:
        file, before = Path(folder) / "dump", copied.done
        dump = installation.catalog.dump(file, lambda done, total: copied.set(before + done, before + total))
        copied.end()
        with file.open("rb") as stream:
            writer.add(CATALOG_FILES[dump.engine], file.stat().st_size, iter(lambda: stream.read(MIB), b""))
    writer.end(
        BackupDescription(
            imgstore=imgstore.__version__,
            installation=installation.uid,
            created_at=installation.effects.now(),
            sequence=sequence,
            dump=dump,
        )
    )


def shipped_regions() -> bytes:
    """Return the regions document of the package."""
    return importlib.resources.files("imgstore").joinpath(REGIONS_FILE).read_bytes()


def _home_files(installation: Installation) -> Iterator[tuple[str, bytes]]:
    """Yield the name in the backup and the content of the small files."""
    yield REGIONS_FILE, Path(installation.regions.path).read_bytes()
    settings = installation.home / SETTINGS_FILE
    if settings.is_file():
        yield SETTINGS_FILE, settings.read_bytes()
    folder = installation.home / TLS_FOLDER
    for each in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = f"{TLS_FOLDER}/{each.name}"
        if is_known_member(name) and each.is_file() and each.suffix != NEW_SUFFIX:
            yield name, each.read_bytes()


def _open_uploads(installation: Installation) -> Iterator[tuple[str, SpoolSnapshot]]:
    top = uploads_folder(installation.home)
    for folder in sorted(top.iterdir()) if top.is_dir() else ():
        snapshot = open_snapshot(folder) if is_known_member(upload_member(folder.name, DATA_FILE)) else None
        if snapshot is not None:
            yield folder.name, snapshot
