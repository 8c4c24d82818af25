"""Read the bodies of virtual machines: applied fields, stored fields, refused fields.

Most fields have no effect and are stored and shown again. A field is refused if it would promise a
protection, a right or a disk that imgstore does not provide. Secrets are removed before anything is stored.
"""

import base64
from collections.abc import Mapping
from typing import Any, Final

from imgstore.domain.disks.version_disks import OS_DISK, HostCaching, check_luns, disk_key
from imgstore.domain.errors import InvalidInput
from imgstore.domain.machines import DiskAttachment
from imgstore.domain.requests import MachineDiskRequest, MachineRequest, OsProfile
from imgstore.domain.resources import DiskKind, OsType
from imgstore.wire.json_fields import invalid_value, tags_of, text_of, value_at
from imgstore.wire.json_text import Json
from imgstore.wire.requests.disk import check_compute_id, read_sku
from imgstore.wire.requests.fields import check_object, enum_reader, location_of, missing_field
from imgstore.wire.requests.gallery_update import read_integer

_PROFILE: Final = "properties.storageProfile"
_OS_DISK: Final = f"{_PROFILE}.osDisk"
_DATA_DISKS: Final = f"{_PROFILE}.dataDisks"
_REFERENCE: Final = f"{_PROFILE}.imageReference"
_OS_PROFILE: Final = "properties.osProfile"
_INTERFACES: Final = "properties.networkProfile.networkInterfaces"
_IMAGE_IDS: Final = ("id", "sharedGalleryImageId", "communityGalleryImageId")
_MARKET: Final = ("publisher", "offer", "sku")

_OBJECTS: Final = (
    "plan", "extendedLocation", _REFERENCE, _OS_PROFILE, "properties.hardwareProfile.vmSizeProperties",
    "properties.networkProfile", "properties.securityProfile", "properties.diagnosticsProfile",
    "properties.additionalCapabilities", "properties.applicationProfile", "properties.availabilitySet",
    "properties.billingProfile", "properties.capacityReservation", "properties.host", "properties.hostGroup",
    "properties.proximityPlacementGroup", "properties.resiliencyProfile", "properties.scheduledEventsPolicy",
    "properties.scheduledEventsProfile",
)  # fmt: skip
_TEXTS: Final = (
    f"{_PROFILE}.diskControllerType", "properties.evictionPolicy", "properties.extensionsTimeBudget",
    "properties.licenseType", "properties.priority",
)  # fmt: skip
KEPT: Final[Mapping[str, type]] = {
    "zones": list,
    **dict.fromkeys(_OBJECTS, Mapping),
    **dict.fromkeys(_TEXTS, str),
    "properties.platformFaultDomain": int,
}
"""The stored fields by path, with their types. Such fields are shown as sent."""
_KINDS: Final = {list: "a list", Mapping: "an object", str: "text", int: "a whole number"}
_SECRETS: Final = frozenset(
    f"{above}.{path}".lower()
    for above in ("properties", "properties.virtualMachineProfile")
    for path in (
        "userData",
        "osProfile.adminPassword",
        "osProfile.customData",
        "osProfile.windowsConfiguration.additionalUnattendContent",
    )
)
"""The fields of machines and scale sets to remove. ``additionalUnattendContent`` contains passwords."""
_OPTIONS: Final = {"fromimage": False, "attach": True}
_DELETE_OPTIONS: Final = {"delete": True, "detach": False}


def remove_secrets(body: Json, path: str = "") -> Json:
    """Return a body without passwords and secret data of the machine or of the instances.

    Names are case-insensitive, because this function runs before names are normalized.
    """
    if isinstance(body, list):
        return [remove_secrets(each, path) for each in body]
    if not isinstance(body, Mapping):
        return body
    below = {name: f"{path}.{name}".lstrip(".").lower() for name in body}
    return {name: remove_secrets(body[name], where) for name, where in below.items() if where not in _SECRETS}


def read_secrets(body: Json, above: str = "properties") -> tuple[str | None, bytes | None]:
    """Return the password and the custom data of an OS profile, before `remove_secrets` removes both.

    Args:
        body: The JSON of the request.
        above: The path of the object with the OS profile.

    Raises:
        InvalidInput: the custom data are not base64.
    """
    found: dict[str, str] = {}
    profile = body
    for name in (*above.split("."), "osProfile"):
        profile = _member(profile, name.lower())
    for name in ("adminPassword", "customData"):
        value = text_of(_member(profile, name.lower()), f"{above}.osProfile.{name}")
        if value:
            found[name] = value
    custom = found.get("customData")
    try:
        return found.get("adminPassword"), None if custom is None else base64.b64decode(custom, validate=True)
    except ValueError as error:
        raise invalid_value(f"{above}.osProfile.customData", "text that is not base64", "base64") from error


def _member(body: Json, name: str) -> Json:
    """Return the member of an object with this name in lower case."""
    if not isinstance(body, Mapping):
        return None
    return next((value for key, value in body.items() if key.lower() == name), None)


def read_machine(body: Json, group: str, name: str, *, is_put: bool) -> MachineRequest:
    """Read a request for a machine.

    Args:
        body: The JSON of the request.
        group: The name of the resource group.
        name: The name of the machine.
        is_put: True for a PUT, False for a PATCH. A PATCH creates nothing. A PUT without a source creates nothing
            either: az leaves the source out after a read, so that the caller needs no right to the image.

    Raises:
        InvalidInput: The body is not a machine, or a field is not supported. The target is the path.
    """
    check_object(body)
    _check_types(body)
    image, attached = read_image_reference(body, _REFERENCE), _read_attached_os_disk(body, is_put=is_put)
    if image is not None and attached is not None:
        raise source_count_error("both")
    profile = value_at(body, _OS_PROFILE)
    return MachineRequest(
        group=group,
        name=name,
        location=location_of(body) if is_put or value_at(body, "location") is not None else None,
        image=image,
        attach_os_disk=attached,
        disks=_read_disks(body, attached),
        replaces_disks=_names_all_data_disks(body, attached, is_put=is_put),
        os_type=None
        if value_at(body, f"{_OS_DISK}.osType") is None
        else enum_reader(OsType)(body, f"{_OS_DISK}.osType"),
        size=text_of(value_at(body, "properties.hardwareProfile.vmSize"), "properties.hardwareProfile.vmSize"),
        profile=OsProfile(
            admin_username=text_of(value_at(profile, "adminUsername"), f"{_OS_PROFILE}.adminUsername"),
            computer_name=text_of(value_at(profile, "computerName"), f"{_OS_PROFILE}.computerName"),
            has_fields=bool(profile),
        ),
        tags=tags_of(body) if is_put or value_at(body, "tags") is not None else None,
        extra_properties=_read_kept_fields(body),
        interfaces=_read_interfaces(body),
        may_create=is_put and not (image is None and attached is None),
    )


def _read_kept_fields(body: Json) -> dict[str, Any]:
    shown = remove_secrets(body)
    kept = {path: value for path in KEPT if (value := value_at(shown, path)) not in (None, {}, [])}
    if _REFERENCE in kept:
        kept[_REFERENCE] = {name: kept[_REFERENCE][name] for name in _IMAGE_IDS if name in kept[_REFERENCE]}
    return kept


def _read_interfaces(body: Json) -> dict[str, bool] | None:
    """Return the named network interfaces, each with True if the deletion of the machine deletes the interface."""
    raw = value_at(body, _INTERFACES)
    if raw is None:
        return None
    if not isinstance(raw, list) or not all(isinstance(value_at(each, "id"), str) for each in raw):
        raise invalid_value(_INTERFACES, raw, "a list of objects with an id")
    return {each["id"]: str(value_at(each, "properties.deleteOption")).lower() == "delete" for each in raw}


def _check_types(body: Json) -> None:
    for path, kind in {**KEPT, **dict.fromkeys((_PROFILE, _OS_DISK, "properties.hardwareProfile"), Mapping)}.items():
        raw = value_at(body, path)
        if raw is not None and not isinstance(raw, kind):
            raise invalid_value(path, raw, _KINDS[kind])
    identity = value_at(body, "identity.type")
    if identity is not None and str(identity).lower() != "none":
        raise invalid_value("identity.type", identity, "None: imgstore does not support identities of machines")


def read_image_reference(body: Json, path: str) -> str | None:
    """Return the id of the image at a path. None if the body names no image.

    Raises:
        InvalidInput: The reference names several images, no id, or a platform image.
    """
    raw = value_at(body, path) or {}
    named = {name: raw[name] for name in _IMAGE_IDS if raw.get(name) is not None}
    if not named and any(raw.get(name) for name in (*_MARKET, "version")):
        raise InvalidInput(
            "The platform image is not available, because imgstore has no marketplace.",
            found=":".join(str(raw.get(name)) for name in (*_MARKET, "version")),
            expected=f"one of {', '.join(_IMAGE_IDS)}",
            hint="publish the image to a gallery, and name the image version",
            target=path,
            code="PlatformImageNotFound",
        )
    if not named:
        return None
    word = next(iter(named.values()))
    if beside := [name for name in (*_MARKET, "version") if raw.get(name)]:
        raise invalid_value(f"{path}.{beside[0]}", raw[beside[0]], f"nothing together with {next(iter(named))}")
    if len(named) > 1 or not isinstance(word, str) or "/" not in word:
        raise invalid_value(path, raw, f"one of {', '.join(_IMAGE_IDS)}, a resource id")
    return word


def _read_attached_os_disk(body: Json, *, is_put: bool) -> str | None:
    disk = value_at(body, _OS_DISK)
    if disk is None or not _is_attached(disk, _OS_DISK, needed=is_put):
        return None
    path = f"{_OS_DISK}.managedDisk.id"
    return check_compute_id(value_at(disk, "managedDisk.id"), path, DiskKind.DISK)


def _is_attached(disk: Json, path: str, *, needed: bool) -> bool:
    option = value_at(disk, "createOption")
    if option is None and not needed:
        return False
    if option is None:
        raise missing_field(f"{path}.createOption")
    if str(option).lower() not in _OPTIONS:
        raise invalid_value(f"{path}.createOption", option, "FromImage or Attach: imgstore does not create empty disks")
    return _OPTIONS[str(option).lower()]


def _read_disks(body: Json, attached: str | None) -> dict[str, MachineDiskRequest]:
    """Return the requests for single disks, by disk key."""
    requests: dict[str, MachineDiskRequest] = {}
    if (disk := value_at(body, _OS_DISK)) is not None:
        requests[OS_DISK] = _read_disk(disk, _OS_DISK, attach=None, made=attached is None)
    listed = value_at(body, _DATA_DISKS) or []
    if not isinstance(listed, list) or not all(isinstance(each, Mapping) for each in listed):
        raise invalid_value(_DATA_DISKS, listed, "a list of data disks")
    luns = [read_integer(each, "lun") for each in listed]
    if None in luns:
        raise missing_field("dataDisk.lun")
    check_luns([lun for lun in luns if lun is not None])
    for lun, each in zip(luns, listed, strict=True):
        path = f"{_DATA_DISKS}[{lun}]"
        is_attached = _is_attached(each, path, needed=True)
        word = (
            check_compute_id(value_at(each, "managedDisk.id"), f"{path}.managedDisk.id", DiskKind.DISK)
            if is_attached
            else None
        )
        requests[disk_key(lun)] = _read_disk(each, path, attach=word, made=not is_attached)
    return requests


def _read_disk(disk: Mapping[str, Json], path: str, *, attach: str | None, made: bool) -> MachineDiskRequest:
    delete = value_at(disk, "deleteOption")
    if delete is not None and str(delete).lower() not in _DELETE_OPTIONS:
        raise invalid_value(f"{path}.deleteOption", delete, "Delete or Detach")
    named = value_at(disk, "managedDisk.id") if made else None
    return MachineDiskRequest(
        attachment=DiskAttachment(
            name=text_of(disk.get("name"), f"{path}.name") or None,
            caching=None if disk.get("caching") is None else enum_reader(HostCaching)(disk, "caching"),
            deleted_with_machine=None if delete is None else _DELETE_OPTIONS[str(delete).lower()],
        ),
        attach=attach,
        resource_id=None if named is None else check_compute_id(named, f"{path}.managedDisk.id", DiskKind.DISK),
        size_gib=read_integer(disk, "diskSizeGB"),
        sku=read_sku(disk, "managedDisk.storageAccountType", f"{path}.managedDisk.storageAccountType"),
    )


def _names_all_data_disks(body: Json, attached: str | None, *, is_put: bool) -> bool:
    """Return whether the named data disks are all data disks of the machine.

    The body of a machine that was read before names all data disks. A template does not name the data disks of the
    image.
    """
    if not isinstance(value_at(body, _DATA_DISKS), list):
        return False
    return not is_put or attached is not None or value_at(body, f"{_OS_DISK}.managedDisk.id") is not None


def source_count_error(found: str) -> InvalidInput:
    """Return the error of a machine without a source, or with two sources."""
    return InvalidInput(
        "A virtual machine needs one image, or one OS disk to attach.",
        found=found,
        expected="storageProfile.imageReference, or storageProfile.osDisk with createOption Attach and managedDisk.id",
        hint="name one source",
        target=_PROFILE,
    )
