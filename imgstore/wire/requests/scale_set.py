"""Read the bodies of scale sets and of actions on instances: applied fields, stored fields, refused fields.

Fields without an effect are stored and shown, as for machines (`wire/requests/machine.py`). Scale sets have the
orchestration mode Uniform. A scale set has no network: the network profile is stored and shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from imgstore.domain.disks.version_disks import OS_DISK, HostCaching, check_luns, disk_key
from imgstore.domain.errors import InvalidInput
from imgstore.domain.machines import DiskAttachment
from imgstore.domain.requests import NO_PROFILE, OsProfile
from imgstore.domain.resources import OsType
from imgstore.domain.scale_sets import RollingPolicy, UpgradeMode
from imgstore.domain.text.durations import parse_iso_duration
from imgstore.wire.api_versions import Kind
from imgstore.wire.json_fields import integer_of, invalid_value, tags_of, text_of, value_at
from imgstore.wire.json_text import Json
from imgstore.wire.requests.body_fields import select_kept_fields
from imgstore.wire.requests.disk import read_sku
from imgstore.wire.requests.fields import check_object, enum_reader, location_of, missing_field
from imgstore.wire.requests.gallery_update import read_integer
from imgstore.wire.requests.machine import read_image_reference, remove_secrets

PROFILE: Final = "properties.virtualMachineProfile"
_OS_PROFILE: Final = f"{PROFILE}.osProfile"
_STORAGE: Final = f"{PROFILE}.storageProfile"
_OS_DISK: Final = f"{_STORAGE}.osDisk"
_DATA_DISKS: Final = f"{_STORAGE}.dataDisks"
_SKU: Final = f"{_OS_DISK}.managedDisk.storageAccountType"
_POLICY: Final = "properties.upgradePolicy"
_ROLLING: Final = f"{_POLICY}.rollingUpgradePolicy"
_PERCENTAGES: Final[Mapping[str, tuple[str, range]]] = {
    "maxBatchInstancePercent": ("batch_percent", range(5, 101)),
    "maxUnhealthyInstancePercent": ("unhealthy_percent_max", range(5, 101)),
    "maxUnhealthyUpgradedInstancePercent": ("unhealthy_updated_percent_max", range(101)),
}
"""Azure's percentages of a rolling update, with their fields and ranges."""
_PAUSE_SECONDS_MAX: Final = 3_600
_OBJECTS: Final = tuple(
    f"{PROFILE}.{word}"
    for word in (
        "networkProfile", "diagnosticsProfile", "applicationProfile", "billingProfile", "capacityReservation",
        "scheduledEventsProfile", "hardwareProfile.vmSizeProperties",
    )
)  # fmt: skip
_TEXTS: Final = tuple(
    f"{PROFILE}.{word}"
    for word in (
        "evictionPolicy", "extensionProfile.extensionsTimeBudget", "licenseType", "priority",
        "storageProfile.diskControllerType",
    )
)  # fmt: skip
_FLAGS: Final = (
    "singlePlacementGroup", "overprovision", "doNotRunExtensionsOnOverprovisionedVMs", "zoneBalance",
    "additionalCapabilities.ultraSSDEnabled", "additionalCapabilities.hibernationEnabled",
)  # fmt: skip
_TYPES: Final[Mapping[str, tuple[type, str]]] = {
    "zones": (list, "a list"),
    **dict.fromkeys(
        (
            "plan", "extendedLocation", "properties.proximityPlacementGroup", "properties.hostGroup",
            "properties.scheduledEventsPolicy", _OS_PROFILE, *_OBJECTS,
        ),
        (Mapping, "an object"),
    ),
    **dict.fromkeys(("properties.zonalPlatformFaultDomainAlignMode", *_TEXTS), (str, "text")),
    **dict.fromkeys([f"properties.{word}" for word in _FLAGS], (bool, "true or false")),
    "properties.platformFaultDomainCount": (int, "a whole number"),
}  # fmt: skip
"""The types of stored fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSetBody:
    """The fields of a body. None is an absent field, which keeps its value in an existing set."""

    location: str | None = None
    tags: Mapping[str, str] | None = None
    size: str | None = None
    capacity: int | None = None
    image: str | None = None
    """The id of a managed image, version or definition."""
    os_type: OsType | None = None
    profile: OsProfile = NO_PROFILE
    """The user of the instances. `computer_name` is the prefix of the computer names."""
    upgrade_mode: UpgradeMode | None = None
    rolling: Mapping[str, int] = field(default_factory=dict)
    """The named values of the rolling policy, by the field of `RollingPolicy`."""
    attachments: Mapping[str, DiskAttachment] = field(default_factory=dict)
    extra_properties: Mapping[str, Any] = field(default_factory=dict)

    def rolling_policy(self, present: RollingPolicy) -> RollingPolicy:
        """Return a policy with the named values."""
        return RollingPolicy(**{**{name: getattr(present, name) for name in _FIELDS}, **self.rolling})


_FIELDS: Final = ("batch_percent", "unhealthy_percent_max", "unhealthy_updated_percent_max", "pause_seconds")


def read_scale_set(body: Json, *, is_put: bool) -> ScaleSetBody:
    """Read the body of a PUT or a PATCH, after `read_known_fields`.

    Raises:
        InvalidInput: The body is not a scale set, or a field is not supported. The target is the path.
    """
    check_object(body)
    for path, (kind, words) in _TYPES.items():
        raw = value_at(body, path)
        if raw is not None and not (isinstance(raw, kind) and (kind is bool or not isinstance(raw, bool))):
            raise invalid_value(path, raw, words)
    profile = value_at(body, _OS_PROFILE)
    return ScaleSetBody(
        location=location_of(body) if is_put or value_at(body, "location") is not None else None,
        # `az vmss scale` sends no tags in its PUT, and must not remove the tags.
        tags=tags_of(body) if value_at(body, "tags") is not None else None,
        size=text_of(value_at(body, "sku.name"), "sku.name"),
        capacity=None
        if value_at(body, "sku.capacity") is None
        else integer_of(value_at(body, "sku.capacity"), "sku.capacity"),
        image=read_image_reference(body, f"{_STORAGE}.imageReference"),
        os_type=_read_optional(body, f"{_OS_DISK}.osType", OsType),
        profile=OsProfile(
            admin_username=text_of(value_at(profile, "adminUsername"), f"{_OS_PROFILE}.adminUsername"),
            computer_name=text_of(value_at(profile, "computerNamePrefix"), f"{_OS_PROFILE}.computerNamePrefix"),
            has_fields=bool(profile),
        ),
        upgrade_mode=_read_optional(body, f"{_POLICY}.mode", UpgradeMode),
        rolling=_read_rolling(body),
        attachments=_read_attachments(body),
        extra_properties=_read_kept_fields(body),
    )


def read_instance_ids(body: Json, *, needed: bool = False) -> list[int] | None:
    """Return the instance ids of an action. None means all instances, also the text ``*``.

    Args:
        body: The JSON of the request, or None.
        needed: Whether the action needs the list.

    Raises:
        InvalidInput: The list is missing, or an id is not a number.
    """
    raw = None if body is None else value_at(body, "instanceIds")
    if raw is None:
        if needed:
            raise missing_field("instanceIds")
        return None
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise invalid_value("instanceIds", raw, "a list of instance ids")
    if "*" in raw:
        return None
    return [parse_instance_id(each) for each in raw]


def parse_instance_id(word: Json) -> int:
    """Return an instance id as a number.

    Raises:
        InvalidInput: The text is no instance id.
    """
    text = str(word)
    if not (text.isascii() and text.isdigit() and len(text) <= _ID_CHARACTERS_MAX):
        raise InvalidInput(
            f"The instance id {text!r} is invalid.",
            found=repr(text),
            expected="a number, as in the list of instances",
            hint="list the instances of the scale set",
            target="instanceIds",
        )
    return int(text)


_ID_CHARACTERS_MAX: Final = 9


def _read_optional(body: Json, path: str, words: Any) -> Any:
    return None if value_at(body, path) is None else enum_reader(words)(body, path)


def _read_rolling(body: Json) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, (attribute, allowed) in _PERCENTAGES.items():
        raw = value_at(body, f"{_ROLLING}.{name}")
        if raw is None:
            continue
        value = integer_of(raw, f"{_ROLLING}.{name}")
        if value not in allowed:
            raise invalid_value(f"{_ROLLING}.{name}", raw, f"{allowed.start} to {allowed.stop - 1}")
        found[attribute] = value
    pause = text_of(value_at(body, f"{_ROLLING}.pauseTimeBetweenBatches"), f"{_ROLLING}.pauseTimeBetweenBatches")
    if pause is not None:
        seconds = parse_iso_duration(pause)
        if seconds is None or seconds > _PAUSE_SECONDS_MAX:
            raise invalid_value(f"{_ROLLING}.pauseTimeBetweenBatches", pause, "a duration of ISO 8601 up to PT1H")
        found["pause_seconds"] = seconds
    return found


def _read_attachments(body: Json) -> dict[str, DiskAttachment]:
    """Return the settings of the instances' disks, by disk key."""
    found: dict[str, DiskAttachment] = {}
    if (disk := value_at(body, _OS_DISK)) is not None:
        if not isinstance(disk, Mapping):
            raise invalid_value(_OS_DISK, disk, "an object")
        found[OS_DISK] = _read_attachment(disk, _OS_DISK)
    listed = value_at(body, _DATA_DISKS) or []
    if not isinstance(listed, list) or not all(isinstance(each, Mapping) for each in listed):
        raise invalid_value(_DATA_DISKS, listed, "a list of data disks")
    luns = [read_integer(each, "lun") for each in listed]
    if None in luns:
        raise missing_field("dataDisk.lun")
    check_luns([lun for lun in luns if lun is not None])
    return found | {
        disk_key(lun): _read_attachment(each, f"{_DATA_DISKS}[{lun}]") for lun, each in zip(luns, listed, strict=True)
    }


def _read_attachment(disk: Mapping[str, Json], path: str) -> DiskAttachment:
    if disk.get("createOption") is None:
        raise missing_field(f"{path}.createOption")
    return DiskAttachment(caching=None if disk.get("caching") is None else enum_reader(HostCaching)(disk, "caching"))


def _read_kept_fields(body: Json) -> dict[str, Any]:
    """Return the fields to store, by path, without secrets."""
    shown = remove_secrets(body)
    kept = {
        path: value
        for path, value in select_kept_fields(shown, Kind.SCALE_SET).items()
        if not path.startswith((f"{_STORAGE}.osDisk.", f"{_STORAGE}.dataDisks."))
    }
    if profile := value_at(shown, _OS_PROFILE):
        kept[_OS_PROFILE] = profile
    sku = read_sku(body, _SKU)
    if sku is not None:
        kept[_SKU] = sku.value
    return kept
