"""Make a managed disk of a stored disk and the overlay of its writes.

The new disk is ingested into the slot of the base, with the base as the first base of the ingest. Pieces without a changed
block are neither read nor sent (invariant I19).
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.disks.block_device import BlockDevice
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.errors import Conflict, NotFound
from imgstore.domain.identity.access import Action, Principal, authorize
from imgstore.domain.names import ComputeId, parse_image_reference
from imgstore.domain.requests import DiskRequest
from imgstore.domain.resources import DiskKind, ManagedDisk, OsProperties
from imgstore.domain.states import ProvisioningState
from imgstore.operations import lookup
from imgstore.operations.activity_log import record_activity
from imgstore.operations.disks.export import PinnedDisk, list_alternative_slots, pin_manifest
from imgstore.operations.disks.from_source import Origin, make_disks_of_readers
from imgstore.operations.disks.lazy import open_pinned
from imgstore.operations.disks.placement import choose_readable_slot
from imgstore.operations.disks.sources import COPYABLE_KINDS, list_candidate_ids
from imgstore.operations.gallery.groups import permit_group
from imgstore.operations.gallery.sharing import admit_reader
from imgstore.operations.installation import Installation
from imgstore.operations.slots.completion import version_party
from imgstore.operations.slots.references import disk_party
from imgstore.policy.os_compatibility import inherit_declared
from imgstore.transfer.overlay.device import OverlayDevice
from imgstore.transfer.overlay.journal import OverlayBase
from imgstore.transfer.overlay.overlaid_disk import OverlaidDisk
from imgstore.transfer.overlay.overlay import Overlay, open_overlay, read_overlay_base
from imgstore.transfer.overlay.qcow2_file import copy_changes, read_qcow2_base


def commit_disk(installation: Installation, principal: Principal, request: DiskRequest) -> ManagedDisk:
    """Create a managed disk of the overlay at the path `request.source` and of its base.

    The same call after a completed call does nothing. After an interrupted call, the same call resumes.

    Raises:
        NotFound: the folder has no overlay, or the base was deleted.
        AccessDenied: the principal may not create the disk, or may not read the base.
        WorkHeld: a process serves the overlay.
        PropertyChangeNotAllowed: the disk exists with other content, or in another region.
        StoreError: the ingest failed. The same call resumes the ingest.
    """
    names.check_disk_name(request.name, request.kind.noun)
    scope = names.compute_id(installation.subscription, request.group, request.kind, request.name)
    permit_group(installation, principal, request.group)
    with (
        record_activity(installation, principal, Action.WRITE, scope),
        open_overlaid_disk(installation, principal, Path(request.source)) as opened,
    ):
        key = opened.origin.slot.key
        wanted = replace(
            request,
            location=request.location or key.region,
            storage_account_type=request.storage_account_type or key.storage_account_type,
            os_properties=inherit_declared(opened.os_properties, request.os_properties),
        )
        readers = {wanted.disk_key: opened.reader}
        return make_disks_of_readers(installation, principal, [wanted], readers, origin=opened.origin)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedOverlay:
    """An overlay and its base, opened for a commit."""

    reader: OverlaidDisk
    origin: Origin
    """The pinned manifest of the base."""
    os_properties: OsProperties
    """The OS properties of the base."""


@contextmanager
def open_overlaid_disk(installation: Installation, principal: Principal, changes: Path) -> Iterator[OpenedOverlay]:
    """Pin the base of an overlay, and lock and open the overlay, until the block ends.

    Args:
        installation: the installation.
        principal: the caller, who needs the right to read the base.
        changes: the folder of an overlay, or a qcow2 file of `imgstore disk attach --qcow2`.

    Raises:
        NotFound: the folder has no overlay, or the base was deleted.
        Conflict: the base was replaced by other content.
        AccessDenied: the principal may not read the base.
        WorkHeld: a process serves the overlay.
        StoreError: no slot delivers the manifest of the base.
    """
    base = read_base(changes)
    _authorize_base(installation, principal, base)
    with installation.catalog.transaction() as transaction:
        pinned, os_properties = _pin_base(installation, principal, transaction, base)
    with (
        open_pinned(installation, pinned, outage_seconds=0) as device,
        _open_changes(installation, changes, base, device) as overlay,
    ):
        yield OpenedOverlay(
            reader=OverlaidDisk(device.manifest, pinned.manifest.digest, device, overlay, os.path.realpath(changes)),
            origin=Origin(slot=pinned.slot, manifest_digest=pinned.manifest.digest),
            os_properties=os_properties,
        )


def read_base(changes: Path) -> OverlayBase:
    """Return the base of the overlay in a folder, or of a qcow2 file.

    Raises:
        NotFound: the folder has no overlay.
        InvalidInput: the file or the folder is no overlay.
    """
    return read_qcow2_base(changes) if changes.is_file() else read_overlay_base(changes)


@contextmanager
def _open_changes(
    installation: Installation, changes: Path, base: OverlayBase, device: BlockDevice
) -> Iterator[Overlay]:
    """Open the overlay in a folder, or copy the changes of a qcow2 file into an overlay in the scratch folder."""
    if not changes.is_file():
        with closing(open_overlay(changes, base, effects=installation.effects)) as overlay:
            yield overlay
        return
    with tempfile.TemporaryDirectory(dir=installation.scratch) as folder:
        installation.check_scratch(Path(folder), changes.stat().st_size)
        with closing(open_overlay(Path(folder), base, effects=installation.effects)) as overlay:
            copy_changes(changes, OverlayDevice(device, overlay))
            yield overlay


def _authorize_base(installation: Installation, principal: Principal, base: OverlayBase) -> None:
    """Check the right to read the bytes of the base. The base need not exist."""
    if ComputeId.parse(base.location) is None:
        admit_reader(installation, principal, parse_image_reference(base.location))
        return
    for each in list_candidate_ids(installation, "", base.location, COPYABLE_KINDS):
        authorize(principal, Action.EXPORT, each.resource_id)


def _pin_base(
    installation: Installation, principal: Principal, transaction: Transaction, base: OverlayBase
) -> tuple[PinnedDisk, OsProperties]:
    """Find and pin the manifest of the base. Also return the OS properties of the base.

    Raises:
        NotFound: the base was deleted.
        Conflict: the base has other content than at the first write.
    """
    named = ComputeId.parse(base.location)
    if named is None:
        found = _find_version(installation, principal, transaction, base)
    else:
        found = _find_disk(installation, transaction, named)
    if found is None:
        raise NotFound(
            f"The base of the overlay was deleted: {base.location}.",
            found="no disk, snapshot or version of that name",
            expected=f"the disk with the disk digest {base.disk_digest.hex()}",
            hint="the overlay has the changed blocks only, and cannot be used without its base",
            target=base.location,
        )
    digest = found[0].manifest.disk_digest
    if digest != base.disk_digest:
        raise Conflict(
            f"The base of the overlay has other content now: {base.location}.",
            found=f"disk digest {digest.hex()}",
            expected=f"disk digest {base.disk_digest.hex()}",
            hint="another disk or version got the name; the overlay cannot be used without its base",
            target=base.location,
        )
    return found


def _find_disk(
    installation: Installation, transaction: Transaction, named: ComputeId
) -> tuple[PinnedDisk, OsProperties] | None:
    disk = transaction.disks.get(named.subscription, named.group, named.name, DiskKind(named.kind))
    if disk is None or disk.provisioning_state is not ProvisioningState.SUCCEEDED:
        return None
    manifest = transaction.manifests.find(disk.uid, disk.slot.uid, OS_DISK)
    assert manifest is not None, "a disk in state Succeeded has a manifest"
    pinned = PinnedDisk(
        source=disk.resource_id,
        owner_uid=disk.uid,
        slot=disk.slot,
        manifest=manifest,
        others=list_alternative_slots(transaction, disk.source_version_uid, disk.slot),
        lease=pin_manifest(installation, disk.slot, disk.uid, manifest, transaction),
        party=disk_party(disk),
    )
    return pinned, disk.os_properties


def _find_version(
    installation: Installation, principal: Principal, transaction: Transaction, base: OverlayBase
) -> tuple[PinnedDisk, OsProperties] | None:
    reference = admit_reader(installation, principal, parse_image_reference(base.location))
    offer, slot = choose_readable_slot(installation, transaction, reference, base.region)
    manifest = transaction.manifests.find(offer.version_uid, slot.uid, base.disk_key)
    if manifest is None:
        return None
    version = transaction.versions.by_uid(offer.version_uid)
    pinned = PinnedDisk(
        source=offer.source,
        owner_uid=offer.version_uid,
        slot=slot,
        manifest=manifest,
        others=list_alternative_slots(transaction, offer.version_uid, slot),
        lease=pin_manifest(installation, slot, offer.version_uid, manifest, transaction),
        party=version_party(lookup.definition_path_of(transaction, version), version),
    )
    return pinned, offer.os_properties
