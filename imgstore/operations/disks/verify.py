"""Compare a file with an image version by piece digests, without reading segments, and inspect image files."""

import tempfile
from pathlib import Path

from imgstore.domain import names
from imgstore.domain.disks.sources import DiskFormat, DiskReader
from imgstore.domain.disks.version_disks import check_has_disk, disk_key
from imgstore.domain.errors import ImageNotAvailable
from imgstore.domain.identity.access import Action, Principal, authorize
from imgstore.domain.names import ImageReference
from imgstore.domain.reports import Verification
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.digests import Digest, disk_digest
from imgstore.domain.storage.sizes import PIECE_BYTES
from imgstore.formats import Inspection, LocalFile, inspect_image, open_disk
from imgstore.operations import lookup
from imgstore.operations.disks.export import read_manifest
from imgstore.operations.disks.placement import check_subscription, find_named_version
from imgstore.operations.installation import Installation
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.replication.slot_ingest import touched_bytes
from imgstore.segments.manifest import Manifest
from imgstore.transfer.content_check import read_pieces


def verify_file(
    installation: Installation,
    principal: Principal,
    *,
    path: Path,
    reference: ImageReference,
    lun: int | None = None,
    location: str | None = None,
    source_format: DiskFormat | None = None,
) -> Verification:
    """Compare the disk in a file of any supported format with a disk of an image version.

    Args:
        installation: the installation.
        principal: the caller.
        path: the file.
        reference: the image.
        lun: the LUN of a data disk. None means the OS disk.
        location: the region. None means the region of the gallery.
        source_format: the format of the file. None detects the format.

    Raises:
        ImageNotAvailable: the version does not exist, has no such disk, or is complete in no region.
        ImageRefused: the file can't be read.
    """
    check_subscription(installation, reference)
    scope = names.definition_id(installation.subscription, reference.group, reference.gallery, reference.definition)
    authorize(principal, Action.READ, scope)
    with installation.catalog.reading() as transaction:
        definition_path = lookup.find_definition_path(
            transaction, installation.subscription, reference.group, reference.gallery, reference.definition
        )
        region = installation.regions.get(location or definition_path.gallery.location, target="location").name
        version = find_named_version(installation, transaction, definition_path, reference, region)
        check_has_disk(version.disk_keys, disk_key(lun), definition_path.version_id(version.name))
        complete = [
            each.slot for each in transaction.replicas.list(version.uid) if each.state is ReplicaState.COMPLETED
        ]
        complete.sort(key=lambda slot: slot.key.region != region)
        row = transaction.manifests.find(version.uid, complete[0].uid, disk_key(lun)) if complete else None
    if row is None:
        raise ImageNotAvailable(
            f"The gallery image {definition_path.version_id(version.name)} is complete in no region.",
            found="no complete replica",
            expected="at least one complete replica",
            hint="repeat `imgstore sig image-version create`, which resumes the creation",
            target="image",
        )
    with installation.catalog.discarding_writes():
        manifest = read_manifest(installation, complete[0], complete[1:], row)
    source = LocalFile(path)
    try:
        reader = open_disk(source, format=source_format, scratch=installation.scratch)
        try:
            digest, first = _compare(installation, reader, manifest, f"verify {path.name}")
            virtual_bytes = reader.virtual_bytes
        finally:
            reader.close()
    finally:
        source.close()
    return Verification(
        matches=digest == manifest.disk_digest,
        path=path,
        image=definition_path.version_id(version.name),
        file_disk_digest=digest,
        image_disk_digest=manifest.disk_digest,
        file_virtual_bytes=virtual_bytes,
        image_virtual_bytes=manifest.virtual_bytes,
        first_difference=first,
    )


def _compare(
    installation: Installation, reader: DiskReader, manifest: Manifest, task: str
) -> tuple[Digest, int | None]:
    """Return the disk digest of the file, and the offset of the first different piece.

    The offset is None if no piece differs or if the sizes differ.
    """
    counter = ProgressCounter(installation, task, touched_bytes(reader))
    counter.begin()
    read = read_pieces(reader, counter.add_bytes, installation.keeper.check_cancelled)
    pieces = [(each.index, each.digest) for each in read if each.data]
    counter.end()
    differing = set(pieces) ^ set(manifest.pieces.items())
    same_size = reader.virtual_bytes == manifest.virtual_bytes
    first = min((index for index, _ in differing), default=None) if same_size else None
    return disk_digest(reader.virtual_bytes, pieces), None if first is None else first * PIECE_BYTES


def inspect_file(path: Path, *, source_format: DiskFormat | None = None) -> Inspection:
    """Inspect an image file: the format, the acceptance by Azure, and the result of each safety check.

    Raises:
        ImgstoreError: the file can't be read. A damaged image raises no error, but fails checks.
    """
    source = LocalFile(path)
    try:
        with tempfile.TemporaryDirectory(prefix="imgstore-") as scratch:
            return inspect_image(source, format=source_format, scratch=Path(scratch))
    finally:
        source.close()
