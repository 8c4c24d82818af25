"""The identity of zones: the catalog's record of a zone, and the matching objects in the zone.

FORMAT names the installation, region and zone of a store, but a copy or a leftover of that store has the same FORMAT.
Each zone therefore also contains an object with a random uid as key. The catalog is shared by all processes and records
this uid and the kind of the store. A process with wrong settings finds another uid, or none.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from imgstore.domain.errors import StoreMismatch
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.checkpoints import Checkpoint
from imgstore.domain.storage.zones import ZoneKind, ZoneRecord
from imgstore.stores.interface import ObjectStore


class ZoneRegistry(Protocol):
    """The catalog's records of zones. Each method is a separate transaction."""

    def find(self, region: str, zone: str) -> ZoneRecord | None:
        """Find the record of a zone; None if the zone was never used."""

    def add(self, record: ZoneRecord) -> ZoneRecord:
        """Record a zone without a record. Return the valid record, perhaps from another process."""

    def replace(self, record: ZoneRecord) -> None:
        """Record another store for a zone, and count content that only the former store had as lost."""

    def list_prefixes(self, region: str, zone: str) -> Collection[str]:
        """List the key prefixes of the slots in the zone."""

    def records_every_zone(self) -> bool:
        """Return whether a zone without a record was never used. False if older code created the installation."""

    def list_sample_keys(self, region: str, zone: str) -> Sequence[str]:
        """List the keys of some manifests that the zone should contain."""

    def filter_known_checkpoints(self, region: str, zone: str, found: Sequence[Checkpoint]) -> Sequence[Checkpoint]:
        """Return the checkpoints of a zone that the catalog has recorded.

        An unknown checkpoint proves an outdated catalog (invariant G15). The catalog records this fact.
        """


class Consent(Enum):
    """The operator's consent for a zone that is not the recorded one."""

    NONE = "none"
    REPAIR = "repair"
    """The operator named the zone. Its mark may be repaired, and one empty zone of three may be created again."""
    REPLACED = "replaced"
    """The store was replaced. The content of the former store counts as lost."""


@dataclass(frozen=True, slots=True)
class ZoneObjects:
    """The objects below the prefix `object_keys.ZONE` of a zone."""

    uids: frozenset[str]
    checkpoints: tuple[Checkpoint, ...]


def read_zone_objects(store: ObjectStore) -> ZoneObjects:
    """List the uids and checkpoints of a zone with a single LIST."""
    found = [info.key for info in store.list(object_keys.ZONE)]
    names = [name for key in found if (name := object_keys.checkpoint_name(key)) is not None]
    return ZoneObjects(
        uids=frozenset(uid for key in found if (uid := object_keys.zone_uid(key)) is not None),
        checkpoints=tuple(parsed for name in names if (parsed := Checkpoint.parse(name)) is not None),
    )


def check_kind(record: ZoneRecord, kind: ZoneKind, store: str) -> None:
    """Refuse a store of another kind than the recorded kind.

    Raises:
        StoreMismatch: a directory, but the catalog recorded an S3 bucket; or the reverse.
    """
    if record.kind is kind:
        return
    raise StoreMismatch(
        f"Zone {record.zone} of {record.region} is not the store that this installation uses.",
        found=f"{store}, from the settings of this process",
        expected=record.place,
        hint="give this process the zone's endpoint: set the variable that regions.yaml names for the zone "
        f"(IMGSTORE_{record.region.upper()}_ENDPOINT or the like)" + _or_replace(record.region, record.zone)
        if record.kind is ZoneKind.S3
        else "unset the zone's endpoint in the environment or in regions.yaml"
        + _or_replace(record.region, record.zone),
        target=store,
    )


def other_zone_error(record: ZoneRecord, store: str, uids: Collection[str]) -> StoreMismatch:
    """Create the error for a store without the recorded zone uid."""
    return StoreMismatch(
        f"{store} is not the zone {record.zone} of {record.region} that this installation uses.",
        found=f"the zone uid {', '.join(sorted(uids))}" if uids else "no zone uid",
        expected=f"the zone uid {record.uid}, recorded for {record.place}",
        hint="correct the endpoint, bucket or mount point of the zone" + _or_replace(record.region, record.zone),
        target=store,
    )


def missing_zone_error(region: str, zone: str, store: str, record: ZoneRecord | None) -> StoreMismatch:
    """Create the error for a store without FORMAT, although the catalog has content in the zone."""
    expected = "a zone: the catalog has content in it" if record is None else f"the zone uid {record.uid}"
    return StoreMismatch(
        f"{store} is not the zone {zone} of {region} that this installation uses.",
        found="no FORMAT object: the file system is not mounted, or this is another store",
        expected=expected + ("" if record is None else f", recorded for {record.place}"),
        hint="mount the zone's file system, or correct the zone's endpoint or bucket; nothing was written"
        + _or_replace(region, zone),
        target=store,
    )


def other_content_error(region: str, zone: str, store: str, missing: int, asked: int) -> StoreMismatch:
    """Create the error for a store with the right FORMAT but without the manifests that the catalog names."""
    return StoreMismatch(
        f"{store} does not contain the manifests of zone {zone} of {region}.",
        found=f"{missing} of {asked} manifests are missing",
        expected="the store that this installation has used so far",
        hint="correct the endpoint, bucket or mount point of the zone" + _or_replace(region, zone),
        target=store,
    )


def _or_replace(region: str, zone: str) -> str:
    return (
        f"; if that store is lost, `imgstore regions init --zone {region}/{zone} --replaced` uses this store "
        "instead, and `imgstore scrub` restores the content from other replicas"
    )
