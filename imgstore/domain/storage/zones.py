"""The identity of a zone, as the catalog records the zone for all processes of the installation."""

from dataclasses import dataclass
from enum import StrEnum


class ZoneKind(StrEnum):
    """The kind of a zone's store."""

    DIRECTORY = "directory"
    S3 = "s3"


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneRecord:
    """A zone of the installation. A store without this uid is another store."""

    region: str
    zone: str
    uid: str
    """Random. The zone contains an object of this name (`object_keys.zone_uid_key`)."""
    kind: ZoneKind
    place: str
    """The recorded name of the store, for people: "s3 http://127.0.0.1:9000/imgstore-eastus"."""
