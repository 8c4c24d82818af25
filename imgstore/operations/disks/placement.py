"""Select the image version and the replica for a new disk, and recommend more replicas if necessary."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.disks.image_offers import ImageOffer
from imgstore.domain.errors import ImageNotAvailable
from imgstore.domain.names import ImageReference, VersionName
from imgstore.domain.resources import (
    ImageVersion,
    ManagedDisk,
    Slot,
)
from imgstore.domain.states import ReplicaState
from imgstore.domain.views import DefinitionPath
from imgstore.operations import lookup
from imgstore.operations.installation import Installation
from imgstore.policy.replica_advice import CONCURRENT_WINDOW, scaling_advice
from imgstore.policy.selection import find_latest, healthy_replicas, next_slot


def advise_replicas(installation: Installation, disk: ManagedDisk) -> None:
    """Note a recommendation for more replicas if many disks of a version were created in the region at the same time.

    The creation times come from the clocks of the processes that made the disks. A wrong clock only spoils the advice.
    """
    per_replica, version_uid = installation.limits.machines_per_replica, disk.source_version_uid
    assert version_uid is not None, "the disk was just made from an image version"
    with installation.catalog.reading() as transaction:
        since = installation.effects.now() - CONCURRENT_WINDOW
        machines = transaction.disks.count_created(version_uid, disk.location, since=since)
        if machines <= per_replica:
            return  # A single replica is enough, and exists.
        replicas = healthy_replicas(transaction.replicas.in_region(version_uid, disk.location), disk.location)
    where = installation.regions.get(disk.location).display_name
    advice = scaling_advice(machines, len(replicas), per_replica, where=where)
    if advice is not None:
        installation.note(disk.name, advice)


_VERSIONS_AT_ONCE: Final = 16
"""The number of versions in a read for the latest version. So many versions are rarely excluded or being deleted."""


def check_subscription(installation: Installation, reference: ImageReference) -> None:
    """Check that a reference is in the subscription of the installation.

    Raises:
        ImageNotAvailable: the reference names another subscription.
    """
    if reference.subscription not in (None, installation.subscription):
        raise ImageNotAvailable(
            f"The gallery image {reference} belongs to another subscription.",
            found=f"subscription {reference.subscription}",
            expected=f"subscription {installation.subscription}",
            hint="use --subscription, or a reference to an image of this subscription",
            target="galleryImageReference",
        )


def choose_slot(
    installation: Installation, transaction: Transaction, reference: ImageReference, region: str
) -> tuple[ImageOffer, Slot]:
    """Find the version of a reference and the next slot of the round robin. The transaction advances the counter.

    Raises:
        ImageNotAvailable: the version does not exist or is not complete in the region.
    """
    offer = find_offer(installation, transaction, reference, region)
    return offer, next_slot(
        transaction.placements.advance_counter(offer.version_uid, region), installation.prefer_responsive(offer.slots)
    )


def choose_readable_slot(
    installation: Installation, transaction: Transaction, reference: ImageReference, region: str
) -> tuple[ImageOffer, Slot]:
    """Find the version of a reference for an export, and choose a slot of the region.

    A named version without a complete replica in the region is read from a Degraded replica: an export verifies each
    piece, so an intact disk of the version is served (invariant W15).

    Raises:
        ImageNotAvailable: the version does not exist, or has neither a complete nor a Degraded replica in the region.
    """
    try:
        return choose_slot(installation, transaction, reference, region)
    except ImageNotAvailable:
        offer = find_degraded_offer(installation, transaction, reference, region)
        if offer is None:
            raise
        return offer, installation.prefer_responsive(offer.slots)[0]


def find_degraded_offer(
    installation: Installation, transaction: Transaction, reference: ImageReference, region: str
) -> ImageOffer | None:
    """Find the named version of a reference, with the slots of its Degraded replicas in a region.

    A replica whose restore runs is Replicating, and counts as Degraded. Return None if the reference names no version, or
    if there is no such replica.

    Raises:
        ImageNotAvailable: the version does not exist.
    """
    if reference.version is None:
        return None
    definition_path = lookup.find_referenced_definition(transaction, installation.subscription, reference)
    version = find_named_version(installation, transaction, definition_path, reference, region)
    replicas = transaction.replicas.in_region(version.uid, region)
    slots = tuple(
        each.slot
        for each in replicas
        if each.state is ReplicaState.DEGRADED
        or (each.state is ReplicaState.REPLICATING and each.completed_at is not None)
    )
    return make_offer(definition_path, version, reference, slots) if slots else None


def make_offer(
    definition_path: DefinitionPath, version: ImageVersion, reference: ImageReference, slots: Sequence[Slot]
) -> ImageOffer:
    """Return a version as a source of disks, with slots that have its content."""
    definition = definition_path.definition
    return ImageOffer(
        source=reference.display_id(definition_path.version_id(version.name)),
        version_uid=version.uid,
        definition=definition.name,
        os_state=definition.os_state,
        os_properties=definition.os_properties,
        disallowed_disk_types=definition.disallowed_disk_types,
        disks=version.disks,
        slots=tuple(slots),
    )


def find_offer(
    installation: Installation, transaction: Transaction, reference: ImageReference, region: str
) -> ImageOffer:
    """Find the version of a reference and the complete slots of the version in a region.

    A single query is enough for a named version that is complete.

    Raises:
        ImageNotAvailable: the version does not exist or is not complete in the region.
    """
    subscription = reference.subscription or installation.subscription
    names_above = (subscription, reference.group, reference.gallery, reference.definition)
    if reference.version is not None:
        found = transaction.offers.find(*names_above, reference.version, region)
        if found is not None:
            return replace(found, source=reference.display_id(found.source)) if reference.shared else found
    definition_path = lookup.find_referenced_definition(transaction, installation.subscription, reference)
    name = find_named_version(installation, transaction, definition_path, reference, region).name
    found = transaction.offers.find(*names_above, name, region)
    if found is None:
        raise image_not_available(installation, reference.display_id(definition_path.version_id(name)), region)
    return replace(found, source=reference.display_id(found.source))


def find_named_version(
    installation: Installation,
    transaction: Transaction,
    definition_path: DefinitionPath,
    reference: ImageReference,
    region: str,
) -> ImageVersion:
    """Find the named version of a reference, or the latest version in a region.

    Raises:
        ImageNotAvailable: the version does not exist, or no version can be the latest in the region.
    """
    if reference.version is not None:
        found = transaction.versions.get(definition_path.definition.uid, reference.version)
        if found is None or not found.is_visible:
            raise image_not_available(
                installation, reference.display_id(definition_path.version_id(reference.version)), region
            )
        return found
    found = find_latest_version(transaction, definition_path, region)
    if found is None:
        raise ImageNotAvailable(
            f"There is no latest image version of '{definition_path.definition.name}' in {_region_display_name(installation, region)} region.",
            found=f"{len(transaction.versions.list(definition_path.definition.uid))} versions, all of them excluded from latest "
            "or incomplete in the region",
            expected="a version that is complete in the region",
            hint="name a version, replicate a version to this region, or choose another region",
            target="galleryImageReference",
        )
    return found


def find_latest_version(transaction: Transaction, definition_path: DefinitionPath, region: str) -> ImageVersion | None:
    """Find the latest version in a region, in batches from the highest version down. The first version usually fits."""
    below: VersionName | None = None
    while some := transaction.versions.list_complete_in(
        definition_path.definition.uid, region, below=below, limit=_VERSIONS_AT_ONCE
    ):
        replicas = transaction.replicas.list_by_version([each.uid for each in some])
        found = find_latest([(each, replicas[each.uid]) for each in some], region)
        if found is not None:
            return found
        below = some[-1].name
    return None


def image_not_available(installation: Installation, scope: str, region: str) -> ImageNotAvailable:
    """Return the error for an image that is not available in a region, with the message of Azure."""
    return ImageNotAvailable(
        f"The gallery image {scope} is not available in {_region_display_name(installation, region)} region. Please contact image "
        "owner to replicate to this region, or change your requested region.",
        found="no complete replica in the region",
        expected="a version that is complete in the region",
        hint="`imgstore sig image-version show ... --expand ReplicationStatus` shows the complete regions",
        target="galleryImageReference",
    )


def _region_display_name(installation: Installation, region: str) -> str:
    return installation.regions.get(region).display_name
