"""The identity of zones: what the catalog recorded of each, and what a zone holds of it.

FORMAT says which installation, region and zone a store was made for; any copy or leftover of it says the same. So each
zone also holds an object whose key is a random uid, and the catalog, which all processes share, records that uid and
the kind of the store. A process whose own settings lead it to another store finds another uid there, or none.
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
    """What the catalog knows of zones. Every method is a transaction of its own."""

    def find(self, region: str, zone: str) -> ZoneRecord | None:
        """The record of a zone; None where it was never used."""

    def add(self, record: ZoneRecord) -> ZoneRecord:
        """Record a zone that has no record; the record that counts, perhaps another process's."""

    def replace(self, record: ZoneRecord) -> None:
        """Record another store for a zone, and count what lay in the former one alone as lost."""

    def list_prefixes(self, region: str, zone: str) -> Collection[str]:
        """What the keys of each slot that lies in the zone start with."""

    def records_every_zone(self) -> bool:
        """Whether a zone without a record was never used. False where older code began the installation."""

    def list_sample_keys(self, region: str, zone: str) -> Sequence[str]:
        """The keys of some manifests that should lie in the zone."""

    def filter_known_checkpoints(self, region: str, zone: str, found: Sequence[Checkpoint]) -> Sequence[Checkpoint]:
        """Those of a zone's checkpoints that the catalog recorded. Others prove that it is outdated: it remembers that."""


class Consent(Enum):
    """What an operator said of a zone that is not the recorded one."""

    NONE = "none"
    REPAIR = "repair"
    """The zone was named: its marks may be mended, and an empty one of three made new."""
    REPLACED = "replaced"
    """The store was replaced: what lay in the former one counts as lost."""


@dataclass(frozen=True, slots=True)
class ZoneObjects:
    """What lies at the top of a zone, below `keys.ZONE`."""

    uids: frozenset[str]
    checkpoints: tuple[Checkpoint, ...]


def read_zone_objects(store: ObjectStore) -> ZoneObjects:
    """List the uids and checkpoints of a zone, with one LIST."""
    found = [info.key for info in store.list(object_keys.ZONE)]
    names = [name for key in found if (name := object_keys.checkpoint_name(key)) is not None]
    return ZoneObjects(
        uids=frozenset(uid for key in found if (uid := object_keys.zone_uid(key)) is not None),
        checkpoints=tuple(each for name in names if (each := Checkpoint.parse(name)) is not None),
    )


def check_kind(record: ZoneRecord, kind: ZoneKind, store: str) -> None:
    """Refuse a store of another kind than the recorded one.

    Raises:
        StoreMismatch: a directory where the catalog recorded an S3 bucket, or the reverse.
    """
    if record.kind is kind:
        return
    raise StoreMismatch(
        f"Zone {record.zone} of {record.region} is not the store that this installation uses.",
        found=f"{store}, by the settings of this process",
        expected=record.place,
        hint="give this process the zone's endpoint: set the variable that regions.yaml names for it "
        f"(IMGSTORE_{record.region.upper()}_ENDPOINT or the like)" + _or_replace(record.region, record.zone)
        if record.kind is ZoneKind.S3
        else "unset the zone's endpoint in the environment or in regions.yaml"
        + _or_replace(record.region, record.zone),
        target=store,
    )


def other_zone_error(record: ZoneRecord, store: str, uids: Collection[str]) -> StoreMismatch:
    """The error for a store that holds another zone's uid, or none."""
    return StoreMismatch(
        f"{store} is not the zone {record.zone} of {record.region} that this installation uses.",
        found=f"the zone uid {', '.join(sorted(uids))}" if uids else "no zone uid",
        expected=f"the zone uid {record.uid}, recorded for {record.place}",
        hint="mend the endpoint, bucket or mount point of the zone" + _or_replace(record.region, record.zone),
        target=store,
    )


def missing_zone_error(region: str, zone: str, store: str, record: ZoneRecord | None) -> StoreMismatch:
    """The error for a store without FORMAT where the catalog knows of a zone."""
    expected = "a zone: the catalog has content in it" if record is None else f"the zone uid {record.uid}"
    return StoreMismatch(
        f"{store} is not the zone {zone} of {region} that this installation uses.",
        found="no FORMAT object: nothing is mounted there, or it is another store",
        expected=expected + ("" if record is None else f", recorded for {record.place}"),
        hint="mount the zone's file system, or mend its endpoint or bucket; nothing was written"
        + _or_replace(region, zone),
        target=store,
    )


def other_content_error(region: str, zone: str, store: str, missing: int, asked: int) -> StoreMismatch:
    """The error for a store that has a right FORMAT and not what the catalog says of it."""
    return StoreMismatch(
        f"{store} does not hold what the catalog says of zone {zone} of {region}.",
        found=f"{missing} of {asked} manifests that are missing",
        expected="the store that this installation has used so far",
        hint="mend the endpoint, bucket or mount point of the zone" + _or_replace(region, zone),
        target=store,
    )


def _or_replace(region: str, zone: str) -> str:
    return (
        f"; if that store is gone for good, `imgstore regions init --zone {region}/{zone} --replaced` takes this one "
        "instead, and `imgstore scrub` brings the content from other replicas"
    )
