"""Segments of a pool. Manifests refer to segments by number, so that a list of thousands is a packed column."""

import builtins
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import Row, delete, select

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.engine.rows import to_value
from imgstore.domain.errors import ObjectNotFound
from imgstore.domain.resources import SegmentRow
from imgstore.domain.storage.digests import Digest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ids: TypeAlias = npt.NDArray[np.uint32]

# A statement may have 32,766 parameters on SQLite and 65,535 on PostgreSQL. More than a few thousand are not faster.
_VALUES_AT_ONCE: Final = 5_000

_segments = schema.segments


class Segments(Repository):
    """The segments of all pools."""

    def put(self, pool_uid: str, rows: Sequence[SegmentRow]) -> "Ids":
        """Return the ids of `rows` in the same order. Add the segments that the pool does not have.

        The row of an existing segment stays, because equal names mean equal bytes (a name is a BLAKE3). Of two rows with
        the same name, the first counts. May be repeated, and several transactions may run this at once.
        """
        known = self._find_ids(pool_uid, {row.name for row in rows})
        # The order prevents a deadlock between two transactions that add the same segments.
        absent = sorted(
            {row.name: row for row in reversed(rows) if row.name not in known}.values(), key=lambda row: row.name
        )
        if absent:
            self._insert(pool_uid, absent)
            # Another transaction may have added some of the segments with other ids.
            known |= self._find_ids(pool_uid, {row.name for row in absent})
        return _to_array(known[row.name] for row in rows)

    def ids(self, pool_uid: str, names: Sequence[Digest]) -> "Ids":
        """Return the ids of segments by name, in the order of the names.

        Raises:
            ObjectNotFound: the pool has no row for at least one of the segments.
        """
        known = self._find_ids(pool_uid, set(names))
        absent = [name for name in names if name not in known]
        if absent:
            raise _missing_segment_error(
                f"{len(absent)} of {len(names)} names, the first is {absent[0].hex()}", pool_uid
            )
        return _to_array(known[name] for name in names)

    def find_ids(self, pool_uid: str, names: Iterable[Digest]) -> dict[Digest, int]:
        """Return the ids of the segments in the pool among `names`, by name."""
        return self._find_ids(pool_uid, set(names))

    def all_ids(self, pool_uid: str) -> "Ids":
        """Return the ids of all segments of a pool, sorted."""
        statement = select(_segments.c.id).where(_segments.c.pool_uid == pool_uid).order_by(_segments.c.id)
        return _to_array(row.id for row in self._session.stream(statement))

    def work_uids(self, pool_uid: str, ids: "Iterable[int] | Ids") -> frozenset[str]:
        """Return the uids of the ingests that first packed the segments with the ids."""
        found: set[str] = set()
        for some in split_batches(_to_ints(ids)):
            statement = select(_segments.c.work_uid).where(_segments.c.pool_uid == pool_uid, _segments.c.id.in_(some))
            found.update(row.work_uid for row in self._session.all(statement.distinct()))
        return frozenset(found)

    def remove(self, pool_uid: str, ids: "Iterable[int] | Ids") -> None:
        """Remove segments that no manifest names and no slot stores. Ids are never reused."""
        for some in split_batches(_to_ints(ids)):
            self._session.run(delete(_segments).where(_segments.c.pool_uid == pool_uid, _segments.c.id.in_(some)))

    def rows(self, pool_uid: str, ids: "Iterable[int] | Ids") -> builtins.list[SegmentRow]:
        """Return the rows of segments by id, in the order of the ids.

        Raises:
            ObjectNotFound: the pool has no row for at least one of the segments.
        """
        wanted = _to_ints(ids)
        known: dict[int, SegmentRow] = {}
        for some in split_batches(sorted(set(wanted))):
            statement = select(_segments).where(_segments.c.pool_uid == pool_uid, _segments.c.id.in_(some))
            known |= {row.id: _segment(row) for row in self._session.all(statement)}
        absent = [number for number in wanted if number not in known]
        if absent:
            raise _missing_segment_error(f"{len(absent)} of {len(wanted)} ids, the first is {absent[0]}", pool_uid)
        return [known[number] for number in wanted]

    def stored_bytes(self, pool_uid: str, ids: "Iterable[int] | Ids") -> int:
        """Return the total stored bytes of segments by id. Each segment counts once.

        Raises:
            ObjectNotFound: the pool has no row for at least one of the segments.
        """
        wanted = sorted(set(_to_ints(ids)))
        count = total = 0
        for some in split_batches(wanted):
            statement = select(_segments.c.stored_bytes).where(
                _segments.c.pool_uid == pool_uid, _segments.c.id.in_(some)
            )
            sizes = [row.stored_bytes for row in self._session.all(statement)]
            count += len(sizes)
            total += sum(sizes)
        if count != len(wanted):
            raise _missing_segment_error(f"{len(wanted) - count} of {len(wanted)} ids", pool_uid)
        return total

    def _find_ids(self, pool_uid: str, names: set[Digest]) -> dict[Digest, int]:
        known: dict[Digest, int] = {}
        for some in split_batches(sorted(names)):
            statement = select(_segments.c.name, _segments.c.id).where(
                _segments.c.pool_uid == pool_uid, _segments.c.name.in_(some)
            )
            known.update((bytes(row.name), row.id) for row in self._session.all(statement))
        return known

    def _insert(self, pool_uid: str, rows: Sequence[SegmentRow]) -> None:
        # Without RETURNING, the statement has the length of one row. The 20,000 rows of a dense disk of 80 GiB take
        # 0.6 s on SQLite and 1.6 s on PostgreSQL (2 busy cores).
        statement = self._session.upsert(_segments).on_conflict_do_nothing(index_elements=["pool_uid", "name"])
        self._session.run(statement, [_values(pool_uid, row) for row in rows])


def _values(pool_uid: str, row: SegmentRow) -> dict[str, Any]:
    return {
        "pool_uid": pool_uid,
        "name": row.name,
        "blocks": row.blocks,
        "stored_bytes": row.stored_bytes,
        "checksum": row.checksum,
        "work_uid": row.work_uid,
    }


def _segment(row: Row[Any]) -> SegmentRow:
    return to_value(SegmentRow, row, name=bytes(row.name))


def _to_ints(ids: "Iterable[int] | Ids") -> builtins.list[int]:
    """Return Python integers, because database drivers do not accept numpy's integers."""
    return [int(number) for number in ids]


def _to_array(ids: Iterable[int]) -> "Ids":
    import numpy as np  # noqa: PLC0415 - the import takes 60 ms, and many commands do not need numpy

    return np.fromiter(ids, dtype="<u4")


def split_batches(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield `values` in batches that are small enough for a statement."""
    for start in range(0, len(values), _VALUES_AT_ONCE):
        yield values[start : start + _VALUES_AT_ONCE]


def _missing_segment_error(found: str, pool_uid: str) -> ObjectNotFound:
    return ObjectNotFound(
        "A segment is not in the catalog.",
        found=f"no row for {found}",
        expected=f"a row for each segment of pool {pool_uid} that a manifest names",
        hint="run `imgstore verify` on the image: the manifest and the catalog disagree",
        target=pool_uid,
    )
