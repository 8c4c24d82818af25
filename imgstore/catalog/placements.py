"""The round robin: a counter for each version and region, moved in the transaction that hands a replica out."""

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam

from imgstore.catalog import schema
from imgstore.catalog.database import upsert
from imgstore.catalog.repository import Repository

if TYPE_CHECKING:
    from sqlalchemy.sql.dml import ReturningInsert

_placements = schema.placements


@cache
def _next(*, is_sqlite: bool) -> "ReturningInsert[Any]":
    """Built once for each engine: what is built at every placement takes longer than the database does."""
    asked = {"version_uid": bindparam("version_uid"), "region": bindparam("region"), "turns": 1}
    statement = upsert(_placements, is_sqlite=is_sqlite).values(asked)
    statement = statement.on_conflict_do_update(
        index_elements=["version_uid", "region"], set_={"turns": _placements.c.turns + 1}
    )
    return statement.returning(_placements.c.turns)


class Placements(Repository):
    """Whose turn it is."""

    __slots__ = ()

    def next_turn(self, version_uid: str, region: str) -> int:
        """The counter, from 0, which then moves on by one.

        The row stays locked until the transaction ends, so that however many place at once, each gets a turn of its
        own, and one that is rolled back is given again.

        Raises:
            Conflict: the version is gone.
        """
        asked = {"version_uid": version_uid, "region": region}
        return int(self._session.value(_next(is_sqlite=self._session.is_sqlite), asked)) - 1
