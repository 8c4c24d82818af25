"""Read the PUT and PATCH bodies of image versions."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from imgstore.domain.disks.source_urls import redact_location
from imgstore.domain.disks.version_disks import OS_DISK, HostCaching, VersionDisk, check_luns, disk_key, lun_of
from imgstore.domain.errors import InvalidInput, PropertyChangeNotAllowed
from imgstore.domain.names import ComputeId, parse_image_reference, region_key
from imgstore.domain.requests import VersionRequest
from imgstore.domain.resources import (
    KEEP,
    DiskKind,
    ImageVersion,
    ReplicationMode,
)
from imgstore.wire.api_versions import Kind
from imgstore.wire.json_fields import flag_of, integer_of, invalid_value, tags_of, text_of, value_at
from imgstore.wire.json_text import Json
from imgstore.wire.requests.arguments import parse_end_of_life, parse_storage_account_type
from imgstore.wire.requests.body_fields import read_known_fields
from imgstore.wire.requests.disk import check_compute_id, check_source_url
from imgstore.wire.requests.fields import check_object, enum_reader, location_of, missing_field
from imgstore.wire.requests.gallery_update import read_integer
from imgstore.wire.requests.version_update import read_target_regions

_PUBLISHING: Final = "properties.publishingProfile"
_STORAGE: Final = "properties.storageProfile"
_SAFETY: Final = "properties.safetyProfile"
_MODE: Final = f"{_PUBLISHING}.replicationMode"
_OS: Final = f"{_STORAGE}.osDiskImage"
_DATA: Final = f"{_STORAGE}.dataDiskImages"
_CACHING: Final = enum_reader(HostCaching)
_STORAGE_ACCOUNT: Final = re.compile(r"/subscriptions/.+/storageAccounts/[^/]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionBody:
    """The body of a request for an image version."""

    request: VersionRequest
    """The request, without the source of a new version. A property that is not in the body is None or `KEEP`."""
    source: str | None
    """The id of the source of all disks: a managed image, a version, a disk or a snapshot."""
    sources: Mapping[str, str]
    """The source of each disk by disk key: the URL of a file, or the id of a disk or snapshot."""
    luns: tuple[int, ...] | None
    """The LUNs of the data disks."""
    restore: bool
    """Restore a softly deleted version. A PUT without properties, as az's undelete sends, has the same effect."""

    @property
    def names_sources(self) -> bool:
        """Whether the body names the source of the OS disk."""
        return self.source is not None or OS_DISK in self.sources

    def check_same_source(self, existing: ImageVersion) -> None:
        """Check that the body names the source and the region of an existing version.

        Raises:
            PropertyChangeNotAllowed: The source or the region differs.
        """
        location, mode = self.request.location, self.request.replication_mode
        if location is not None and region_key(location) != existing.location:
            raise PropertyChangeNotAllowed("location", found=location, expected=existing.location)
        if mode not in (None, existing.replication_mode):
            raise PropertyChangeNotAllowed(
                f"galleryImageVersion.{_MODE}", found=mode, expected=existing.replication_mode
            )
        luns = tuple(disk.lun for disk in existing.data_disks)
        if self.luns is not None and set(self.luns) != set(luns):
            raise PropertyChangeNotAllowed(
                f"galleryImageVersion.{_DATA}",
                found=f"data disks at LUN {_format_luns(self.luns)}",
                expected=f"data disks at LUN {_format_luns(luns)}",
            )
        shown = existing.os_disk.source.location
        if self.source is not None and not _refers_to(self.source, shown):
            raise PropertyChangeNotAllowed(
                f"galleryImageVersion.{_STORAGE}.source.id", found=self.source, expected=redact_location(shown)
            )
        for disk in existing.disks:
            self._check_same_disk(disk)

    def _check_same_disk(self, existing: VersionDisk) -> None:
        path = f"galleryImageVersion.{_disk_path(existing.key)}"
        source, shown = self.sources.get(existing.key), redact_location(existing.source.location)
        if source is not None and not _is_same_source(redact_location(source), shown):
            field = "id" if _is_id(source) else "uri"
            raise PropertyChangeNotAllowed(f"{path}.source.{field}", found=redact_location(source), expected=shown)
        caching = self.request.host_caching.get(existing.key, existing.host_caching)
        if caching is not existing.host_caching:
            raise PropertyChangeNotAllowed(f"{path}.hostCaching", found=caching, expected=existing.host_caching)


def read_version(body: Json, api_version: str, *, is_put: bool, place: Mapping[str, Any]) -> VersionBody:
    """Read the body of an image version.

    Args:
        body: The JSON of the request.
        api_version: The api-version of the request.
        is_put: True for a PUT, False for a PATCH. A PUT with a publishing profile but without an end of life removes
            the end of life.
        place: The group, gallery, definition and version of the request.

    Raises:
        InvalidInput: The body is not a version, or a field is not supported. The target is the path.
    """
    check_object(body)
    known = read_known_fields(body, Kind.VERSION, api_version)
    regions, kind = (
        value_at(known, f"{_PUBLISHING}.targetRegions"),
        value_at(known, f"{_PUBLISHING}.storageAccountType"),
    )
    ends = text_of(value_at(known, f"{_PUBLISHING}.endOfLifeDate"), f"{_PUBLISHING}.endOfLifeDate")
    silent = None if is_put and value_at(known, _PUBLISHING) is not None else KEEP
    tags = value_at(known, "tags")
    disks = _read_disks(known)
    request = VersionRequest(
        **place,
        location=location_of(known) if is_put or value_at(known, "location") is not None else None,
        host_caching={key: disk.caching for key, disk in disks.items() if disk.caching is not None},
        target_regions=None if regions is None else read_target_regions(_without_nulls(regions)),
        replica_count=read_integer(known, f"{_PUBLISHING}.replicaCount"),
        storage_account_type=None if kind is None else parse_storage_account_type(str(kind)),
        replication_mode=_read_mode(known),
        exclude_from_latest=_read_flag(known, f"{_PUBLISHING}.excludeFromLatest"),
        end_of_life_at=silent if ends is None else parse_end_of_life(ends),
        allow_deletion_of_replicated_locations=_read_flag(known, f"{_SAFETY}.allowDeletionOfReplicatedLocations"),
        block_deletion_before_end_of_life=_read_flag(known, f"{_SAFETY}.blockDeletionBeforeEndOfLife"),
        tags=tags_of(known) if tags is not None or is_put else None,
    )
    luns = tuple(lun for key in disks if (lun := lun_of(key)) is not None)
    return VersionBody(
        request=request,
        source=_read_common_source(known),
        sources={key: disk.source for key, disk in disks.items() if disk.source is not None},
        luns=None if value_at(known, _DATA) is None else luns,
        restore=flag_of(value_at(known, "properties.restore"), "properties.restore")
        or (is_put and not known.get("properties")),
    )


def _read_mode(body: Json) -> ReplicationMode | None:
    raw = value_at(body, _MODE)
    by_word = {mode.lower(): mode for mode in ReplicationMode}
    if raw is not None and str(raw).lower() not in by_word:
        raise invalid_value(_MODE, raw, " or ".join(ReplicationMode))
    return None if raw is None else by_word[str(raw).lower()]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Disk:
    """A disk in a body."""

    source: str | None
    caching: HostCaching | None


def _read_disks(body: Json) -> dict[str, _Disk]:
    """Return the disks of a version by disk key: the OS disk, then the data disks in order."""
    raw = value_at(body, _DATA)
    if raw is not None and not (isinstance(raw, list) and all(isinstance(each, Mapping) for each in raw)):
        raise invalid_value(_DATA, raw, "a list of data disks with LUNs")
    images = raw or []
    luns = [_read_lun(each) for each in images]
    check_luns(luns)
    disks = {OS_DISK: _read_disk(value_at(body, _OS), _OS)}
    return disks | {
        disk_key(lun): _read_disk(each, _disk_path(disk_key(lun))) for lun, each in zip(luns, images, strict=True)
    }


def _read_lun(image: Json) -> int:
    lun = value_at(image, "lun")
    if lun is None:
        raise missing_field(f"galleryImageVersion.{_DATA}.lun")
    return integer_of(lun, f"{_DATA}.lun")


def _read_disk(image: Json, path: str) -> _Disk:
    caching = value_at(image, "hostCaching")
    return _Disk(
        source=_read_source(image, f"{path}.source"),
        caching=None if caching is None else _CACHING(image, "hostCaching"),
    )


def _read_source(image: Json, path: str) -> str | None:
    """Return the URL of a file or, without a URL, the id of a disk or snapshot.

    A URL may come with the id of its storage account. Azure checks the caller's right to the account. In imgstore, the
    URL alone grants access.
    """
    raw = value_at(image, "source")
    if raw in (None, {}):
        return None
    uri = text_of(value_at(raw, "uri"), f"{path}.uri")
    for name in ("id", "storageAccountId"):
        account = value_at(raw, name)
        if account and (name != "id" or uri) and not _is_storage_account(account):
            raise invalid_value(f"{path}.{name}", account, "the id of the storage account of the URL, or nothing")
    if uri:
        return check_source_url(uri, f"{path}.uri")
    if value_at(raw, "storageAccountId"):
        raise missing_field(f"galleryImageVersion.{path}.uri")
    return check_compute_id(value_at(raw, "id"), f"{path}.id", DiskKind.DISK, DiskKind.SNAPSHOT)


def _is_storage_account(value: Json) -> bool:
    return isinstance(value, str) and _STORAGE_ACCOUNT.fullmatch(value) is not None


def _read_common_source(body: Json) -> str | None:
    """Return the source of all disks. The first api-versions had the source in the publishing profile."""
    raw = value_at(body, f"{_STORAGE}.source")
    if raw not in (None, {}) and not isinstance(raw, Mapping):
        raise invalid_value(f"{_STORAGE}.source", raw, "an object with an id")
    named = {
        path: word
        for path in (
            f"{_STORAGE}.source.id",
            f"{_STORAGE}.source.communityGalleryImageId",
            f"{_PUBLISHING}.source.managedImage.id",
        )
        if (word := text_of(value_at(body, path), path))
    }
    if value_at(raw, "virtualMachineId") is not None or (raw and not named):
        raise invalid_value(
            f"{_STORAGE}.source", raw, "the id of a managed image, an image version, a disk or a snapshot"
        )
    if len(named) > 1:
        raise invalid_value(_STORAGE, list(named), "one source")
    for path, word in named.items():
        if ComputeId.parse(word) is not None:
            return check_compute_id(word, path, *DiskKind)
        try:
            parse_image_reference(word)
        except InvalidInput as error:
            expected = "the id of a managed image, an image version, a disk or a snapshot"
            raise invalid_value(path, word, expected) from error
        return word
    return None


def _is_same_source(source: str, shown: str) -> bool:
    """Return whether two sources are equal. Ids are case-insensitive."""
    return source == shown or (_is_id(source) and source.lower() == shown.lower())


def _refers_to(source: str, shown: str) -> bool:
    """Return whether an id names the stored source, the definition of the source, or the source in a shared gallery."""
    prefix, stored = f"{source}/".lower(), f"{shown}/".lower()
    if not prefix.startswith("/subscriptions/"):
        prefix, stored = prefix.partition("/images/")[2], stored.partition("/images/")[2]
    return stored.startswith(prefix)


def _is_id(source: str) -> bool:
    return source.startswith("/")


def _disk_path(key: str) -> str:
    """Return the path of a disk in a body."""
    lun = lun_of(key)
    return _OS if lun is None else f"{_DATA}[{lun}]"


def _format_luns(luns: tuple[int | None, ...]) -> str:
    return ", ".join(map(str, luns)) or "none"


def _read_flag(body: Json, path: str) -> bool | None:
    value = value_at(body, path)
    return None if value is None else flag_of(value, path)


def _without_nulls(regions: Json) -> Json:
    """Remove empty values, such as an empty encryption, from target regions."""
    if not isinstance(regions, list):
        return regions
    return [
        {name: value for name, value in each.items() if value not in (None, [], {})}
        if isinstance(each, Mapping)
        else each
        for each in regions
    ]
