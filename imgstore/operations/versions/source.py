"""What a version is said to be made from, and whether one that stands came from there.

A version that is complete somewhere never needs its source again. So the same command is good to repeat when the source
is gone, or can't be looked at; the same source is then the one of the same path, URL (without its query) or resource id.
"""

from collections.abc import Iterable, Mapping

from imgstore.domain import names
from imgstore.domain.disks.version_disks import VersionDisk
from imgstore.domain.machines import MACHINE
from imgstore.domain.names import ImageReference
from imgstore.domain.requests import VersionSource
from imgstore.domain.resources import DiskKind
from imgstore.operations.disks.sources import is_id, named_ids
from imgstore.operations.installation import Installation
from imgstore.operations.versions.request import ResolvedRequest


def find_arrived_disks(installation: Installation, wanted: ResolvedRequest) -> Mapping[str, VersionDisk]:
    """The disks of the version that stands, by key, if it is or was complete somewhere; else none.

    A version that was complete once needs its source no more: workers, scrub and this very command restore it.
    """
    with installation.catalog.reading() as transaction:
        standing = transaction.versions.get(wanted.definition_path.definition.uid, wanted.request.version)
        if standing is None or not standing.is_visible:
            return {}
        arrived = bool(transaction.manifests.complete_slots(standing.uid))
    return {disk.key: disk for disk in standing.disks} if arrived else {}


def find_source_locations(installation: Installation, wanted: ResolvedRequest) -> frozenset[str]:
    """Where the disks of the version that stands came from, in lower case."""
    with installation.catalog.reading() as transaction:
        standing = transaction.versions.get(wanted.definition_path.definition.uid, wanted.request.version)
    return frozenset() if standing is None else frozenset(each.source.location.lower() for each in standing.disks)


def has_arrived_from(arrived: Mapping[str, VersionDisk], key: str, places: Iterable[str]) -> bool:
    """Whether a disk arrived from one of these places: paths, URLs, and ids, which have no case."""
    known = arrived[key].source.location if key in arrived else None
    return known is not None and any(
        each == known or (is_id(each) and each.lower() == known.lower()) for each in places
    )


def list_source_ids(
    installation: Installation, group: str, source: VersionSource, image: ImageReference | None
) -> list[str]:
    """The ids that a resource may have which says all disks of a version; none where `latest` is asked for.

    Args:
        installation: where.
        group: where a bare name is looked for.
        source: what is stated.
        image: the image version that is meant, if it is one.
    """
    if image is not None:
        above = (image.subscription or installation.subscription, image.group, image.gallery, image.definition)
        if image.version is None:
            return []
        version_id = names.version_id(*above, image.version)
        return [version_id, image.display_id(version_id)]
    if source.machine is not None:
        return list_possible_ids(installation, group, source.machine, MACHINE.lower())
    assert source.managed_image is not None, "one of them was given"
    return list_possible_ids(installation, group, source.managed_image, DiskKind.IMAGE)


def list_possible_ids(installation: Installation, group: str, word: str, *kinds: str) -> list[str]:
    """The ids that `word` may mean, of these kinds of resources."""
    return [each.resource_id for each in named_ids(installation, group, word, kinds)]
