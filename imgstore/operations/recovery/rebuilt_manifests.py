"""Compute the columns of manifests that no revision contains, from the manifests in the buckets."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imgstore.catalog import Transaction
from imgstore.domain.errors import ObjectCorrupt
from imgstore.domain.recovery import MissingManifest
from imgstore.domain.resources import SegmentRow
from imgstore.domain.states import ProvisioningState, ReplicaState, derive_provisioning_state
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.object_keys import manifest_key
from imgstore.operations.recovery.rebuild_plan import FoundResource, RebuildPlan
from imgstore.segments.fingerprint_index import Locations
from imgstore.segments.manifest import decode_manifest, manifest_digest

_REASON = "the manifest was not found when the catalog was rebuilt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The segments of a manifest."""

    segments: Sequence[SegmentRow]


class ManifestIndex:
    """The places of all manifests, and what is missing. Needs no database."""

    def __init__(self, plan: RebuildPlan) -> None:
        """Find the missing manifests by the listings of the slots."""
        self._plan = plan
        self._places: defaultdict[Digest, list[tuple[int, str]]] = defaultdict(list)
        """The copies of a content, by digest."""
        self.missing: list[MissingManifest] = []
        self.unfinished = 0
        self._lost_slots: defaultdict[str, set[str]] = defaultdict(set)
        """By owner, the uids of slots without a manifest in any slot."""
        self._degraded_slots: defaultdict[str, set[str]] = defaultdict(set)
        self._unreadable: set[str] = set()
        """The uids of rows of interrupted works whose manifest was listed and cannot be read."""
        owners = [(kind, each) for kind in ("versions", "disks") for each in plan.resources[kind]]
        for _, each in owners:
            for row in each.rows["manifests"]:
                self._add_places(row)
        for kind, each in owners:
            for row in each.rows["manifests"]:
                self._look(kind, each, row)

    def read(self, resources: Iterable[FoundResource]) -> dict[Digest, Content]:
        """Read the contents of the manifests of resources, each content once. Unreadable contents are missing."""
        wanted = sorted({row["digest"] for each in resources for row in each.rows["manifests"]})
        found = self._plan.reader.map(self._read_content, wanted)
        return {digest: content for digest, content in zip(wanted, found, strict=True) if content is not None}

    def note_unreadable(
        self, kind: str, resources: Iterable[FoundResource], contents: Mapping[Digest, Content]
    ) -> None:
        """Note the manifests that were listed and cannot be read in any zone."""
        for each in resources:
            for row in each.rows["manifests"]:
                if row["digest"] in contents:
                    continue
                if not row["complete"]:
                    self.unfinished += self._is_finished(row)
                    self._unreadable.add(row["uid"])
                elif row["slot_uid"] not in self._lost_slots[each.uid]:
                    self._note(kind, each, row, has_copy=False)

    def repair_rows(self, kind: str, resource: FoundResource) -> tuple[dict[str, list[dict[str, Any]]], bool]:
        """Return the rows to insert, without manifests that were not found, and whether they differ from the revision.

        A version without a manifest is degraded or failed in that slot. A stored disk without a manifest is failed.
        """
        lost, degraded = self._lost_slots[resource.uid], self._degraded_slots[resource.uid]
        rows = {name: [dict(row) for row in found] for name, found in resource.rows.items()}
        kept = [row for row in rows["manifests"] if row["slot_uid"] not in lost and self._is_finished(row)]
        rows["manifests"] = kept
        if not lost and not degraded:
            return rows, False
        if kind == "disks":
            for row in rows["disks"] if lost else ():
                row["provisioning_state"] = ProvisioningState.FAILED
            return rows, bool(lost)
        for row in rows["replicas"]:
            was_complete = row["state"] in {ReplicaState.COMPLETED, ReplicaState.DEGRADED}
            if was_complete and row["slot_uid"] in lost | degraded:
                is_lost = row["slot_uid"] in lost
                row["state"] = ReplicaState.FAILED if is_lost else ReplicaState.DEGRADED
                row["error"] = _REASON
        for row in rows["versions"]:
            if row["provisioning_state"] is not ProvisioningState.DELETING:
                states = [replica["state"] for replica in rows["replicas"]]
                creating = row["provisioning_state"] is ProvisioningState.CREATING
                row["provisioning_state"] = derive_provisioning_state(states, creating=creating)
        return rows, True

    def _add_places(self, row: Mapping[str, Any]) -> None:
        slot = self._plan.slots[row["slot_uid"]]
        if row["body_key"] in self._plan.objects.get(slot.uid, ()):
            self._places[row["digest"]] += [
                (zone, slot.prefix + row["body_key"]) for zone in self._plan.reader.zones_of(slot)
            ]

    def _look(self, kind: str, resource: FoundResource, row: Mapping[str, Any]) -> None:
        present = self._plan.objects.get(row["slot_uid"], frozenset())
        if not row["complete"]:
            self.unfinished += not self._is_finished(row)
        elif not self._places[row["digest"]]:
            self._note(kind, resource, row, has_copy=False)
        elif {manifest_key(row["owner_uid"], row["disk"]), row["body_key"]} - present:
            self._note(kind, resource, row, has_copy=True)

    def _is_finished(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row is complete, or an interrupted work has already put a readable manifest."""
        return row["complete"] or (bool(self._places[row["digest"]]) and row["uid"] not in self._unreadable)

    def _note(self, kind: str, resource: FoundResource, row: Mapping[str, Any], *, has_copy: bool) -> None:
        (self._degraded_slots if has_copy else self._lost_slots)[resource.uid].add(row["slot_uid"])
        self.missing.append(
            MissingManifest(
                kind=kind,
                owner_uid=resource.uid,
                owner=_name(kind, resource),
                slot=str(self._plan.slots[row["slot_uid"]].key),
                disk=row["disk"],
                has_copy=has_copy,
            )
        )

    def _read_content(self, digest: Digest) -> Content | None:
        body = self._plan.reader.get(self._places[digest], lambda data: manifest_digest(data) == digest)
        if body is None:
            return None
        try:
            manifest = decode_manifest(body)
        except ObjectCorrupt:
            return None
        table, works = manifest.segments, [work.uid for work in manifest.works]
        columns = zip(
            table.all_names(), table.blocks.tolist(), table.stored_bytes.tolist(), table.work.tolist(), strict=True
        )
        return Content(
            segments=[
                SegmentRow(name=name, blocks=blocks, stored_bytes=stored_bytes, checksum=None, work_uid=works[work])
                for name, blocks, stored_bytes, work in columns
            ]
        )


def pack_contents(
    transaction: Transaction, contents: Mapping[Digest, Content], wanted: Iterable[tuple[str, Digest]]
) -> dict[tuple[str, Digest], bytes]:
    """Record the segments of contents, and return the packed ids of each content.

    Args:
        transaction: the open transaction.
        contents: the segments by digest of the manifest.
        wanted: the uid of the pool, and the digest of the manifest, the oldest owner first. A segment that several
            works packed gets the work of the oldest owner, as in the lost catalog.
    """
    packed: dict[tuple[str, Digest], bytes] = {}
    by_pool: defaultdict[str, list[Digest]] = defaultdict(list)
    for pool_uid, digest in dict.fromkeys(wanted):
        by_pool[pool_uid].append(digest)
    for pool_uid, digests in by_pool.items():
        ids = transaction.segments.put(pool_uid, [row for digest in digests for row in contents[digest].segments])
        lists = _split(ids, [len(contents[digest].segments) for digest in digests])
        packed |= {(pool_uid, digest): each for digest, each in zip(digests, lists, strict=True)}
    return packed


def _split(ids: Locations, lengths: Sequence[int]) -> Iterator[bytes]:
    at = 0
    for length in lengths:
        yield np.unique(ids[at : at + length]).astype("<u4").tobytes()
        at += length


def _name(kind: str, resource: FoundResource) -> str:
    row = resource.rows[kind][0]
    return f"{row['major']}.{row['minor']}.{row['patch']}" if kind == "versions" else str(row["name"])
