"""Names of resources, resource ids, and references to images."""

import re
from dataclasses import dataclass, replace
from typing import Final, Self

from imgstore.domain.errors import InvalidInput

LATEST: Final = "latest"

_PROVIDER: Final = "Microsoft.Compute"
_GALLERY: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.]{0,78}[A-Za-z0-9])?")
_DEFINITION: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,78}[A-Za-z0-9_])?")
_GROUP: Final = re.compile(r"[\w.()-]{0,89}[\w()-]")
_DISK: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,78}[A-Za-z0-9_])?")
_NAME_RULE: Final = (
    "1 to 80 letters, digits, '_', '-' and '.', starting with a letter or digit and not ending in '.' or '-'"
)
"""The rule for the name of a definition, a disk or a network resource."""
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9._-]*[A-Za-z0-9_-]")
_VERSION: Final = re.compile(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)")
_SHARED: Final = re.compile(
    r"/(SharedGalleries|CommunityGalleries)/([^/]{1,200})/Images/([^/]{1,200})(?:/Versions/([^/]{1,40}))?",
    re.IGNORECASE,
)
_VERSION_PART_MAX: Final = 2**31 - 1

_COMPUTE_ID: Final = re.compile(
    rf"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/{re.escape(_PROVIDER)}/([^/]+)/([^/]+)", re.IGNORECASE
)

PUBLISHER_CHARACTERS_MAX: Final = 128
OFFER_CHARACTERS_MAX: Final = 64
SKU_CHARACTERS_MAX: Final = 64


def check_gallery_name(name: str) -> str:
    """Return `name` if valid for a gallery. Azure: 80 characters, no dashes, alphanumeric at both ends."""
    if not _GALLERY.fullmatch(name):
        raise InvalidInput(
            "Gallery name is invalid. Allowed characters are English alphanumeric characters, with underscores, and "
            "periods allowed in the middle, up to 80 characters total. All other special characters, including dashes, "
            "are disallowed.",
            found=repr(name),
            expected="for example myGallery",
            hint="choose another name",
            target="galleryName",
        )
    return name


def check_definition_name(name: str) -> str:
    """Return `name` if valid for an image definition."""
    return _check_name(name, _DEFINITION, "image definition", "galleryImageName", _NAME_RULE)


def check_disk_name(name: str, what: str = "disk") -> str:
    """Return `name` if valid for a managed disk, a snapshot or a managed image."""
    target = {"disk": "diskName", "snapshot": "snapshotName"}.get(what, "imageName")
    return _check_name(name, _DISK, what, target, _NAME_RULE)


def check_network_name(name: str) -> str:
    """Return `name` if valid for a resource of Microsoft.Network or for a part of such a resource."""
    return _check_name(name, _DISK, "network resource", "name", _NAME_RULE)


def check_group_name(name: str) -> str:
    """Return `name` if valid for a resource group. Azure: 90 characters."""
    return _check_name(
        name,
        _GROUP,
        "resource group",
        "resourceGroupName",
        "1 to 90 letters, digits, '_', '-', '.', '(' and ')', not ending in '.'",
    )


def check_identifier(name: str, *, what: str, characters_max: int) -> str:
    """Return `name` if valid for a publisher, an offer or a SKU."""
    if len(name) > characters_max or not _IDENTIFIER.fullmatch(name):
        raise InvalidInput(
            f"The {what} of an image definition is invalid.",
            found=repr(name),
            expected=f"1 to {characters_max} letters, digits, '.', '_' and '-', not ending in '.'",
            hint=f"choose another {what}",
            target=f"identifier.{what}",
        )
    return name


def _check_name(name: str, pattern: re.Pattern[str], what: str, target: str, expected: str) -> str:
    if not pattern.fullmatch(name):
        raise InvalidInput(
            f"The {what} name is invalid.",
            found=repr(name),
            expected=expected,
            hint="choose another name",
            target=target,
        )
    return name


@dataclass(frozen=True, slots=True, order=True)
class VersionName:
    """Major.Minor.Patch, ordered as numbers."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a version name.

        Raises:
            InvalidInput: the name is not Major.Minor.Patch with each part between 0 and 2,147,483,647.
        """
        match = _VERSION.fullmatch(text)
        parts = [int(part) for part in match.groups()] if match and len(text) <= 32 else []
        if not parts or max(parts) > _VERSION_PART_MAX:
            raise InvalidInput(
                "The image version name is invalid. The image version name should follow Major(int).Minor(int)."
                "Patch(int) format, where int is between 0 and 2,147,483,647 (inclusive). For e.g: 1.0.0, 2018.12.1 "
                "etc.",
                found=repr(text),
                expected="three whole numbers with dots between, without leading zeros",
                hint="choose a version such as 1.0.0",
                target="galleryImageVersionName",
            )
        return cls(*parts)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


def region_key(name: str) -> str:
    """Return the name of a region for comparisons: "West US 2", "westus2" and "WestUS2" are the same region."""
    return "".join(name.split()).lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReference:
    """The reference of a person to an image: ``rg/gallery/definition[/version|latest]``."""

    group: str
    gallery: str
    definition: str
    version: VersionName | None = None
    """None is the latest version that is complete in the requested region."""
    subscription: str | None = None
    """Present in a full resource id only."""
    shared: "SharedReference | None" = None
    """The reference from the caller, if the gallery is shared. The caller need not know the group of the gallery."""

    def display_id(self, version_id: str) -> str:
        """Return the id of the selected version for the caller.

        If the reference is shared, the id has the shared gallery's name.
        """
        if self.shared is None:
            return version_id
        return str(replace(self.shared, version=VersionName.parse(version_id.rpartition("/")[2])))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a path of three or four parts, or a full resource id.

        Raises:
            InvalidInput: the text is neither.
        """
        parts = [part for part in text.split("/") if part]
        subscription = None
        if text.startswith("/"):
            subscription, parts = _parts_of_id(text, parts)
        if len(parts) not in (3, 4):
            raise _not_a_reference(text)
        version = None if len(parts) == 3 or parts[3].lower() == LATEST else VersionName.parse(parts[3])
        return cls(
            group=check_group_name(parts[0]),
            gallery=check_gallery_name(parts[1]),
            definition=check_definition_name(parts[2]),
            version=version,
            subscription=subscription,
        )

    def __str__(self) -> str:
        if self.shared is not None:
            return str(self.shared)
        return f"{self.group}/{self.gallery}/{self.definition}/{self.version or LATEST}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedReference:
    """An image of a shared gallery: ``/SharedGalleries/<unique name>/Images/<definition>[/Versions/<version>]``.

    Or ``/CommunityGalleries/<public name>/...``. The reference does not disclose the group and the subscription.
    """

    gallery: str
    """The unique name or the public name."""
    community: bool
    definition: str
    version: VersionName | None = None
    """None is the latest version that is complete in the requested region."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a reference to an image of a shared gallery.

        Raises:
            InvalidInput: the text is no such reference.
        """
        match = _SHARED.fullmatch(text)
        if match is None:
            raise _not_a_reference(text)
        kind, gallery, definition, version = match.groups()
        return cls(
            gallery=gallery,
            community=kind.lower() == "communitygalleries",
            definition=check_definition_name(definition),
            version=None if version is None or version.lower() == LATEST else VersionName.parse(version),
        )

    def __str__(self) -> str:
        kind = "CommunityGalleries" if self.community else "SharedGalleries"
        return f"/{kind}/{self.gallery}/Images/{self.definition}/Versions/{self.version or LATEST}"


def shared_image_field(text: str) -> str | None:
    """Return Azure's name of the field for a reference to a shared image. Return None for other references."""
    match = _SHARED.fullmatch(text)
    if match is None:
        return None
    return "communityGalleryImageId" if match[1].lower() == "communitygalleries" else "sharedGalleryImageId"


def parse_image_reference(text: str) -> ImageReference | SharedReference:
    """Parse a reference of either kind.

    Raises:
        InvalidInput: the text is neither.
    """
    return SharedReference.parse(text) if _SHARED.fullmatch(text) else ImageReference.parse(text)


def _parts_of_id(text: str, parts: list[str]) -> tuple[str, list[str]]:
    wanted = ["subscriptions", "", "resourcegroups", "", "providers", _PROVIDER.lower(), "galleries", "", "images", ""]
    head, rest = parts[:10], parts[10:]
    fits = len(head) == 10 and all(not word or word == part.lower() for word, part in zip(wanted, head, strict=True))
    if not fits or (rest and (len(rest) != 2 or rest[0].lower() != "versions")):
        raise _not_a_reference(text)
    return head[1], [head[3], head[7], head[9], *rest[1:]]


def _not_a_reference(text: str) -> InvalidInput:
    return InvalidInput(
        "The gallery image reference is invalid.",
        found=repr(text),
        expected="rg/gallery/definition, rg/gallery/definition/1.0.0, rg/gallery/definition/latest or a resource id",
        hint="`imgstore sig image-version list -g RG -r GALLERY -i DEFINITION` shows the ids",
        target="galleryImageReference",
    )


def group_id(subscription: str, group: str) -> str:
    """Return the resource id of a group."""
    return f"/subscriptions/{subscription}/resourceGroups/{group}"


def gallery_id(subscription: str, group: str, gallery: str) -> str:
    """Return the resource id of a gallery."""
    return f"{group_id(subscription, group)}/providers/{_PROVIDER}/galleries/{gallery}"


def definition_id(subscription: str, group: str, gallery: str, definition: str) -> str:
    """Return the resource id of an image definition."""
    return f"{gallery_id(subscription, group, gallery)}/images/{definition}"


def version_id(subscription: str, group: str, gallery: str, definition: str, version: VersionName | str) -> str:
    """Return the resource id of an image version."""
    return f"{definition_id(subscription, group, gallery, definition)}/versions/{version}"


def compute_id(subscription: str, group: str, kind: str, name: str) -> str:
    """Return the resource id of a Microsoft.Compute resource in a group.

    `kind` is Azure's type, such as ``snapshots``.
    """
    return f"{group_id(subscription, group)}/providers/{_PROVIDER}/{kind}/{name}"


def disk_id(subscription: str, group: str, disk: str) -> str:
    """Return the resource id of a managed disk."""
    return compute_id(subscription, group, "disks", disk)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeId:
    """The parts of the resource id of a Microsoft.Compute resource in a group."""

    subscription: str
    group: str
    kind: str
    """Azure's type in lower case, such as ``snapshots``."""
    name: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse a resource id. Return None if `text` is no such id."""
        match = _COMPUTE_ID.fullmatch(text)
        if match is None:
            return None
        subscription, group, kind, name = match.groups()
        return cls(subscription=subscription, group=group, kind=kind.lower(), name=name)

    @property
    def resource_id(self) -> str:
        """The resource id."""
        return compute_id(self.subscription, self.group, self.kind, self.name)
