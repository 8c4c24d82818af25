"""Segments of a pool, known to manifests by small numbers: a list of thousands is a packed column, not rows."""

import builtins
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import delete, select

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.domain.errors import ObjectNotFound
from imgstore.domain.resources import SegmentRow
from imgstore.domain.storage.digests import Digest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from sqlalchemy.engine import Row

    Ids: TypeAlias = npt.NDArray[np.uint32]

# SQLite takes 32,766 parameters in one statement and PostgreSQL 65,535; above a few thousand nothing is gained.
_VALUES_AT_ONCE: Final = 5_000

_segments = schema.segments


class Segments(Repository):
    """The segments of every pool."""

    __slots__ = ()

    def put(self, pool_uid: str, rows: Sequence[SegmentRow]) -> "Ids":
        """The ids of `rows`, in their order; those that the pool lacks are written down.

        A segment that is there keeps its row: its name is the BLAKE3 of its bytes, so it is the same one. May be
        repeated, and run by several transactions at once.
        """
        known = self._known(pool_uid, {row.name for row in rows})
        # Sorted, so that two transactions that bring the same segments wait for each other and never in a circle.
        lacking = sorted({row.name: row for row in rows if row.name not in known}.values(), key=lambda row: row.name)
        if lacking:
            self._insert(pool_uid, lacking)
            # Another transaction may have brought some of these since, under ids of its own.
            known |= self._known(pool_uid, {row.name for row in lacking})
        return _to_array(known[row.name] for row in rows)

    def ids(self, pool_uid: str, names: Sequence[Digest]) -> "Ids":
        """The ids of the segments of those names, in their order.

        Raises:
            ObjectNotFound: the pool has no row for at least one of the segments.
        """
        known = self._known(pool_uid, set(names))
        lacking = [name for name in names if name not in known]
        if lacking:
            raise _missing_segment_error(
                f"{len(lacking)} of {len(names)} names, the first is {lacking[0].hex()}", pool_uid
            )
        return _to_array(known[name] for name in names)

    def find_ids(self, pool_uid: str, names: Iterable[Digest]) -> dict[Digest, int]:
        """The ids of those of `names` that the pool has a row for."""
        return self._known(pool_uid, set(names))

    def all_ids(self, pool_uid: str) -> "Ids":
        """The ids of every segment of a pool, sorted."""
        statement = select(_segments.c.id).where(_segments.c.pool_uid == pool_uid).order_by(_segments.c.id)
        return _to_array(row.id for row in self._session.stream(statement))

    def work_uids(self, pool_uid: str, ids: "Iterable[int] | Ids") -> frozenset[str]:
        """The ingests that packed the segments of those ids first."""
        found: set[str] = set()
        for some in split_batches(_to_ints(ids)):
            statement = select(_segments.c.work_uid).where(_segments.c.pool_uid == pool_uid, _segments.c.id.in_(some))
            found.update(row.work_uid for row in self._session.all(statement.distinct()))
        return frozenset(found)

    def remove(self, pool_uid: str, ids: "Iterable[int] | Ids") -> None:
        """Forget segments that no manifest names and no slot holds. Their ids are never given again."""
        for some in split_batches(_to_ints(ids)):
            self._session.run(delete(_segments).where(_segments.c.pool_uid == pool_uid, _segments.c.id.in_(some)))

    def rows(self, pool_uid: str, ids: "Iterable[int] | Ids") -> builtins.list[SegmentRow]:
        """What is known of the segments of those ids, in their order.

        Raises:
            ObjectNotFound: the pool has no row for at least one of the segments.
        """
        wanted = _to_ints(ids)
        known: dict[int, SegmentRow] = {}
        for some in split_batches(sorted(set(wanted))):
            statement = select(_segments).where(_segments.c.pool_uid == pool_uid, _segments.c.id.in_(some))
            known |= {row.id: _segment(row) for row in self._session.all(statement)}
        lacking = [number for number in wanted if number not in known]
        if lacking:
            raise _missing_segment_error(f"{len(lacking)} of {len(wanted)} ids, the first is {lacking[0]}", pool_uid)
        return [known[number] for number in wanted]

    def stored_bytes(self, pool_uid: str, ids: "Iterable[int] | Ids") -> int:
        """Stored bytes of the segments of those ids together, each counted once.

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

    def _known(self, pool_uid: str, names: set[Digest]) -> dict[Digest, int]:
        known: dict[Digest, int] = {}
        for some in split_batches(sorted(names)):
            statement = select(_segments.c.name, _segments.c.id).where(
                _segments.c.pool_uid == pool_uid, _segments.c.name.in_(some)
            )
            known.update((bytes(row.name), row.id) for row in self._session.all(statement))
        return known

    def _insert(self, pool_uid: str, rows: Sequence[SegmentRow]) -> None:
        # Without RETURNING, so that the statement stays one row long, whatever the driver makes of long ones. 20,000 rows
        # take 0.6 s on SQLite and 1.6 s on PostgreSQL (2 busy cores): those of a dense disk of 80 GiB.
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


def _segment(row: "Row[Any]") -> SegmentRow:
    return SegmentRow(
        name=bytes(row.name),
        blocks=row.blocks,
        stored_bytes=row.stored_bytes,
        checksum=row.checksum,
        work_uid=row.work_uid,
    )


def _to_ints(ids: "Iterable[int] | Ids") -> builtins.list[int]:
    """As Python's own: drivers do not know numpy's."""
    return [int(number) for number in ids]


def _to_array(ids: Iterable[int]) -> "Ids":
    import numpy as np  # noqa: PLC0415 - 60 ms, which a command that moves no bytes does without

    return np.fromiter(ids, dtype="<u4")


def split_batches(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """`values` in parts that one statement takes."""
    for start in range(0, len(values), _VALUES_AT_ONCE):
        yield values[start : start + _VALUES_AT_ONCE]


def _missing_segment_error(found: str, pool_uid: str) -> ObjectNotFound:
    return ObjectNotFound(
        "The catalog does not know a segment.",
        found=f"no row for {found}",
        expected=f"a row for each segment of pool {pool_uid} that a manifest names",
        hint="run `imgstore verify` on the image: the manifest and the catalog disagree",
        target=pool_uid,
    )
