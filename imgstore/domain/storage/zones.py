"""The identity of a zone, as the catalog records it for every process of the installation."""

from dataclasses import dataclass
from enum import StrEnum


class ZoneKind(StrEnum):
    """What a zone's store is."""

    DIRECTORY = "directory"
    S3 = "s3"


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneRecord:
    """One zone of the installation. A store that does not hold this uid is another store."""

    region: str
    zone: str
    uid: str
    """Random; the zone holds an object of this name (`keys.zone_uid_key`)."""
    kind: ZoneKind
    place: str
    """The name of the store that was recorded, for people: "s3 http://127.0.0.1:9000/imgstore-eastus"."""
