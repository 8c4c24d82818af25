"""Manifests: which segments each disk of a slot names, and the sets that deletion and money are reckoned from."""

import builtins
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import ColumnElement, Select, func, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository, missing_row_error
from imgstore.domain.disks.version_disks import sort_disk_keys
from imgstore.domain.resources import ManifestRow

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from sqlalchemy.engine import Row

    Ids: TypeAlias = npt.NDArray[np.uint32]

_IDS_AT_ONCE: Final = 4 << 20
"""How many ids wait in memory for the next union: 16 MiB of them, whatever a slot holds."""

_manifests = schema.manifests
_slots = schema.slots


class Manifests(Repository):
    """The manifests of every slot."""

    __slots__ = ()

    def add(self, manifest: ManifestRow) -> None:
        """Write down which segments a disk will name. Nothing counts them before `complete`.

        Raises:
            Conflict: the owner has a manifest of that disk in that slot.
        """
        ids = unpack_ids(manifest.segment_ids)
        assert (ids[:-1] < ids[1:]).all(), "segment ids are not sorted, or one stands twice"
        self._session.run(_manifests.insert(), {**_values(manifest), "complete": False})

    def complete(self, uid: str) -> None:
        """From now on its segments are named. May be repeated.

        Raises:
            NotFound: no row has this uid.
        """
        if not self._session.change(update(_manifests).where(_manifests.c.uid == uid).values(complete=True)):
            raise missing_row_error("manifest", uid)

    def is_complete(self, uid: str) -> bool:
        """Whether its segments are named.

        Raises:
            NotFound: no row has this uid.
        """
        return bool(self._row(select(_manifests.c.complete).where(_manifests.c.uid == uid), "manifest", uid).complete)

    def get(self, uid: str) -> ManifestRow:
        """The manifest of that uid.

        Raises:
            NotFound: no row has this uid.
        """
        return _manifest(self._row(select(_manifests).where(_manifests.c.uid == uid), "manifest", uid))

    def of_owner(self, owner_uid: str) -> builtins.list[ManifestRow]:
        """The manifests of a version or managed disk, complete or not, by slot and disk."""
        return self._list(_manifests.c.owner_uid == owner_uid)

    def find(self, owner_uid: str, slot_uid: str, disk: str) -> ManifestRow | None:
        """The manifest of one disk of an owner in a slot, complete or not, if there is one."""
        row = self._session.first(
            select(_manifests).where(
                _manifests.c.owner_uid == owner_uid, _manifests.c.slot_uid == slot_uid, _manifests.c.disk == disk
            )
        )
        return None if row is None else _manifest(row)

    def of_replica(self, owner_uid: str, slot_uid: str) -> builtins.list[ManifestRow]:
        """The manifests of an owner's disks in a slot, complete or not: the OS disk, then by LUN."""
        rows = self._list((_manifests.c.owner_uid == owner_uid) & (_manifests.c.slot_uid == slot_uid))
        by_disk = {row.disk: row for row in rows}
        return [by_disk[disk] for disk in sort_disk_keys(by_disk)]

    def complete_slots(self, owner_uid: str) -> frozenset[str]:
        """Return the uids of the slots in which all disks of an owner were complete once.

        The manifests of a replica are completed in one transaction, so one complete row stands for all of them.
        """
        statement = select(_manifests.c.slot_uid).where(_manifests.c.owner_uid == owner_uid, _manifests.c.complete)
        return frozenset(row.slot_uid for row in self._session.all(statement.distinct()))

    def find_by_body(self, slot_uid: str, body_key: str) -> ManifestRow | None:
        """A complete manifest of a slot that has its content in that object, if there is one.

        That of the object's owner, where it stands: what only refers to it is not in the way of being deleted then.
        """
        _, owner_uid, disk = body_key.split("/")
        same = _manifests.c.body_key == body_key
        own = same & (_manifests.c.owner_uid == owner_uid) & (_manifests.c.disk == disk)
        return self._find_complete(slot_uid, own) or self._find_complete(slot_uid, same)

    def find_by_digest(self, slot_uid: str, digest: bytes) -> ManifestRow | None:
        """A complete manifest of a slot that has exactly that content, if there is one."""
        return self._find_complete(slot_uid, _manifests.c.digest == digest)

    def list_with_digest(self, pool_uid: str, digest: bytes) -> builtins.list[ManifestRow]:
        """The complete manifests of a pool's slots that have exactly that content, whoever owns them."""
        slots = select(_slots.c.uid).where(_slots.c.pool_uid == pool_uid)
        return self._list((_manifests.c.digest == digest) & _manifests.c.complete & _manifests.c.slot_uid.in_(slots))

    def _find_complete(self, slot_uid: str, condition: ColumnElement[bool]) -> ManifestRow | None:
        mine = (_manifests.c.slot_uid == slot_uid) & _manifests.c.complete & condition
        row = self._session.first(select(_manifests).where(mine).order_by(_manifests.c.uid).limit(1))
        return None if row is None else _manifest(row)

    def in_slot(self, slot_uid: str, *, complete_only: bool = True) -> builtins.list[ManifestRow]:
        """The manifests of a slot, by disk and uid."""
        mine = _manifests.c.slot_uid == slot_uid
        return self._list(mine & _manifests.c.complete if complete_only else mine)

    def segment_ids_in_slot(self, slot_uid: str, *, complete_only: bool = True) -> "Ids":
        """The ids of the segments that manifests of a slot name, sorted, each once.

        Args:
            slot_uid: the slot.
            complete_only: leave those out that are still on their way.
        """
        lists = select(_manifests.c.segment_ids).where(_manifests.c.slot_uid == slot_uid)
        return self._collect_ids(lists, complete_only=complete_only)

    def segment_ids_in_pool(self, pool_uid: str) -> "Ids":
        """The same over every slot of a pool, manifests that are still on their way included."""
        lists = select(_manifests.c.segment_ids).join(_slots).where(_slots.c.pool_uid == pool_uid)
        return self._collect_ids(lists, complete_only=False)

    def segment_ids_in_region(self, pool_uid: str, region: str) -> "Ids":
        """The same over every slot that the pool has in a region, of whatever storage account type."""
        there = (_slots.c.pool_uid == pool_uid) & (_slots.c.region == region)
        return self._collect_ids(select(_manifests.c.segment_ids).join(_slots).where(there))

    def count_body_users(self, slot_uid: str, body_key: str) -> int:
        """How many manifests of a slot, complete or not, have their content in that object."""
        statement = select(func.count()).where(_manifests.c.slot_uid == slot_uid, _manifests.c.body_key == body_key)
        return int(self._session.value(statement))

    def remove(self, uid: str) -> None:
        """Remove the row: its segments are named no more.

        Raises:
            NotFound: no row has this uid.
            Conflict: an open work pins it.
        """
        self._remove(_manifests, uid, "manifest")

    def _list(self, condition: ColumnElement[bool]) -> builtins.list[ManifestRow]:
        order = (_manifests.c.slot_uid, _manifests.c.disk, _manifests.c.uid)
        return [_manifest(row) for row in self._session.all(select(_manifests).where(condition).order_by(*order))]

    def _collect_ids(self, lists: Select[Any], *, complete_only: bool = True) -> "Ids":
        if complete_only:
            lists = lists.where(_manifests.c.complete)
        return _union(row.segment_ids for row in self._session.stream(lists))


def pack_ids(ids: "Iterable[int] | Ids") -> bytes:
    """Ids as a manifest row keeps them: sorted, each once, little-endian u32."""
    import numpy as np  # noqa: PLC0415 - 60 ms, which a command that moves no bytes does without

    return np.unique(np.fromiter(ids, dtype="<u4")).tobytes()


def unpack_ids(segment_ids: bytes) -> "Ids":
    """The ids that `packed` packed."""
    import numpy as np  # noqa: PLC0415 - as in `packed`

    return np.frombuffer(segment_ids, dtype="<u4")


def _union(lists: Iterable[bytes]) -> "Ids":
    """The union of packed lists, never holding more than `_IDS_AT_ONCE` ids (or one list) besides the union itself."""
    import numpy as np  # noqa: PLC0415 - as in `packed`

    union = unpack_ids(b"")
    waiting: list[Ids] = []
    count = 0
    for packed_ids in lists:
        waiting.append(unpack_ids(packed_ids))
        count += len(waiting[-1])
        if count >= _IDS_AT_ONCE:
            union, waiting, count = np.unique(np.concatenate([union, *waiting])), [], 0
    return np.unique(np.concatenate([union, *waiting]))


def _values(manifest: ManifestRow) -> dict[str, Any]:
    return {
        "uid": manifest.uid,
        "slot_uid": manifest.slot_uid,
        "owner_uid": manifest.owner_uid,
        "disk": manifest.disk,
        "digest": manifest.digest,
        "body_key": manifest.body_key,
        "virtual_bytes": manifest.virtual_bytes,
        "object_bytes": manifest.object_bytes,
        "disk_digest": manifest.disk_digest,
        "segment_ids": manifest.segment_ids,
    }


def _manifest(row: "Row[Any]") -> ManifestRow:
    return ManifestRow(
        uid=row.uid,
        slot_uid=row.slot_uid,
        owner_uid=row.owner_uid,
        disk=row.disk,
        digest=row.digest,
        body_key=row.body_key,
        virtual_bytes=row.virtual_bytes,
        object_bytes=row.object_bytes,
        disk_digest=row.disk_digest,
        segment_ids=row.segment_ids,
    )
