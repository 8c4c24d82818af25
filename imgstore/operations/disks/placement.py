"""Telling a person what replicas can't do well."""

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
from imgstore.domain.views import DefinitionPath
from imgstore.operations import lookup
from imgstore.operations.installation import Installation
from imgstore.policy.replica_advice import CONCURRENT_WINDOW, scaling_advice
from imgstore.policy.selection import find_latest, healthy_replicas, next_slot


def advise_replicas(installation: Installation, disk: ManagedDisk) -> None:
    """Tell, where more disks than its version's replicas serve well were made in the disk's region with it.

    Seconds are those of whoever wrote the disks' rows: a clock that is wrong gives a wrong piece of advice, no more.
    """
    per_replica, version_uid = installation.limits.machines_per_replica, disk.source_version_uid
    assert version_uid is not None, "it was made of an image version a moment ago"
    with installation.catalog.reading() as transaction:
        since = installation.effects.now() - CONCURRENT_WINDOW
        machines = transaction.disks.count_created(version_uid, disk.location, since=since)
        if machines <= per_replica:
            return  # One replica is enough, and there is one.
        replicas = healthy_replicas(transaction.replicas.in_region(version_uid, disk.location), disk.location)
    where = installation.regions.get(disk.location).display_name
    advice = scaling_advice(machines, len(replicas), per_replica, where=where)
    if advice is not None:
        installation.note(disk.name, advice)


_VERSIONS_AT_ONCE: Final = 16
"""Read at once to find the latest; that many and more are excluded from latest, or on their way out, only rarely."""


def check_subscription(installation: Installation, reference: ImageReference) -> None:
    """Refuse a full resource id of another subscription: nothing of it can be seen from here."""
    if reference.subscription not in (None, installation.subscription):
        raise ImageNotAvailable(
            f"The gallery image {reference} is of another subscription.",
            found=f"subscription {reference.subscription}",
            expected=f"subscription {installation.subscription}",
            hint="give --subscription, or a reference of this one",
            target="galleryImageReference",
        )


def choose_slot(
    installation: Installation, transaction: Transaction, reference: ImageReference, region: str
) -> tuple[ImageOffer, Slot]:
    """The version that is meant and the slot whose turn it is; the turn counts in this transaction.

    Raises:
        ImageNotAvailable: no such version, or not complete in the region.
    """
    offer = find_offer(installation, transaction, reference, region)
    return offer, next_slot(
        transaction.placements.advance_counter(offer.version_uid, region), installation.prefer_responsive(offer.slots)
    )


def find_offer(
    installation: Installation, transaction: Transaction, reference: ImageReference, region: str
) -> ImageOffer:
    """What a reference means in a region: at once, where all of it is there and named.

    Raises:
        ImageNotAvailable: no such version, or not complete in the region.
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
    """The version that a reference means in a region.

    Raises:
        ImageNotAvailable: no such version, or none that may be the latest there.
    """
    if reference.version is not None:
        found = transaction.versions.get(definition_path.definition.uid, reference.version)
        if found is None or not found.is_visible:
            raise image_not_available(
                installation, reference.display_id(definition_path.version_id(reference.version)), region
            )
        return found
    found = _latest(transaction, definition_path, region)
    if found is None:
        raise ImageNotAvailable(
            f"There is no latest image version of '{definition_path.definition.name}' in {_region_display_name(installation, region)} region.",
            found=f"{len(transaction.versions.list(definition_path.definition.uid))} versions, none that is complete there and not "
            "excluded from latest",
            expected="a version that is complete in the region",
            hint="name a version, replicate one to this region, or ask for another region",
            target="galleryImageReference",
        )
    return found


def _latest(transaction: Transaction, definition_path: DefinitionPath, region: str) -> ImageVersion | None:
    """A few at a time, from the highest down: of ten thousand versions the first is mostly the one."""
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
    """What is raised where an image can't be had in a region."""
    return ImageNotAvailable(
        f"The gallery image {scope} is not available in {_region_display_name(installation, region)} region. Please contact image "
        "owner to replicate to this region, or change your requested region.",
        found="no complete replica there",
        expected="a version that is complete in the region",
        hint="`imgstore sig image-version show ... --expand ReplicationStatus` shows where it is complete",
        target="galleryImageReference",
    )


def _region_display_name(installation: Installation, region: str) -> str:
    return installation.regions.get(region).display_name
