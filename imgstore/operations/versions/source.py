"""Compare the source in a request with the recorded source of an existing version.

A version that is complete in one region never needs the source again. So the command can be repeated when the source is
missing or not available. Sources with the same path, URL (without query) or resource id are the same source.
"""

from collections.abc import Iterable, Mapping

from imgstore.domain import names
from imgstore.domain.disks.version_disks import VersionDisk
from imgstore.domain.machines import MACHINE
from imgstore.domain.names import ImageReference
from imgstore.domain.requests import VersionSource
from imgstore.domain.resources import DiskKind
from imgstore.operations.disks.sources import is_resource_id, list_candidate_ids
from imgstore.operations.installation import Installation


def has_arrived_from(arrived: Mapping[str, VersionDisk], key: str, locations: Iterable[str]) -> bool:
    """Return whether a disk was ingested from one of the locations: paths, URLs, or ids (compared without case)."""
    known = arrived[key].source.location if key in arrived else None
    return known is not None and any(
        each == known or (is_resource_id(each) and each.lower() == known.lower()) for each in locations
    )


def list_source_ids(
    installation: Installation, group: str, source: VersionSource, image: ImageReference | None
) -> list[str]:
    """List the possible ids of a source that contains all disks of a version. A request for `latest` has none.

    Args:
        installation: the installation.
        group: the resource group of a name without id.
        source: the source in the request.
        image: the image version that the source names, if the source is an image version.
    """
    if image is not None:
        above = (image.subscription or installation.subscription, image.group, image.gallery, image.definition)
        if image.version is None:
            return []
        version_id = names.version_id(*above, image.version)
        return [version_id, image.display_id(version_id)]
    if source.machine is not None:
        return list_possible_ids(installation, group, source.machine, MACHINE.lower())
    assert source.managed_image is not None, "the source is an image version, a machine or a managed image"
    return list_possible_ids(installation, group, source.managed_image, DiskKind.IMAGE)


def list_possible_ids(installation: Installation, group: str, word: str, *kinds: str) -> list[str]:
    """List the ids of resources of the given kinds that `word` can mean."""
    return [each.resource_id for each in list_candidate_ids(installation, group, word, kinds)]
