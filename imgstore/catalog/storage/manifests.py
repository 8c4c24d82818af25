"""Manifests with the segments that each disk of a slot names, and unions of these sets for deletion and billing."""

import builtins
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import ColumnElement, Select, func, select

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Rows
from imgstore.catalog.engine.rows import to_columns
from imgstore.domain.disks.version_disks import sort_disk_keys
from imgstore.domain.resources import ManifestRow

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ids: TypeAlias = npt.NDArray[np.uint32]

_IDS_AT_ONCE: Final = 4 << 20
"""The number of ids that wait in memory for the next union: 16 MiB, however large the slot is."""

_manifests = schema.manifests
_slots = schema.slots


class Manifests(Rows[ManifestRow], table=_manifests, noun="manifest", value=ManifestRow):
    """The manifests of all slots."""

    def add(self, manifest: ManifestRow) -> None:
        """Add a manifest that is not complete yet. Unions of complete manifests do not contain its segments.

        Raises:
            Conflict: the owner has a manifest of this disk in this slot.
        """
        ids = unpack_ids(manifest.segment_ids)
        assert (ids[:-1] < ids[1:]).all(), "segment ids are not sorted, or one occurs twice"
        self._session.run(_manifests.insert(), to_columns(_manifests, manifest, complete=False))

    def add_complete(self, manifests: Sequence[ManifestRow]) -> None:
        """Add complete manifests.

        Raises:
            Conflict: an owner has a manifest of this disk in this slot.
        """
        if manifests:
            self._session.run(_manifests.insert(), [to_columns(_manifests, each, complete=True) for each in manifests])

    def complete(self, uid: str) -> None:
        """Make a manifest complete, so that its segments count as named. May be repeated.

        Raises:
            NotFound: no row has this uid.
        """
        self._replace(_manifests, uid, {"complete": True}, "manifest")

    def set_object_bytes(self, uid: str, object_bytes: int) -> None:
        """Change the stored bytes for which a row accounts.

        Raises:
            NotFound: no row has this uid.
        """
        self._replace(_manifests, uid, {"object_bytes": object_bytes}, "manifest")

    def is_complete(self, uid: str) -> bool:
        """Return whether a manifest is complete.

        Raises:
            NotFound: no row has this uid.
        """
        return bool(self._row(select(_manifests.c.complete).where(_manifests.c.uid == uid), "manifest", uid).complete)

    def of_owner(self, owner_uid: str) -> builtins.list[ManifestRow]:
        """Return all manifests of a version or stored disk, complete or not, by slot and disk."""
        return self._list_where(_manifests.c.owner_uid == owner_uid)

    def find(self, owner_uid: str, slot_uid: str, disk: str) -> ManifestRow | None:
        """Return the manifest of a disk of an owner in a slot, complete or not, or None."""
        return self._find(
            _manifests.c.owner_uid == owner_uid, _manifests.c.slot_uid == slot_uid, _manifests.c.disk == disk
        )

    def of_replica(self, owner_uid: str, slot_uid: str) -> builtins.list[ManifestRow]:
        """Return the manifests of an owner in a slot, complete or not: the OS disk, then the data disks by LUN."""
        rows = self._list_where((_manifests.c.owner_uid == owner_uid) & (_manifests.c.slot_uid == slot_uid))
        by_disk = {row.disk: row for row in rows}
        return [by_disk[disk] for disk in sort_disk_keys(by_disk)]

    def complete_slots(self, owner_uid: str) -> frozenset[str]:
        """Return the uids of the slots in which all disks of an owner were complete once.

        One transaction completes all manifests of a replica. Therefore one complete row is sufficient evidence.
        """
        statement = select(_manifests.c.slot_uid).where(_manifests.c.owner_uid == owner_uid, _manifests.c.complete)
        return frozenset(row.slot_uid for row in self._session.all(statement.distinct()))

    def find_by_body(self, slot_uid: str, body_key: str) -> ManifestRow | None:
        """Return a complete manifest of a slot with its content in the object `body_key`, or None.

        Prefer the manifest of the object's owner, so that a manifest which only refers to the object can be deleted.
        """
        _, owner_uid, disk = body_key.split("/")
        same = _manifests.c.body_key == body_key
        own = same & (_manifests.c.owner_uid == owner_uid) & (_manifests.c.disk == disk)
        return self._find_complete(slot_uid, own) or self._find_complete(slot_uid, same)

    def find_by_digest(self, slot_uid: str, digest: bytes) -> ManifestRow | None:
        """Return a complete manifest of a slot with exactly this content, or None."""
        return self._find_complete(slot_uid, _manifests.c.digest == digest)

    def list_with_digest(self, pool_uid: str, digest: bytes) -> builtins.list[ManifestRow]:
        """Return the complete manifests with exactly this content in all slots of a pool, of any owner."""
        slots = select(_slots.c.uid).where(_slots.c.pool_uid == pool_uid)
        return self._list_where(
            (_manifests.c.digest == digest) & _manifests.c.complete & _manifests.c.slot_uid.in_(slots)
        )

    def _find_complete(self, slot_uid: str, condition: ColumnElement[bool]) -> ManifestRow | None:
        mine = (_manifests.c.slot_uid == slot_uid) & _manifests.c.complete & condition
        row = self._session.first(select(_manifests).where(mine).order_by(_manifests.c.uid).limit(1))
        return None if row is None else self.from_row(row)

    def in_slot(self, slot_uid: str, *, complete_only: bool = True) -> builtins.list[ManifestRow]:
        """Return the manifests of a slot, by disk and uid."""
        mine = _manifests.c.slot_uid == slot_uid
        return self._list_where(mine & _manifests.c.complete if complete_only else mine)

    def segment_ids_in_slot(self, slot_uid: str, *, complete_only: bool = True) -> "Ids":
        """Return the ids of the segments that manifests of a slot name, sorted, without duplicates.

        Args:
            slot_uid: the slot.
            complete_only: omit manifests that are not complete yet.
        """
        lists = select(_manifests.c.segment_ids).where(_manifests.c.slot_uid == slot_uid)
        return self._collect_ids(lists, complete_only=complete_only)

    def segment_ids_in_pool(self, pool_uid: str) -> "Ids":
        """Return the ids of the segments that any manifest of a pool names, sorted, without duplicates."""
        lists = select(_manifests.c.segment_ids).join(_slots).where(_slots.c.pool_uid == pool_uid)
        return self._collect_ids(lists, complete_only=False)

    def segment_ids_in_region(self, pool_uid: str, region: str) -> "Ids":
        """Return the ids of the segments in a region, sorted, without duplicates.

        Only complete manifests of the pool count.
        """
        there = (_slots.c.pool_uid == pool_uid) & (_slots.c.region == region)
        return self._collect_ids(select(_manifests.c.segment_ids).join(_slots).where(there))

    def list_by_body(self, slot_uid: str, body_key: str) -> builtins.list[ManifestRow]:
        """Return all complete manifests of a slot with their content in the object `body_key`."""
        same = (_manifests.c.slot_uid == slot_uid) & (_manifests.c.body_key == body_key)
        return self._list_where(same & _manifests.c.complete)

    def count_body_users(self, slot_uid: str, body_key: str) -> int:
        """Return the number of manifests of a slot, complete or not, with their content in the object `body_key`."""
        statement = select(func.count()).where(_manifests.c.slot_uid == slot_uid, _manifests.c.body_key == body_key)
        return int(self._session.value(statement))

    def _list_where(self, condition: ColumnElement[bool]) -> builtins.list[ManifestRow]:
        order = (_manifests.c.slot_uid, _manifests.c.disk, _manifests.c.uid)
        return self._list(select(_manifests).where(condition).order_by(*order))

    def _collect_ids(self, lists: Select[Any], *, complete_only: bool = True) -> "Ids":
        if complete_only:
            lists = lists.where(_manifests.c.complete)
        return _union(row.segment_ids for row in self._session.stream(lists))


def pack_ids(ids: "Iterable[int] | Ids") -> bytes:
    """Return ids as a manifest row stores ids: sorted little-endian u32 without duplicates."""
    import numpy as np  # noqa: PLC0415 - the import takes 60 ms, and many commands do not need numpy

    return np.unique(np.fromiter(ids, dtype="<u4")).tobytes()


def unpack_ids(segment_ids: bytes) -> "Ids":
    """Return the ids in the packed bytes of a manifest row."""
    import numpy as np  # noqa: PLC0415 - see `pack_ids`

    return np.frombuffer(segment_ids, dtype="<u4")


def named_segments(manifests: Iterable[ManifestRow]) -> "Ids":
    """Return the catalog ids of the segments that the manifests name, sorted, each once."""
    import numpy as np  # noqa: PLC0415 - see `pack_ids`

    return np.unique(unpack_ids(b"".join(manifest.segment_ids for manifest in manifests)))


def _union(lists: Iterable[bytes]) -> "Ids":
    """Return the union of packed lists.

    Apart from the union, at most `_IDS_AT_ONCE` ids (or one list) are in memory.
    """
    import numpy as np  # noqa: PLC0415 - see `pack_ids`

    union = unpack_ids(b"")
    waiting: list[Ids] = []
    count = 0
    for packed_ids in lists:
        waiting.append(unpack_ids(packed_ids))
        count += len(waiting[-1])
        if count >= _IDS_AT_ONCE:
            union, waiting, count = np.unique(np.concatenate([union, *waiting])), [], 0
    return np.unique(np.concatenate([union, *waiting]))
