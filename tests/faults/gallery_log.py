"""An ordered log of the events in a catalog, written by triggers of the database, with rules for each event.

The triggers write into a separate table in the watched transaction, so a rollback removes its events. `History` reads
new events, and computes charges, storage, states and placement independently (docs/internals).
"""

import sqlite3
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

_EVENTS: Final = {
    "slot": (
        "AFTER INSERT ON slots",
        "NEW.uid, NEW.pool_uid, NEW.region, NEW.storage_account_type, NEW.ordinal || ' ' || NEW.zone || ' ' || NEW.bucket",
    ),
    "segment": ("AFTER INSERT ON segments", "NEW.id, NEW.name, NEW.stored_bytes, NEW.pool_uid, NULL"),
    "version": ("AFTER INSERT ON versions", "NEW.uid, NEW.location, NULL, NULL, NULL"),
    "replica": ("AFTER INSERT ON replicas", "NEW.uid, NEW.version_uid, NEW.slot_uid, NEW.state, NULL"),
    "state": ("AFTER UPDATE OF state ON replicas", "NEW.uid, OLD.state, NEW.state, NULL, NULL"),
    "replica gone": ("AFTER DELETE ON replicas", "OLD.uid, OLD.state, NULL, NULL, NULL"),
    "complete": (
        "AFTER UPDATE OF complete ON manifests WHEN NEW.complete AND NOT OLD.complete",
        "NEW.uid, NEW.owner_uid, NEW.slot_uid, NEW.segment_ids, NEW.object_bytes || ' ' || NEW.body_key",
    ),
    "copy begun": (
        "AFTER INSERT ON works WHEN NEW.kind = 'copy'",
        "NEW.uid, NEW.slot_uid, NEW.owner_uid, NULL, NULL",
    ),
    "copy ended": (
        "AFTER UPDATE OF state ON works WHEN NEW.kind = 'copy' AND NEW.state <> 'Open'",
        "NEW.uid, NEW.slot_uid, NULL, NULL, NULL",
    ),
    "manifest gone": ("AFTER DELETE ON manifests WHEN OLD.complete", "OLD.uid, NULL, NULL, NULL, NULL"),
    "charge": (
        "AFTER INSERT ON ledger",
        "NEW.key, NEW.kind, NEW.delivered_bytes, NEW.unit_price || ' ' || NEW.amount, NEW.source || ' ' || NEW.target",
    ),
    "turn made": ("AFTER INSERT ON placements", "NEW.version_uid, NEW.region, NEW.turns, NULL, NULL"),
    "turn taken": ("AFTER UPDATE OF turns ON placements", "NEW.version_uid, NEW.region, NEW.turns, NULL, NULL"),
    "disk": ("AFTER INSERT ON disks", "NEW.uid, NEW.source_version_uid, NEW.slot_uid, NEW.replica, NULL"),
    "condemned": ("AFTER INSERT ON condemned", "NEW.slot_uid, NEW.name, NEW.since, NULL, NULL"),
    "deleting": (
        "AFTER UPDATE OF sentence ON condemned WHEN NEW.sentence = 'Deleting' AND OLD.sentence <> 'Deleting'",
        "NEW.slot_uid, NEW.name, NEW.since, NEW.lease_expires_at, NULL",
    ),
}

_MAY: Final = {
    ("Pending", "Replicating"),
    ("Failed", "Replicating"),
    ("Degraded", "Replicating"),
    ("Replicating", "Replicating"),
    ("Replicating", "Completed"),
    ("Replicating", "Failed"),
    ("Completed", "Degraded"),
}
"""The table of states. Each state except Deleting may also change to Deleting."""

STORED: Final = (
    "INSERT INTO happened (what, a, b) SELECT 'stored', works.uid, :name FROM works JOIN slots ON slots.uid = slot_uid"
    " WHERE kind = 'copy' AND state = 'Open' AND holder = :holder AND pool_uid = :pool AND region = :region"
    " AND storage_account_type = :kind AND ordinal = :ordinal"
)
"""A segment that a copy stored, as the store of the zone sees it, whatever was in the slot before."""

COLLECT_LEASE_SECONDS: Final = 300.0
REMOVAL_LEASE_SECONDS: Final = 20.0
"""The lease of a removal of a damaged segment (invariant G14), which needs no grace period."""


def watch(connection: sqlite3.Connection) -> None:
    """Log every event from now on."""
    connection.execute("CREATE TABLE happened (number INTEGER PRIMARY KEY AUTOINCREMENT, what, a, b, c, d, e)")
    for what, (when, values) in _EVENTS.items():
        name = what.replace(" ", "_")
        connection.execute(
            f"CREATE TRIGGER happened_{name} {when} BEGIN "
            f"INSERT INTO happened (what, a, b, c, d, e) VALUES ('{what}', {values}); END"
        )
    connection.commit()


@dataclass(frozen=True, slots=True)
class SlotFact:
    """A slot."""

    uid: str
    pool: str
    region: str
    kind: str
    ordinal: int
    zone: str
    """The name of the zone, or "zrs" for three zones."""
    bucket: str


@dataclass(slots=True)
class ReplicaFact:
    """The present state of a replica."""

    uid: str
    version: str
    slot: SlotFact
    state: str


@dataclass(frozen=True, slots=True)
class ManifestFact:
    """The row of a complete manifest."""

    uid: str
    owner: str
    slot: SlotFact
    segments: dict[bytes, int]
    """Stored bytes by name."""
    body_key: str

    @property
    def own_key(self) -> str:
        """The key of the manifest or reference of the owner, below the slot."""
        return f"manifests/{self.owner}/os"


@dataclass(slots=True)
class CopyFact:
    """An open work that copies a replica."""

    slot: str
    version: str
    stored: set[bytes] = field(default_factory=set)
    """The names of the segments that the work has stored."""
    beside: list["CopyFact"] = field(default_factory=list)
    """The other copies into the slot that were open at the same time."""


@dataclass(slots=True)
class History:
    """The present state as computed from all events."""

    egress_per_gb: Decimal
    """The price between any two used regions."""
    grace_seconds: float = 0.0
    """The grace period of the present collector."""
    slots: dict[str, SlotFact] = field(default_factory=dict)
    replicas: dict[str, ReplicaFact] = field(default_factory=dict)
    manifests: dict[str, ManifestFact] = field(default_factory=dict)
    egress_bytes: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Bytes by target region."""
    seen: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """The number of each kind of event, for the statistics of an example."""
    _segments: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    _locations: dict[str, str] = field(default_factory=dict)
    """Source region by version."""
    _charges: dict[str, tuple[str, int]] = field(default_factory=dict)
    """(kind, delivered bytes) by replica of the present transaction."""
    _object_bytes: dict[tuple[str, str], int] = field(default_factory=dict)
    """The stored bytes of the manifests and references, by slot and key below the slot."""
    _copies: dict[str, CopyFact] = field(default_factory=dict)
    """The open copies."""
    _turn: tuple[str, str, int] | None = None
    _number: int = 0

    def read_on(self, connection: sqlite3.Connection) -> None:
        """Read the new events.

        Raises:
            AssertionError: a forbidden event happened.
        """
        rows = connection.execute("SELECT * FROM happened WHERE number > ? ORDER BY number", (self._number,))
        for number, what, *values in rows.fetchall():
            self._number = number
            self.seen[what] += 1
            getattr(self, "_" + what.replace(" ", "_"))(*values)
        assert not self._charges, f"charged for what did not become complete: {self._charges}"

    def _slot(self, uid: str, pool: str, region: str, kind: str, rest: str) -> None:
        ordinal, zone, bucket = rest.split(" ")
        self.slots[uid] = SlotFact(uid, pool, region, kind, int(ordinal), zone, bucket)

    def _segment(self, number: int, name: bytes, stored_bytes: int, *_: Any) -> None:
        assert number not in self._segments, "a segment's id was given twice"
        self._segments[number] = (name, stored_bytes)

    def _version(self, uid: str, location: str, *_: Any) -> None:
        self._locations[uid] = location

    def _replica(self, uid: str, version: str, slot: str, state: str, _: Any) -> None:
        assert state == "Pending", f"a replica begins as {state}"
        self.replicas[uid] = ReplicaFact(uid, version, self.slots[slot], state)

    def _state(self, uid: str, before: str, after: str, *_: Any) -> None:
        replica = self.replicas[uid]
        assert (before, after) in _MAY or (after == "Deleting" != before), f"{before} became {after}"
        replica.state = after
        self.seen[f"became {after}"] += 1
        if after == "Completed":
            assert self._manifest_of(replica), "Completed without a complete manifest"

    def _replica_gone(self, uid: str, state: str, *_: Any) -> None:
        replica = self.replicas.pop(uid)
        assert state == "Deleting", f"a replica went that was {state}"
        assert not self._manifest_of(replica), "a replica's row went before its manifest's"

    def _complete(self, uid: str, owner: str, slot: str, ids: bytes, rest: str) -> None:
        object_bytes, body_key = rest.split(" ")
        numbers = struct.unpack(f"<{len(ids) // 4}I", ids)
        manifest = ManifestFact(
            uid,
            owner,
            self.slots[slot],
            dict(self._segments[number] for number in numbers),
            body_key,
        )
        self._object_bytes[slot, manifest.own_key] = int(object_bytes)
        if owner in self._locations:
            self._check_charge(manifest)
        self.manifests[uid] = manifest

    def _copy_begun(self, uid: str, slot: str, version: str, *_: Any) -> None:
        begun = CopyFact(slot, version)
        begun.beside = [each for each in self._copies.values() if each.slot == slot]
        for each in begun.beside:
            each.beside.append(begun)
        self._copies[uid] = begun

    def _copy_ended(self, uid: str, *_: Any) -> None:
        del self._copies[uid]

    def _stored(self, uid: str, name: bytes, *_: Any) -> None:
        self._copies[uid].stored.add(name)

    def _manifest_gone(self, uid: str, *_: Any) -> None:
        del self.manifests[uid]

    def _charge(self, key: str, kind: str, delivered_bytes: int, price: str, ways: str) -> None:
        unit_price, amount = (Decimal(each) for each in price.split(" "))
        source, target = ways.split(" ")
        crossing = kind == "egress"
        assert unit_price == (self.egress_per_gb if crossing else 0), f"{kind} at {unit_price}"
        assert amount == unit_price * delivered_bytes / 10**9, f"{delivered_bytes} bytes at {unit_price} cost {amount}"
        if kind == "repair":
            return
        assert key not in self._charges, "charged twice"
        self._charges[key] = (kind, delivered_bytes)
        if crossing:
            assert source != target
            self.egress_bytes[target] += delivered_bytes

    def _turn_made(self, version: str, region: str, turns: int, *_: Any) -> None:
        self._turn = (version, region, turns - 1)

    _turn_taken = _turn_made

    def _disk(self, _: str, version: str, slot: str, ordinal: int, __: Any) -> None:
        """Check round robin over the complete replicas of the region, by ordinal."""
        assert self._turn is not None, "a disk without a turn"
        of, region, turn = self._turn
        assert (of, region) == (version, self.slots[slot].region), "a disk of another version's turn"
        there = [each for each in self.replicas.values() if (each.version, each.slot.region) == (of, region)]
        fit = sorted(
            (each.slot for each in there if each.state == "Completed"), key=lambda each: (each.ordinal, each.kind)
        )
        assert fit, "a disk of a replica that is not complete"
        assert fit[turn % len(fit)].uid == slot, f"turn {turn} of {len(fit)} went to ordinal {ordinal}"
        self._turn = None

    def _condemned(self, slot: str, name: bytes, *_: Any) -> None:
        assert name not in self.stored_in(slot), "condemned what a complete manifest names"

    def _deleting(self, slot: str, name: bytes, since: str, lease_expires_at: str, _: Any) -> None:
        assert name not in self.stored_in(slot), "deletes what a complete manifest names"
        patience = datetime.fromisoformat(lease_expires_at) - datetime.fromisoformat(since)
        if patience.total_seconds() <= REMOVAL_LEASE_SECONDS:
            return
        waited = patience.total_seconds() - COLLECT_LEASE_SECONDS
        assert waited >= self.grace_seconds, f"deleted after {waited} s, not {self.grace_seconds}"

    def _manifest_of(self, replica: ReplicaFact) -> ManifestFact | None:
        wanted = (replica.version, replica.slot.uid)
        return next((each for each in self.manifests.values() if (each.owner, each.slot.uid) == wanted), None)

    def _check_charge(self, manifest: ManifestFact) -> None:
        """Check that the first replica of a version in a region pays for the segments that its copy brought.

        A segment counts if no complete manifest of the region names the segment. If two copies into the slot are open
        at the same time, the replica that completes first may pay for the segments of both copies.
        """
        slot = manifest.slot
        replica = next(
            each
            for each in self.replicas.values()
            if (each.version, each.slot.uid, each.state) == (manifest.owner, slot.uid, "Replicating")
        )
        first_here = not any(
            (each.version, each.slot.region, each.state) == (manifest.owner, slot.region, "Completed")
            for each in self.replicas.values()
        )
        source = self._locations[manifest.owner]
        charged = self._charges.pop(replica.uid, None)
        if first_here and source == slot.region:
            assert charged is None, f"{slot.region}/{slot.ordinal}: charged {charged} in the source region"
            return
        (copy,) = (each for each in self._copies.values() if (each.version, each.slot) == (manifest.owner, slot.uid))
        there = self._stored_in_region(slot) if first_here else self.stored_in(slot.uid)
        new = {name: size for name, size in manifest.segments.items() if name not in there}
        least, most = (
            sum(size for name, size in new.items() if name in stored)
            for stored in (copy.stored, copy.stored.union(*(each.stored for each in copy.beside)))
        )
        where = f"{slot.region}/{slot.ordinal}"
        assert charged is not None, f"{where}: not charged"
        kind, count = charged
        assert kind == ("egress" if first_here else "copy"), f"{where}: charged as {kind}"
        assert least <= count <= most, f"{where}: charged {count}, arrived {least} to {most}"
        self.seen["charged less than new"] += count < sum(new.values())

    def _stored_in_region(self, slot: SlotFact) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for each in self.manifests.values():
            if (each.slot.pool, each.slot.region) == (slot.pool, slot.region):
                found |= each.segments
        return found

    def stored_in(self, slot_uid: str) -> dict[bytes, int]:
        """Return the segments that complete manifests of a slot name, with their stored bytes."""
        found: dict[bytes, int] = {}
        for each in self.manifests.values():
            if each.slot.uid == slot_uid:
                found |= each.segments
        return found

    def billed_in(self, slot_uid: str) -> int:
        """Return the billed bytes of a slot: each segment and each manifest once, with manifests that only disks name."""
        mine = [each for each in self.manifests.values() if each.slot.uid == slot_uid]
        keys = {key for each in mine for key in (each.own_key, each.body_key)}
        return sum(self._object_bytes[slot_uid, key] for key in keys) + sum(self.stored_in(slot_uid).values())
