"""An independent view of the gallery: rows by plain SQL, files by plain listings, bytes by a second decoder.

The oracle does not use imgstore for verdicts. Damage by the machine itself is excused until it is repaired.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from blake3 import blake3
from gallery_contents import BLOCK_BYTES, VIRTUAL_BYTES, Content, block_bytes, blocks_of
from gallery_decoder import Decoded, decode_manifest, decode_segment, is_whole, reference_of
from gallery_log import History, ManifestFact, SlotFact

ZONES: Final = {"southcentralus": ("1", "2", "3"), "westus2": ("1", "2", "3"), "eastus": ("1",)}
QUORUM: Final = 2
EGRESS_PER_GB: Final = Decimal("0.02")
STORAGE_PER_GB_MONTH: Final = {"Standard_LRS": Decimal("0.05"), "Standard_ZRS": Decimal("0.0625")}
_WEIGHT: Final = Decimal(10**9 * 730 * 3600)
"""Bytes times seconds of one GB for one month."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFact:
    """A version's row."""

    uid: str
    gallery: str
    definition: str
    patch: int
    """The patch of the version 1.0.patch."""
    location: str
    targets: tuple[tuple[str, int, str], ...]
    """Region, count and storage account type, sorted."""
    hidden_in: frozenset[str]
    """Regions in which the version is excluded from latest."""
    excluded: bool
    blocked: bool
    soft: bool
    state: str

    @property
    def visible(self) -> bool:
        return not self.soft and self.state != "Deleting"


@dataclass(slots=True)
class Oracle:
    """An outside view of one home."""

    home: Path
    history: History = field(default_factory=lambda: History(egress_per_gb=EGRESS_PER_GB))
    contents: dict[str, Content] = field(default_factory=dict)
    """What each version is of, by uid: the machine says so when it has published it."""
    hurt: set[Path] = field(default_factory=set)
    """Files that the machine has damaged or removed."""
    down: set[tuple[str, str]] = field(default_factory=set)
    """Zones that are lost at the moment."""
    _known_right: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """Time stamp and length of what was read and found right."""

    @property
    def catalog(self) -> Path:
        return self.home / "catalog.sqlite"

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """SQLite, past the catalog."""
        with closing(sqlite3.connect(self.catalog)) as connection:
            yield connection

    def everything(self) -> tuple[list[str], dict[str, int]]:
        """Return every row, and every file with its time stamp, without the marks of zones, which the first use
        creates."""
        with self.connected() as connection:
            rows = list(connection.iterdump())
        files = (path for path in (self.home / "regions").rglob("*") if path.is_file() and not is_of_zone(path))
        return rows, {str(path): path.stat().st_mtime_ns for path in files}

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Query rows by plain SQL."""
        with closing(sqlite3.connect(self.catalog)) as connection:
            return connection.execute(statement, values).fetchall()

    def versions(self) -> dict[tuple[str, str, int], VersionFact]:
        """Return every row of versions with tombstones, by gallery, definition and patch."""
        rows = self.ask(
            "SELECT v.uid, g.name, d.name, v.patch, v.location, v.target_regions, v.exclude_from_latest,"
            " v.block_deletion_before_end_of_life, v.soft_deleted_at, v.provisioning_state"
            " FROM versions v JOIN definitions d ON d.uid = v.definition_uid JOIN galleries g ON g.uid = d.gallery_uid"
        )
        found = {}
        for uid, gallery, definition, patch, location, targets, excluded, blocked, soft, state in rows:
            each = json.loads(targets)
            found[gallery, definition, patch] = VersionFact(
                uid=uid,
                gallery=gallery,
                definition=definition,
                patch=patch,
                location=location,
                targets=tuple(
                    sorted((one["name"], one["regional_replica_count"], one["storage_account_type"]) for one in each)
                ),
                hidden_in=frozenset(one["name"] for one in each if one["exclude_from_latest"]),
                excluded=bool(excluded),
                blocked=bool(blocked),
                soft=soft is not None,
                state=state,
            )
        return found

    def disks(self) -> dict[str, tuple[str, str, str]]:
        """Return (uid of the source version, region, state) of every row of disks, by name."""
        rows = self.ask("SELECT name, source_version_uid, location, provisioning_state FROM disks")
        return {name: (version, region, state) for name, version, region, state in rows}

    def complete_in(self, version_uid: str, region: str) -> int:
        """Count the complete replicas of a version in a region."""
        replicas = self.history.replicas.values()
        return sum((r.version, r.slot.region, r.state) == (version_uid, region, "Completed") for r in replicas)

    def latest(self, gallery: str, definition: str, region: str) -> VersionFact | None:
        """Return the highest version that is complete in the region, visible, and not excluded there or everywhere."""
        fit = [
            each
            for each in self.versions().values()
            if (each.gallery, each.definition) == (gallery, definition)
            and each.visible
            and not each.excluded
            and region not in each.hidden_in
            and self.complete_in(each.uid, region)
        ]
        return max(fit, key=lambda each: each.patch, default=None)

    # -- after each step ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check the invariants that hold at any moment, after any kill, damage or loss.

        Raises:
            AssertionError: an invariant is broken.
        """
        with closing(sqlite3.connect(self.catalog)) as connection:
            self.history.read_on(connection)
        self._check_storage()
        manifests = {row[0] for row in self.ask("SELECT uid FROM manifests WHERE complete")}
        assert manifests == self.history.manifests.keys()
        condemned: dict[str, set[bytes]] = {}
        for slot, name in self.ask("SELECT slot_uid, name FROM condemned"):
            condemned.setdefault(slot, set()).add(name)
        for manifest in self.history.manifests.values():
            self._check_there(manifest)
            assert not condemned.get(manifest.slot.uid, set()) & manifest.segments.keys(), (
                f"{_told(manifest)} is complete and names what is condemned"
            )

    def _check_storage(self) -> None:
        """Check that storage is billed for the content of complete manifests: each byte once, for its first owner."""
        rows = self.ask("SELECT slot_uid, SUM(stored_bytes) FROM intervals WHERE closed_at IS NULL GROUP BY slot_uid")
        billed = dict(rows)
        for uid, slot in self.history.slots.items():
            lies = self.history.billed_in(uid)
            assert billed.get(uid, 0) == lies, f"{slot.region}/{slot.ordinal}: billed {billed.get(uid, 0)}, lies {lies}"

    def _check_there(self, manifest: ManifestFact) -> None:
        """Check that every object of a complete manifest is in its slot and matches its name."""
        own = f"manifests/{manifest.owner}/os"
        for key in {own, manifest.body_key}:
            assert self._is_there(manifest.slot, key), f"{_told(manifest)}: {key} is not there"
        if own != manifest.body_key:
            told = {
                reference_of(path.read_bytes()) for path in self.copies(manifest.slot, own) if self._right(path, own)
            }
            assert told <= {manifest.body_key}, f"{_told(manifest)} refers to {told}"
        decoded = self.decoded(manifest)
        if decoded is not None:
            assert decoded.segments == manifest.segments, f"{_told(manifest)}: the catalog lists other segments"
        for name, size in manifest.segments.items():
            assert self._is_there(manifest.slot, segment_key(name), size), (
                f"{_told(manifest)}: segment {name.hex()} is missing or damaged"
            )

    def decoded(self, manifest: ManifestFact) -> Decoded | None:
        """Decode a complete manifest; None if each copy is damaged or in a lost zone."""
        for path in self.copies(manifest.slot, manifest.body_key):
            if self._right(path, manifest.body_key):
                return decode_manifest(path.read_bytes())
        return None

    def folders(self, slot: SlotFact) -> Iterator[tuple[str, Path]]:
        """Return the folder of a slot in each of its zones."""
        for each in ZONES[slot.region] if slot.zone == "zrs" else (slot.zone,):
            prefix = f"pools/{slot.pool}/{slot.kind}/replica-{slot.ordinal}"
            yield each, self.home / "regions" / slot.bucket / f"zone-{each}" / prefix

    def copies(self, slot: SlotFact, key: str) -> list[Path]:
        """Return the expected paths of an object of a slot in the zones that are not lost."""
        return [folder / key for zone, folder in self.folders(slot) if (slot.region, zone) not in self.down]

    def _is_there(self, slot: SlotFact, key: str, size: int | None = None) -> bool:
        zones = list(self.folders(slot))
        right = 0
        for zone, folder in zones:
            path = folder / key
            if (slot.region, zone) in self.down:
                right += 1  # what was hurt there before stays hurt
            elif self._right(path, key, size):
                right += 1
                self.hurt.discard(path)
            else:
                right += path in self.hurt
        return right >= min(QUORUM, len(zones))

    def _right(self, path: Path, key: str, size: int | None = None) -> bool:
        """Return whether a file exists and matches its name. Each written file is read once."""
        try:
            stat = path.stat()
        except OSError:
            return False
        stamp = (stat.st_mtime_ns, stat.st_size)
        if self._known_right.get(path) != stamp:
            data = path.read_bytes()
            right = blake3(data).hexdigest() == path.name if key.startswith("segments/") else is_whole(data)
            if not right:
                return False
            self._known_right[path] = stamp
        return size in (None, stat.st_size)

    # -- damage -------------------------------------------------------------------------------------------------------

    def hurtable(self) -> list[Path]:
        """Return the files whose damage a scrub can repair, because another right copy of each is named elsewhere."""
        found: list[Path] = []
        for slot in self.history.slots.values():
            names = self.history.stored_in(slot.uid)
            for name, size in sorted(names.items()):
                key = segment_key(name)
                here = [path for path in self.copies(slot, key) if self._right(path, key, size)]
                enough = len(here) > QUORUM or (self._right_elsewhere(slot, name) and len(here) > 0)
                found += here[:1] if enough else []
        return found

    def _right_elsewhere(self, slot: SlotFact, name: bytes) -> bool:
        return any(
            self._right(path, segment_key(name))
            for other in self.history.slots.values()
            if other.uid != slot.uid and other.pool == slot.pool and name in self.history.stored_in(other.uid)
            for path in self.copies(other, segment_key(name))
        )

    def beyond_repair(self) -> set[str]:
        """Return the owners of complete manifests with an object that is right in no slot that names it."""
        lost: set[str] = set()
        for manifest in self.history.manifests.values():
            for name, size in manifest.segments.items():
                key = segment_key(name)
                here = any(self._right(path, key, size) for path in self.copies(manifest.slot, key))
                if not here and not self._right_elsewhere(manifest.slot, name):
                    lost.add(manifest.owner)
        return lost

    # -- when all is healed -------------------------------------------------------------------------------------------

    def check_healed(self, lost: set[str]) -> None:
        """Check the invariants after all repeats, a scrub and a collection.

        Args:
            lost: owners that the machine has damaged beyond repair.

        Raises:
            AssertionError: an invariant is broken.
        """
        self.check()
        open_works = self.ask("SELECT kind, owner_uid FROM works WHERE state = 'Open' AND kind <> 'export'")
        assert open_works == [], "a work is open"
        leaving = [each for each in self.history.replicas.values() if each.state == "Deleting"]
        assert leaving == [], "a replica is leaving still"
        for each in self.versions().values():
            assert each.state != "Deleting", f"{each} was left"
            if each.visible and each.uid not in lost:
                self.check_converged(each)
        for name, (_, _, state) in self.disks().items():
            assert state == "Succeeded", f"disk {name} is {state}"
        for manifest in self.history.manifests.values():
            if manifest.owner not in lost:
                self._check_content(manifest)
        if not lost:
            assert self.ask("SELECT COUNT(*) FROM condemned") == [(0,)], "something is condemned yet"
            self._check_nothing_else()

    def check_converged(self, version: VersionFact) -> None:
        """Check that the replicas, without those being removed, match the targets and are Completed."""
        there: dict[tuple[str, str], list[str]] = {}
        for each in self.history.replicas.values():
            if each.version == version.uid and each.state != "Deleting":
                there.setdefault((each.slot.region, each.slot.kind), []).append(each.state)
        wanted = {(region, kind): ["Completed"] * count for region, count, kind in version.targets}
        assert there == wanted, f"{version}: {there}"
        assert version.state == "Succeeded", f"{version} is complete everywhere"

    def _check_content(self, manifest: ManifestFact) -> None:
        """Check that the disk, assembled by blocks, equals the source."""
        decoded = self.decoded(manifest)
        assert decoded is not None, f"{_told(manifest)} can't be read"
        assert decoded.virtual_bytes == VIRTUAL_BYTES
        owner = manifest.owner
        if owner not in self.contents:  # A managed disk.
            ((owner,),) = self.ask("SELECT source_version_uid FROM disks WHERE uid = ?", manifest.owner)
        expected = {number: block_bytes(seed) for number, seed in blocks_of(self.contents[owner]).items()}
        found: dict[int, bytes] = {}
        for block, count, name, start in decoded.runs:
            key = segment_key(name)
            path = next(path for path in self.copies(manifest.slot, key) if self._right(path, key))
            body = decode_segment(path.read_bytes())
            for number in range(count):
                found[block + number] = body[(start + number) * BLOCK_BYTES :][:BLOCK_BYTES]
        assert found == expected, f"{_told(manifest)} is another disk than its source"

    def _check_nothing_else(self) -> None:
        """Every zone holds what complete manifests name, the fingerprints that these name, and nothing else.

        A segment that was packed twice is written down as the first work's, whose fingerprints may stay with it. And what
        was deleted softly is left as it is until it is had back: a replica of it that was half made stays so.
        """
        wanted: dict[Path, set[str]] = {}
        allowed: dict[Path, set[str]] = {}
        for slot in self.history.slots.values():
            mine = [each for each in self.history.manifests.values() if each.slot.uid == slot.uid]
            if not mine:
                continue
            packed_by = dict(self.ask("SELECT name, work_uid FROM segments WHERE pool_uid = ?", slot.pool))
            for _, folder in self.folders(slot):
                named = wanted.setdefault(folder, set())
                for each in mine:
                    named |= {f"manifests/{each.owner}/os", each.body_key, *map(segment_key, each.segments)}
                    decoded = self.decoded(each)
                    works = {*(decoded.works if decoded else ()), *(packed_by[name] for name in each.segments)}
                    allowed.setdefault(folder, set()).update(f"fingerprints/{work}" for work in works)
        for slot_uid, keys in self._left_half_made():
            for _, folder in self.folders(self.history.slots[slot_uid]):
                allowed.setdefault(folder, set()).update(keys)
        there: dict[Path, set[str]] = {}
        owners = {uid for table in ("versions", "disks") for (uid,) in self.ask(f"SELECT uid FROM {table}")}
        for zone in sorted((self.home / "regions").glob("*/zone-*")):
            for path in zone.rglob("*"):
                if path.is_file():
                    inside = path.relative_to(zone).parts
                    if inside == ("FORMAT",) or inside[0] in ("zone", "installation", "ledger"):
                        continue
                    if inside[4] == "owners":
                        assert inside[5] in owners, f"{path} is a revision without an owner"
                        continue
                    assert inside[0] == "pools", f"{path} was left"
                    there.setdefault(zone.joinpath(*inside[:4]), set()).add("/".join(inside[4:]))
        for folder in wanted.keys() | there.keys():
            lies, named = there.get(folder, set()), wanted.get(folder, set())
            more = lies - named - allowed.get(folder, set())
            assert not more, f"{folder}: {sorted(more)} are named by nobody"
            assert named <= lies, f"{folder}: {sorted(named - lies)} are missing"
        scratch = [path for path in (self.home / "scratch").rglob("*") if path.is_file()]
        assert scratch == [], f"{scratch} were left"

    def _left_half_made(self) -> Iterator[tuple[str, set[str]]]:
        """Return the slot and the keys of each incomplete replica of a soft-deleted version."""
        rows = self.ask(
            "SELECT m.slot_uid, m.owner_uid, m.body_key, m.segment_ids FROM manifests m"
            " JOIN versions v ON v.uid = m.owner_uid WHERE NOT m.complete AND v.soft_deleted_at IS NOT NULL"
        )
        names = dict(self.ask("SELECT id, name FROM segments"))
        for slot_uid, owner, body_key, ids in rows:
            segments = {segment_key(names[number]) for number in memoryview(ids).cast("I")}
            yield slot_uid, {f"manifests/{owner}/os", body_key, *segments}

    def cost(self, until: datetime) -> Decimal:
        """Compute the total cost from bytes and seconds."""
        total = Decimal(0)
        for delivered, price in self.ask("SELECT delivered_bytes, unit_price FROM ledger"):
            total += Decimal(price) * delivered / 10**9
        rows = self.ask("SELECT stored_bytes, storage_account_type, opened_at, closed_at FROM intervals")
        for stored, kind, opened, closed in rows:
            end = datetime.fromisoformat(closed) if closed else until.replace(tzinfo=None)
            seconds = Decimal((end - datetime.fromisoformat(opened)).total_seconds())
            total += STORAGE_PER_GB_MONTH[kind] * stored * seconds / _WEIGHT
        return total

    def check_egress(self) -> None:
        """Check that the ledger's egress equals the delivered bytes of each region."""
        rows = self.ask("SELECT target, SUM(delivered_bytes) FROM ledger WHERE kind = 'egress' GROUP BY target")
        charged = {target: count for target, count in rows if count}
        arrived = {region: count for region, count in self.history.egress_bytes.items() if count}
        assert charged == arrived, f"charged {charged}, arrived {arrived}"


def segment_key(name: bytes) -> str:
    """Return the key of a segment in its slot."""
    return f"segments/{name.hex()[:2]}/{name.hex()}"


def _told(manifest: ManifestFact) -> str:
    return f"manifest of {manifest.owner} in {manifest.slot.region}/{manifest.slot.kind}/{manifest.slot.ordinal}"


def is_of_zone(path: Path) -> bool:
    """Return whether a file at the top of a zone identifies the zone."""
    return path.name == "FORMAT" or path.parent.parent.name == "zone"
