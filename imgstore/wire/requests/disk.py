"""Read the bodies of managed disks, snapshots and managed images, and check their sources."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from imgstore.domain.disks.disk_details import DiskDetails
from imgstore.domain.disks.source_urls import parse_source_url, redact_location
from imgstore.domain.disks.version_disks import OS_DISK, HostCaching, disk_key
from imgstore.domain.errors import InvalidInput, PropertyChangeNotAllowed
from imgstore.domain.names import ComputeId, ImageReference, SharedReference, parse_image_reference
from imgstore.domain.requests import DiskOfImageRequest, DiskRequest, ImageRequest, NewDiskRequest, UploadRequest
from imgstore.domain.resources import (
    DiskKind,
    HyperVGeneration,
    OsProperties,
    OsState,
    OsType,
    StorageAccountType,
)
from imgstore.wire.api_versions import Kind
from imgstore.wire.json_fields import flag_of, invalid_value, tags_of, text_of, value_at
from imgstore.wire.json_text import Json
from imgstore.wire.requests.arguments import parse_storage_account_type
from imgstore.wire.requests.body_fields import read_known_fields, select_kept_fields
from imgstore.wire.requests.fields import check_object, enum_reader, location_of, missing_field, refuse_field
from imgstore.wire.requests.gallery_update import read_integer

_T = TypeVar("_T")

_IMAGE_IDS: Final = ("id", "sharedGalleryImageId", "communityGalleryImageId")
_CREATION: Final = "properties.creationData"
_PROFILE: Final = "properties.storageProfile"
_OS_TYPE: Final = enum_reader(OsType)
_OS_STATE: Final = enum_reader(OsState)
_GENERATION: Final = enum_reader(HyperVGeneration)


def read_disk(body: Json, *, group: str, name: str, kind: DiskKind) -> NewDiskRequest:
    """Read the PUT body of a managed disk or a snapshot.

    Raises:
        InvalidInput: The body is invalid, or a field is not supported. The target is the path.
    """
    check_object(body)
    body = read_known_fields(body, Kind(kind))
    option = str(value_at(body, f"{_CREATION}.createOption")).lower()
    wanted = ("FromImage", "Copy", "Import", "Upload") if kind is DiskKind.DISK else ("Copy", "Import")
    if option not in {word.lower() for word in wanted}:
        raise invalid_value(
            f"{_CREATION}.createOption", value_at(body, f"{_CREATION}.createOption"), " or ".join(wanted)
        )
    reference = _read_reference(body) if option == "fromimage" else None
    _check_creation(body, option)
    os_properties = OsProperties(
        os_type=_read_optional(body, "properties.osType", _OS_TYPE),
        hyper_v_generation=_read_optional(body, "properties.hyperVGeneration", _GENERATION),
    )
    sku = read_sku(body, "sku.name")
    remote = f"{_CREATION}.allowRemote"
    common: dict[str, Any] = {
        "kind": kind,
        "group": group,
        "name": name,
        "location": location_of(body),
        "os_properties": os_properties,
        "storage_account_type": sku if option in ("import", "upload") else None,
        "tags": tags_of(body),
        "allow_remote": value_at(body, remote) is not None and flag_of(value_at(body, remote), remote),
        "details": DiskDetails(
            size_gib=read_integer(body, "properties.diskSizeGB"),
            sku=sku,
            extra_properties=select_kept_fields(body, Kind(kind)),
        ),
    }
    if reference is not None:
        lun = read_integer(body, f"{_CREATION}.galleryImageReference.lun")
        return DiskOfImageRequest(**common, reference=reference, lun=lun)
    if option == "upload":
        return UploadRequest(**common, upload_bytes=_read_upload_bytes(body))
    return DiskRequest(**common, source=_read_creation_source(body, option))


_PERFORMANCE: Final = ("properties.tier", "properties.diskIOPSReadWrite", "properties.diskMBpsReadWrite")
"""Fields that follow from the type and the size of a disk. Azure lets clients choose them for some types."""


def check_performance(body: Json, existing: Json | None) -> None:
    """Check that the body of a PUT asks for no other performance than the performance of an existing disk.

    Args:
        body: The JSON of the request.
        existing: The current disk as JSON. None refuses each value.

    Raises:
        InvalidInput: A field has another value. imgstore gives no performance.
    """
    known = read_known_fields(body, Kind.DISK)
    for path in _PERFORMANCE:
        if value_at(known, path) is not None and value_at(known, path) != value_at(existing, path):
            raise invalid_value(path, value_at(known, path), "nothing: imgstore does not support this field")


_OPTIONS_OF_FIELDS: Final = {
    "galleryImageReference": ("fromimage",),
    "imageReference": ("fromimage",),
    "sourceUri": ("import",),
    "storageAccountId": ("import",),
    "sourceResourceId": ("copy",),
    "uploadSizeBytes": ("upload",),
    "allowRemote": ("fromimage", "copy"),
}
"""The create options of fields that not all options use."""


def _check_creation(body: Json, option: str) -> None:
    for name, options in _OPTIONS_OF_FIELDS.items():
        if option not in options:
            raw = value_at(body, f"{_CREATION}.{name}")
            if raw not in (None, {}, ""):
                raise invalid_value(f"{_CREATION}.{name}", raw, f"nothing with createOption {option}")


def _read_reference(body: Json) -> ImageReference | SharedReference:
    refuse_field(body, f"{_CREATION}.imageReference")
    gallery = f"{_CREATION}.galleryImageReference"
    named = [text for name in _IMAGE_IDS if (text := value_at(body, f"{gallery}.{name}")) is not None]
    if not named:
        raise missing_field(f"disk.{gallery}.id")
    if len(named) != 1 or not isinstance(named[0], str):
        raise invalid_value(gallery, value_at(body, gallery), f"one of {', '.join(_IMAGE_IDS)}")
    return parse_image_reference(named[0])


def _read_creation_source(body: Json, option: str) -> str:
    if option == "import":
        path = f"{_CREATION}.sourceUri"
        return check_source_url(_read_required_text(body, path), path)
    path = f"{_CREATION}.sourceResourceId"
    return check_compute_id(value_at(body, path), path, DiskKind.DISK, DiskKind.SNAPSHOT)


def _read_upload_bytes(body: Json) -> int:
    path = f"{_CREATION}.uploadSizeBytes"
    upload_bytes = value_at(body, path)
    if upload_bytes is None:
        raise missing_field(f"disk.{path}")
    if not isinstance(upload_bytes, int) or isinstance(upload_bytes, bool):
        raise invalid_value(path, upload_bytes, "a whole number of bytes")
    return upload_bytes


def read_disk_patch(body: Json, kind: DiskKind, existing: Json) -> tuple[dict[str, str] | None, DiskDetails]:
    """Read the PATCH body of a managed disk, a snapshot or a managed image: tags and stored fields.

    Args:
        body: The JSON of the request.
        kind: The kind of the resource.
        existing: The current resource as JSON. The other fields must have the same values.

    Returns:
        The tags, or None without tags in the body, and the details.

    Raises:
        InvalidInput: A field is not supported.
        PropertyChangeNotAllowed: A field that cannot change has another value.
    """
    check_object(body)
    known = read_known_fields(body, Kind(kind))
    kept = select_kept_fields(known, Kind(kind))
    _check_unchanged(known, existing, kept)
    tags = tags_of(known) if value_at(known, "tags") is not None else None
    return tags, DiskDetails(extra_properties=select_kept_fields(existing, Kind(kind)) | kept if kept else None)


def _check_unchanged(raw: Json, shown: Json, kept: Mapping[str, Json], path: str = "") -> None:
    """Check that all fields of a PATCH except tags and stored fields have their current values."""
    if path == "tags" or path in kept or raw in (None, [], {}, ""):
        return
    if isinstance(raw, Mapping) and isinstance(shown, Mapping | None):
        for name, each in raw.items():
            _check_unchanged(each, (shown or {}).get(name), kept, f"{path}.{name}".lstrip("."))
        return
    if isinstance(raw, str) and isinstance(shown, str):
        same = raw.lower() == shown.lower()
    else:
        same = raw == shown and isinstance(raw, bool) == isinstance(shown, bool)
    if not same:
        raise PropertyChangeNotAllowed(path, found=str(raw)[:200], expected=str(shown)[:200])


def read_image(body: Json, group: str, name: str) -> ImageRequest:
    """Read the PUT body of a managed image.

    Raises:
        InvalidInput: The body is invalid, or a field is not supported. The target is the path.
    """
    check_object(body)
    body = read_known_fields(body, Kind.IMAGE)
    refuse_field(body, "properties.sourceVirtualMachine")
    disk = f"{_PROFILE}.osDisk"
    raw = value_at(body, f"{_PROFILE}.dataDisks") or []
    if not isinstance(raw, list) or not all(isinstance(each, Mapping) for each in raw):
        raise invalid_value(f"{_PROFILE}.dataDisks", raw, "a list of data disks")
    data = sorted(raw, key=lambda each: str(each.get("lun")).rjust(3))
    if [each.get("lun") for each in data] != list(range(len(data))):
        raise invalid_value(f"{_PROFILE}.dataDisks", [each.get("lun") for each in raw], "consecutive LUNs from 0")
    return ImageRequest(
        group=group,
        name=name,
        location=location_of(body),
        source=_read_disk_source(value_at(body, disk), disk),
        data_sources=tuple(_read_disk_source(each, f"{_PROFILE}.dataDisks[{each['lun']}]") for each in data),
        os_properties=OsProperties(
            os_type=_read_optional(body, f"{disk}.osType", _OS_TYPE),
            os_state=_read_optional(body, f"{disk}.osState", _OS_STATE),
            hyper_v_generation=_read_optional(body, "properties.hyperVGeneration", _GENERATION),
        ),
        storage_account_type=read_sku(body, f"{disk}.storageAccountType"),
        tags=tags_of(body),
        details={
            OS_DISK: _read_image_disk_details(body, value_at(body, disk), disk),
            **{
                disk_key(lun): _read_image_disk_details(body, each, f"{_PROFILE}.dataDisks[{lun}]")
                for lun, each in enumerate(data)
            },
        },
    )


def _read_image_disk_details(body: Json, disk: Json, path: str) -> DiskDetails:
    zones = f"{_PROFILE}.zoneResilient"
    caching = None if value_at(disk, "caching") is None else enum_reader(HostCaching)(disk, "caching")
    return DiskDetails(
        size_gib=read_integer(disk, "diskSizeGB"),
        size_path=f"{path}.diskSizeGB",
        sku=read_sku(disk, "storageAccountType", f"{path}.storageAccountType"),
        sku_path=f"{path}.storageAccountType",
        zone_resilient=None if value_at(body, zones) is None else flag_of(value_at(body, zones), zones),
        extra_properties={} if caching is None else {"caching": caching.value},
    )


def _read_disk_source(disk: Json, path: str) -> str:
    """Return the source of a disk of an image. Azure has three properties for the source."""
    named = [word for word in ("blobUri", "snapshot.id", "managedDisk.id") if value_at(disk, word)]
    if len(named) > 1:
        raise invalid_value(f"{path}.{named[-1]}", value_at(disk, named[-1]), f"nothing together with {named[0]}")
    if uri := value_at(disk, "blobUri"):
        return check_source_url(str(uri), f"{path}.blobUri")
    if (snapshot := value_at(disk, "snapshot.id")) is not None:
        return check_compute_id(snapshot, f"{path}.snapshot.id", DiskKind.SNAPSHOT)
    return check_compute_id(value_at(disk, "managedDisk.id"), f"{path}.managedDisk.id", DiskKind.DISK)


def check_source_url(uri: str, path: str) -> str:
    """Check the URL of a file.

    Paths and ``s3://`` are refused, because the server would use its own rights (invariant U2).

    Raises:
        InvalidInput: The URL is not allowed.
    """
    try:
        parse_source_url(uri)
    except InvalidInput as error:
        raise InvalidInput(
            f"The value of '{path}' is invalid.",
            found=f"{redact_location(uri)[:200]!r}: {error.found}",
            expected="https://...",
            hint="only the local command line reads paths and s3://, because a server would use its own rights",
            target=path,
        ) from None
    return uri


def check_compute_id(value: Json, path: str, *kinds: DiskKind) -> str:
    """Return the full id of a disk, a snapshot or a managed image.

    Raises:
        InvalidInput: The value is not an id of the given kinds.
    """
    found = ComputeId.parse(value) if isinstance(value, str) else None
    if found is None or found.kind not in kinds:
        raise invalid_value(path, value, f"the id of one of {', '.join(kinds)}")
    return found.resource_id


def _read_required_text(body: Json, path: str) -> str:
    text = text_of(value_at(body, path), path)
    if not text:
        raise missing_field(f"disk.{path}")
    return text


def _read_optional(body: Json, path: str, read: Callable[[Json, str], _T]) -> _T | None:
    return None if value_at(body, path) is None else read(body, path)


def read_sku(body: Json, path: str, shown: str | None = None) -> StorageAccountType | None:
    """Return the storage account type at a path, or None.

    Args:
        body: The object that contains the path.
        path: The path of the type.
        shown: The path in the whole body, for errors.

    Raises:
        InvalidInput: The type is unknown.
    """
    word = value_at(body, path)
    if word is None:
        return None
    try:
        return parse_storage_account_type(str(word))
    except InvalidInput as error:
        raise invalid_value(shown or path, word, str(error.expected)) from error
