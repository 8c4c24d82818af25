"""Compare a source with new marks (time stamp, inode, ETag) with the stored content (invariant W6)."""

from imgstore.domain.disks.sources import DiskReader, SourceIdentity
from imgstore.domain.errors import ImgstoreError, PropertyChangeNotAllowed, StoreError
from imgstore.domain.storage.digests import Digest
from imgstore.operations.disks.export import read_manifest
from imgstore.operations.installation import Installation
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.replication.slot_ingest import touched_bytes
from imgstore.segments.manifest import Manifest
from imgstore.transfer.content_check import find_difference
from imgstore.transfer.ingest import check_same_source


def check_same_content(
    installation: Installation,
    reader: DiskReader,
    *,
    owner_uid: str,
    disk_key: str,
    virtual_bytes: int,
    digest: Digest,
    path: str,
) -> SourceIdentity:
    """Read a source to its end, and check that the source has the content of a stored disk.

    The read ends at the first difference, if a slot delivers the manifest of the stored disk.

    Args:
        installation: the installation.
        reader: the opened source.
        owner_uid: the uid of the version or stored disk.
        disk_key: the disk key of the disk.
        virtual_bytes: the size of the stored disk.
        digest: the disk digest of the stored disk.
        path: the property of the source, for the error.

    Returns:
        The identity of the source that was read.

    Raises:
        PropertyChangeNotAllowed: the source has other content.
        SourceChanged: the source was replaced while it was read.
    """
    identity = reader.identity()
    stored = f"a disk of {virtual_bytes:,} bytes with the disk digest {digest.hex()}"
    if reader.virtual_bytes != virtual_bytes:
        raise _other_content(path, f"{identity.location}: a disk of {reader.virtual_bytes:,} bytes", stored)
    installation.note(
        identity.location,
        f"{identity.location}: the time stamp, inode or ETag changed since the ingest; the content is compared with "
        "the stored disk",
    )
    task = f"compare {identity.location.rsplit('/', 1)[-1]}"
    counter = ProgressCounter(installation, task, touched_bytes(reader))
    counter.begin()
    try:
        difference = find_difference(
            reader,
            digest,
            _read_manifest(installation, owner_uid, disk_key),
            on_moved=counter.add_bytes,
            check_cancelled=installation.keeper.check_cancelled,
        )
        check_same_source(reader, identity)
        if difference is not None:
            raise _other_content(path, f"{identity.location}: {difference}", stored)
    except ImgstoreError:
        counter.fail()
        raise
    counter.end()
    return identity


def check_recorded_source(
    path: str,
    present: SourceIdentity,
    recorded: SourceIdentity | None,
    *,
    location: str,
    verified: SourceIdentity | None,
    is_fixed: bool,
) -> None:
    """Check that a source is the recorded source of a disk, or may replace the recorded source.

    A source at the same location may change until the content of the disk is fixed (invariant W5). Afterwards, a source
    with another identity must have the stored content (invariant W6).

    Args:
        path: the property of the source, for the error.
        present: the identity of the source.
        recorded: the recorded identity. None if only the location is known.
        location: the recorded location.
        verified: the identity of a source with the stored content of the disk.
        is_fixed: whether the content of the disk is fixed.

    Raises:
        PropertyChangeNotAllowed: the source is another source.
    """
    if present in (recorded, verified) or (not is_fixed and present.location == location):
        return
    raise PropertyChangeNotAllowed(
        path,
        found=format_identity(present),
        expected=location if recorded is None else format_identity(recorded),
    )


def format_identity(identity: SourceIdentity) -> str:
    """Return the identity of a source, for errors."""
    return f"{identity.location} of {identity.file_bytes} bytes, stamp {identity.stamp}"


def note_changed_source(
    installation: Installation, task: str, present: SourceIdentity, recorded: SourceIdentity | None
) -> None:
    """Report that a source is read again, because it changed before the end of its ingest (invariant W5)."""
    if recorded is None or present == recorded:
        return
    text = "the source changed since the last run; the new content is ingested"
    if present.file_bytes == recorded.file_bytes:
        text = (
            f"the time stamp, inode or ETag of {present.location} changed since the last run; the source is read again, "
            "and stored segments are not sent again"
        )
    installation.note(task, text)


def _other_content(path: str, found: str, stored: str) -> PropertyChangeNotAllowed:
    return PropertyChangeNotAllowed(
        path,
        found=found,
        expected=f"{stored}, as ingested",
        hint="publish the new content under a new name or version, or restore the former file",
    )


def _read_manifest(installation: Installation, owner_uid: str, disk_key: str) -> Manifest | None:
    """Read the manifest of a stored disk. Return None if no slot delivers the manifest."""
    with installation.catalog.reading() as transaction:
        rows = [
            each
            for each in transaction.manifests.of_owner(owner_uid)
            if each.disk == disk_key and transaction.manifests.is_complete(each.uid)
        ]
        slots = {each.slot_uid: transaction.slots.get(each.slot_uid) for each in rows}
    for row in rows:
        try:
            return read_manifest(installation, slots[row.slot_uid], (), row)
        except StoreError:
            continue
    return None
