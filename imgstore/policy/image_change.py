"""Decide whether a scale set may change to another image.

A set may change to a version of the same or another image definition, and from a managed image to a gallery image. Azure
requires the same OS type, the same Hyper-V generation and the same layout of the data disks, because instances keep their
data disks. imgstore also requires the same OS state, because the instances share one OS profile (invariant D11).

https://learn.microsoft.com/azure/virtual-machines/shared-image-galleries (2020), frequently asked questions
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from imgstore.domain.disks.version_disks import lun_of
from imgstore.domain.errors import ErrorDetail, InvalidInput
from imgstore.domain.machines import DiskAttachment
from imgstore.domain.resources import HyperVGeneration, OsProperties
from imgstore.domain.storage.sizes import GIB

_CODE: Final = "PropertyChangeNotAllowed"
_STORAGE: Final = "properties.virtualMachineProfile.storageProfile"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageShape:
    """The properties of an image that instances of a scale set depend on."""

    reference: str
    """The resource id of the managed image or version, for messages."""
    os_properties: OsProperties
    """Declared properties. An undeclared property fits every value, except the generation: machines then start as V1."""
    data_disk_bytes: Mapping[int, int] = field(default_factory=dict)
    """The virtual bytes of the data disks by LUN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDifference:
    """One property in which two images differ."""

    target: str
    """The path of the property in the request."""
    words: str
    """The name of the property in messages."""
    found: str
    expected: str


def compare_images(current: ImageShape, wanted: ImageShape) -> list[ImageDifference]:
    """Return each difference that forbids the change from one image to the other."""
    return [*_os_differences(current.os_properties, wanted.os_properties), *_disk_differences(current, wanted)]


def check_image_change(current: ImageShape, wanted: ImageShape, *, set_name: str) -> None:
    """Refuse a change to an image that does not fit the instances of a scale set.

    Args:
        current: The present image of the set.
        wanted: The requested image.
        set_name: The name of the scale set in messages.

    Raises:
        InvalidInput: The images differ. The error contains a detail for each difference.
    """
    differences = compare_images(current, wanted)
    if not differences:
        return
    words = list(dict.fromkeys(each.words for each in differences))
    error = InvalidInput(
        f"The scale set '{set_name}' cannot change to the image '{wanted.reference}': {_join(words)} "
        f"{'differs' if len(words) == 1 else 'differ'}.",
        found="; ".join(f"{each.words} {each.found}" for each in differences),
        expected="; ".join(f"{each.words} {each.expected}" for each in differences),
        hint="name an image with the same properties, or create another scale set",
        target=f"{_STORAGE}.imageReference.id",
        code=_CODE,
    )
    error.details = tuple(
        ErrorDetail(
            code=_CODE, target=each.target, message=f"{each.words}: found {each.found}, expected {each.expected}"
        )
        for each in differences
    )
    raise error


def _os_differences(current: OsProperties, wanted: OsProperties) -> Iterator[ImageDifference]:
    generations = (each.hyper_v_generation or HyperVGeneration.V1 for each in (current, wanted))
    for target, words, pair in (
        (f"{_STORAGE}.osDisk.osType", "OS type", (current.os_type, wanted.os_type)),
        (f"{_STORAGE}.imageReference.id", "Hyper-V generation", tuple(generations)),
        ("properties.virtualMachineProfile.osProfile", "OS state", (current.os_state, wanted.os_state)),
    ):
        expected, found = pair
        if expected is not None and found is not None and expected != found:
            yield ImageDifference(target=target, words=words, found=str(found), expected=str(expected))


def _disk_differences(current: ImageShape, wanted: ImageShape) -> Iterator[ImageDifference]:
    for lun in sorted({*current.data_disk_bytes, *wanted.data_disk_bytes}):
        expected, found = current.data_disk_bytes.get(lun), wanted.data_disk_bytes.get(lun)
        if expected != found:
            yield ImageDifference(
                target=f"{_STORAGE}.dataDisks",
                words=f"data disk at LUN {lun}",
                found=_format_disk(found),
                expected=_format_disk(expected),
            )


def _format_disk(virtual_bytes: int | None) -> str:
    if virtual_bytes is None:
        return "none"
    return f"{virtual_bytes // GIB} GiB" if virtual_bytes % GIB == 0 else f"{virtual_bytes} bytes"


def _join(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def check_disk_settings(attachments: Mapping[str, DiskAttachment], luns: Iterable[int]) -> None:
    """Check that the image has each data disk with settings.

    Args:
        attachments: the settings by disk key.
        luns: the LUNs of the image's data disks.

    Raises:
        InvalidInput: the image has no data disk with the LUN.
    """
    known = set(luns)
    missing = sorted(lun for key in attachments if (lun := lun_of(key)) is not None and lun not in known)
    if missing:
        raise InvalidInput(
            "The image of the scale set has no such data disk.",
            found=f"LUN {', '.join(map(str, missing))}",
            expected=f"LUN {', '.join(map(str, sorted(known)))}" if known else "no data disks",
            hint="name the data disks of the image, or leave them out: all data disks of the image are made",
            target=f"{_STORAGE}.dataDisks.lun",
        )
