"""Bodies of PUT and PATCH of an image version into what is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from imgstore.domain.errors import InvalidInput, PropertyChangeNotAllowed
from imgstore.domain.names import region_key
from imgstore.domain.resources import (
    KEEP,
    ImageVersion,
    Keep,
    ReplicationMode,
    StorageAccountType,
    TargetRegionRequest,
    VersionUpdate,
)
from imgstore.wire.api_versions import Kind, trimmed
from imgstore.wire.bodies import check_object, location_of, refuse
from imgstore.wire.edited import whole_at
from imgstore.wire.reading import at, flag_of, tags_of, text_of, unfit
from imgstore.wire.requests import parse_end_of_life, parse_storage_account_type
from imgstore.wire.resources import without_secrets
from imgstore.wire.text import Json
from imgstore.wire.version_updates import target_regions_of

_PUBLISHING: Final = "properties.publishingProfile"
_STORAGE: Final = "properties.storageProfile"
_SAFETY: Final = "properties.safetyProfile"
_NOT_HEEDED: Final = (
    f"{_PUBLISHING}.source",
    f"{_PUBLISHING}.targetExtendedLocations",
    f"{_PUBLISHING}.storageAccountStrategy",
    f"{_STORAGE}.source",
    f"{_STORAGE}.dataDiskImages",
    "properties.securityProfile",
)
_MODE: Final = f"{_PUBLISHING}.replicationMode"
_SOURCE: Final = f"{_STORAGE}.osDiskImage.source"
_SCHEMES: Final = ("https", "http")
"""No paths and no s3 over the network: both would be read with the server's own rights (rules.md, rule 25). Plain http is
the source's to refuse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionBody:
    """A version as a body speaks of it; what is None or `KEEP` is not spoken of."""

    location: str | None
    uri: str | None
    """The OS disk's source."""
    restore: bool
    """Have it back that was deleted softly: said so, or a PUT without properties, as az's undelete."""
    target_regions: tuple[TargetRegionRequest, ...] | None
    replica_count: int | None
    storage_account_type: StorageAccountType | None
    replication_mode: ReplicationMode | None
    exclude_from_latest: bool | None
    end_of_life_at: datetime | Keep | None
    """None takes it away."""
    allow_deletion_of_replicated_locations: bool | None
    block_deletion_before_end_of_life: bool | None
    tags: Mapping[str, str] | None

    def as_update(self) -> VersionUpdate:
        """What it asks of a version that stands."""
        return VersionUpdate(
            target_regions=self.target_regions,
            replica_count=self.replica_count,
            storage_account_type=self.storage_account_type,
            exclude_from_latest=self.exclude_from_latest,
            end_of_life_at=self.end_of_life_at,
            allow_deletion_of_replicated_locations=self.allow_deletion_of_replicated_locations,
            block_deletion_before_end_of_life=self.block_deletion_before_end_of_life,
            tags=self.tags,
        )

    def check_same_source(self, standing: ImageVersion) -> None:
        """See that it names no other source and no other region than a version was made from.

        Raises:
            PropertyChangeNotAllowed: it does.
        """
        if self.location is not None and region_key(self.location) != standing.location:
            raise PropertyChangeNotAllowed("location", found=self.location, expected=standing.location)
        if self.replication_mode not in (None, standing.replication_mode):
            raise PropertyChangeNotAllowed(
                f"galleryImageVersion.{_MODE}", found=self.replication_mode, expected=standing.replication_mode
            )
        shown = without_secrets(standing.os_disk.source.location)
        if self.uri is not None and without_secrets(self.uri) != shown:
            raise PropertyChangeNotAllowed(
                f"galleryImageVersion.{_SOURCE}.uri", found=without_secrets(self.uri), expected=shown
            )


def read_version(body: Json, api_version: str, *, whole: bool) -> VersionBody:
    """What a body says of an image version.

    Args:
        body: the request's JSON.
        api_version: the request's.
        whole: a PUT, else a PATCH. A PUT that has a publishing profile without an end of life takes that away.

    Raises:
        InvalidInput: it is no version, or asks for what is not done; its target is the path.
    """
    check_object(body)
    known = trimmed(body, Kind.VERSION, api_version)
    for path in _NOT_HEEDED:
        refuse(known, path)
    regions, kind = at(known, f"{_PUBLISHING}.targetRegions"), at(known, f"{_PUBLISHING}.storageAccountType")
    ends = text_of(at(known, f"{_PUBLISHING}.endOfLifeDate"), f"{_PUBLISHING}.endOfLifeDate")
    silent = None if whole and at(known, _PUBLISHING) is not None else KEEP
    tags = at(known, "tags")
    return VersionBody(
        location=location_of(known) if whole else None,
        uri=_uri(known),
        restore=flag_of(at(known, "properties.restore"), "properties.restore")
        or (whole and not known.get("properties")),
        target_regions=None if regions is None else target_regions_of(_without_nulls(regions)),
        replica_count=whole_at(known, f"{_PUBLISHING}.replicaCount"),
        storage_account_type=None if kind is None else parse_storage_account_type(str(kind)),
        replication_mode=_mode(known),
        exclude_from_latest=_flag(known, f"{_PUBLISHING}.excludeFromLatest"),
        end_of_life_at=silent if ends is None else parse_end_of_life(ends),
        allow_deletion_of_replicated_locations=_flag(known, f"{_SAFETY}.allowDeletionOfReplicatedLocations"),
        block_deletion_before_end_of_life=_flag(known, f"{_SAFETY}.blockDeletionBeforeEndOfLife"),
        tags=tags_of(known) if tags is not None or whole else None,
    )


def _mode(body: Json) -> ReplicationMode | None:
    said = at(body, _MODE)
    by_word = {mode.lower(): mode for mode in ReplicationMode}
    if said is not None and str(said).lower() not in by_word:
        raise unfit(_MODE, said, " or ".join(ReplicationMode))
    return None if said is None else by_word[str(said).lower()]


def _uri(body: Json) -> str | None:
    said = at(body, _SOURCE)
    if said in (None, {}):
        return None
    uri = text_of(at(body, f"{_SOURCE}.uri"), f"{_SOURCE}.uri")
    if not uri:
        raise unfit(_SOURCE, said, "the uri of a disk's file: other sources are not read over the API yet")
    if urlsplit(uri).scheme.lower() not in _SCHEMES:
        raise InvalidInput(
            f"The value of '{_SOURCE}.uri' is invalid.",
            found=repr(uri),
            expected="https://...",
            hint="paths and s3:// would be read with the server's own rights: only the command line on that machine does so",
            target=f"{_SOURCE}.uri",
        )
    return uri


def _flag(body: Json, path: str) -> bool | None:
    value = at(body, path)
    return None if value is None else flag_of(value, path)


def _without_nulls(regions: Json) -> Json:
    """An empty encryption or replica set says nothing."""
    if not isinstance(regions, list):
        return regions
    return [
        {name: value for name, value in each.items() if value not in (None, [], {})}
        if isinstance(each, Mapping)
        else each
        for each in regions
    ]
