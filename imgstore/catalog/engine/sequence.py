"""The catalog's sequence: increasing numbers for the order of events and for checkpoints in the buckets."""

from collections.abc import Collection

from sqlalchemy import func, select

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.domain.storage.checkpoints import Checkpoint

_table = schema.checkpoints


class CatalogSequence(Repository):
    """All numbers of the sequence.

    Rows are never removed, because a bucket may contain a checkpoint with any number.
    """

    def next(self) -> Checkpoint:
        """Return a checkpoint with the next number and a new uid.

        Two numbers are in the order of the commits only if both transactions hold the same lock.
        """
        uid = self._session.effects.new_uid()
        result = self._session.run(_table.insert().values(uid=uid))
        key = result.inserted_primary_key
        assert key is not None, "an INSERT of one row gives its key"
        return Checkpoint(sequence=key[0], uid=uid)

    def last(self) -> int:
        """Return the highest number so far, or 0 if there is none."""
        return self._session.value(select(func.max(_table.c.sequence))) or 0

    def find_unknown(self, checkpoints: Collection[Checkpoint]) -> list[Checkpoint]:
        """Return the checkpoints that this catalog did not record, in order."""
        numbers = [each.sequence for each in checkpoints]
        rows = self._session.all(select(_table.c.sequence, _table.c.uid).where(_table.c.sequence.in_(numbers)))
        known = {Checkpoint(sequence=row.sequence, uid=row.uid) for row in rows}
        return sorted(set(checkpoints) - known)
