"""The round robin: a counter for each version and region, moved in the transaction that hands a replica out."""

from imgstore.catalog import schema
from imgstore.catalog.repository import Repository

_placements = schema.placements


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
        statement = self._session.upsert(_placements).values(version_uid=version_uid, region=region, turns=1)
        statement = statement.on_conflict_do_update(
            index_elements=["version_uid", "region"], set_={"turns": _placements.c.turns + 1}
        )
        return int(self._session.value(statement.returning(_placements.c.turns))) - 1
