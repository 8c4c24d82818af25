"""What a version is said to be made from, and whether one that stands came from there.

A version that is complete somewhere never needs its source again. So the same command is good to repeat when the source
is gone, or can't be looked at; the same source is then the one of the same path, URL (without its query) or resource id.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from imgstore.domain import names
from imgstore.domain.disks.version_disks import VersionDisk, check_luns
from imgstore.domain.errors import InvalidInput
from imgstore.domain.machines import MACHINE
from imgstore.domain.names import ComputeId, ImageReference, SharedReference, image_reference
from imgstore.domain.resources import DiskKind
from imgstore.operations.disks.originals import is_id, named_ids
from imgstore.operations.installation import Installation
from imgstore.operations.versions.request import DataSnapshot, DataVhd, Wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSource:
    """What a version is to be made from: all disks of one resource, or an OS disk and data disks each by itself."""

    os_vhd_uri: str | None = None
    """A file: a path, file://, s3:// or https://."""
    os_snapshot: str | None = None
    """A snapshot or managed disk by name or id."""
    managed_image: str | None = None
    """A managed image by name or id, or an image version by its id: with its data disks."""
    image_version: str | None = None
    """An image version by its id, as rg/gallery/definition/version, or of a shared gallery: with its data disks."""
    virtual_machine: str | None = None
    """A machine by name or id, generalized or not: with its data disks."""
    data_vhds: tuple[DataVhd, ...] = ()
    data_snapshots: tuple[DataSnapshot, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether one resource says all of the version's disks."""
        return self.os_vhd_uri is None and self.os_snapshot is None

    @property
    def is_image(self) -> bool:
        """Whether it is a managed image or a machine: Azure's host caching of data disks is another for these."""
        return self.is_whole and self.reference is None

    @property
    def machine(self) -> str | None:
        """The machine that is meant, if it is one: az takes its id for a managed image's too."""
        named = None if self.managed_image is None else ComputeId.parse(self.managed_image)
        is_machine = named is not None and named.kind == MACHINE.lower()
        return self.managed_image if is_machine else self.virtual_machine

    @property
    def reference(self) -> ImageReference | SharedReference | None:
        """The image version that is meant, if it is one."""
        word = self.image_version
        if word is None and self.managed_image is not None and "/versions/" in self.managed_image.lower():
            word = self.managed_image
        return None if word is None else image_reference(word)

    def check(self) -> None:
        """Refuse no source and more than one, and data disks that cannot stand beside it.

        Raises:
            InvalidInput: so it is.
        """
        words = {
            "--os-vhd-uri": self.os_vhd_uri,
            "--os-snapshot": self.os_snapshot,
            "--managed-image": self.managed_image,
            "--image-version": self.image_version,
            "--virtual-machine": self.virtual_machine,
        }
        given = [flag for flag, word in words.items() if word is not None]
        data = {"--data-vhds-uris": self.data_vhds, "--data-snapshots": self.data_snapshots}
        beside = [flag for flag, disks in data.items() if disks]
        if len(given) != 1 or (self.is_whole and beside):
            raise InvalidInput(
                "The gallery artifact version source can only be specified either directly under storageProfile or "
                "within individual OS or data disks. One and only one source type (user image, snapshot, disk, virtual "
                "machine) can be provided",
                found=", ".join([*given, *beside]) or "no source",
                expected=f"one of {', '.join(words)}; data disks of their own with the first two alone",
                hint="name one source: of an image all data disks are taken anyway",
                target="properties.storageProfile",
            )
        check_luns([*(each.lun for each in self.data_vhds), *(each.lun for each in self.data_snapshots)])


def arrived_disks(installation: Installation, wanted: Wanted) -> Mapping[str, VersionDisk]:
    """The disks of the version that stands, by key, if it is or was complete somewhere; else none.

    A version that was complete once needs its source no more: workers, scrub and this very command restore it.
    """
    with installation.catalog.reading() as facts:
        standing = facts.versions.get(wanted.line.definition.uid, wanted.request.version)
        if standing is None or not standing.is_visible:
            return {}
        arrived = bool(facts.manifests.complete_slots(standing.uid))
    return {disk.key: disk for disk in standing.disks} if arrived else {}


def stated_locations(installation: Installation, wanted: Wanted) -> frozenset[str]:
    """Where the disks of the version that stands came from, in lower case."""
    with installation.catalog.reading() as facts:
        standing = facts.versions.get(wanted.line.definition.uid, wanted.request.version)
    return frozenset() if standing is None else frozenset(each.source.location.lower() for each in standing.disks)


def came_from(arrived: Mapping[str, VersionDisk], key: str, places: Iterable[str]) -> bool:
    """Whether a disk arrived from one of these places: paths, URLs, and ids, which have no case."""
    known = arrived[key].source.location if key in arrived else None
    return known is not None and any(
        each == known or (is_id(each) and each.lower() == known.lower()) for each in places
    )


def whole_ids(installation: Installation, group: str, source: VersionSource, image: ImageReference | None) -> list[str]:
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
        return [version_id, image.shown(version_id)]
    if source.machine is not None:
        return ids_of(installation, group, source.machine, MACHINE.lower())
    assert source.managed_image is not None, "one of them was given"
    return ids_of(installation, group, source.managed_image, DiskKind.IMAGE)


def ids_of(installation: Installation, group: str, word: str, *kinds: str) -> list[str]:
    """The ids that `word` may mean, of these kinds of resources."""
    return [each.resource_id for each in named_ids(installation, group, word, kinds)]
