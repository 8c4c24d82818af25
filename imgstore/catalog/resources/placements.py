"""Round robin placement: a counter for each version and region, which the transaction of a new disk increments."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, bindparam, func, true

from imgstore.catalog import schema
from imgstore.catalog.engine.database import upsert
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.resources.disks import Disks, build_insert, insert_parameters
from imgstore.catalog.resources.groups import missing_group_error
from imgstore.domain.resources import ManagedDisk, Slot

if TYPE_CHECKING:
    from sqlalchemy.sql.dml import ReturningInsert

_placements = schema.placements
_slots = schema.slots


@cache
def _build_advance(*, is_sqlite: bool) -> "ReturningInsert[Any]":
    """Build the statement once for each engine, because building takes longer than the database needs."""
    asked: dict[str, Any] = {name: bindparam(name) for name in ("version_uid", "region", "turns")}
    statement = upsert(_placements, is_sqlite=is_sqlite).values(asked)
    statement = statement.on_conflict_do_update(
        index_elements=["version_uid", "region"], set_={"turns": _placements.c.turns + bindparam("turns")}
    )
    return statement.returning(_placements.c.turns)


@cache
def _build_place() -> "ReturningInsert[Any]":
    """Build PostgreSQL's statement, which increments the counter and adds the disk without a further round trip.

    The counter is locked only while the database works.
    """
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - costs 30 ms to import

    turn = _build_advance(is_sqlite=False).cte("turn")
    uids = bindparam("slot_uids", type_=postgresql.ARRAY(String))
    fit = func.unnest(uids).table_valued("uid", with_ordinality="place").render_derived(name="fit")
    mine = fit.c.place == (turn.c.turns - 1) % func.cardinality(uids) + 1
    tables = turn.join(fit, mine).join(_slots, _slots.c.uid == fit.c.uid).join(schema.groups, true())
    placing = build_insert(
        tables, slot_uid=_slots.c.uid, replica=_slots.c.ordinal, storage_account_type=_slots.c.storage_account_type
    )
    return placing.returning(schema.disks.c.slot_uid)


class Placements(Repository):
    """The counters of round robin placement."""

    def advance_counter(self, version_uid: str, region: str, turns: int = 1) -> int:
        """Return the counter, which starts at 0, and add `turns`, the number of slots that the caller takes.

        The row stays locked until the end of the transaction. Concurrent placements therefore get different numbers,
        and the number of a transaction that is rolled back is given out again.

        Raises:
            Conflict: the version was deleted.
        """
        asked = {"version_uid": version_uid, "region": region, "turns": turns}
        return int(self._session.value(_build_advance(is_sqlite=self._session.is_sqlite), asked)) - turns

    def place(self, disk: ManagedDisk, slots: Sequence[Slot]) -> ManagedDisk:
        """Add a disk in the slot that is next in the round robin of the disk's version and location.

        Args:
            disk: the row. Its slot is replaced.
            slots: the slots of the replicas that may be used, in the order of the round robin.

        Returns:
            The disk in its slot.

        Raises:
            ParentNotFound: the subscription has no such group.
            Conflict: the group has a disk with this name, or the version was deleted.
        """
        assert disk.source_version_uid is not None, "placement needs a version"
        if self._session.is_sqlite:
            turn = self.advance_counter(disk.source_version_uid, disk.location)
            placed = disk.in_slot(slots[turn % len(slots)])
            Disks(self._session).add(placed)
            return placed
        by_uid = {slot.uid: slot for slot in slots}
        asked = {
            "version_uid": disk.source_version_uid, "region": disk.location, "turns": 1, "slot_uids": list(by_uid)
        }  # fmt: skip
        slot_uid = self._session.value(_build_place(), insert_parameters(disk) | asked)
        if slot_uid is None:
            raise missing_group_error(disk.subscription, disk.group)
        return disk.in_slot(by_uid[slot_uid])
