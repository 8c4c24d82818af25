"""Requests to delete objects that a store may not have carried out yet (invariant G14)."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, func, insert, select

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.storage.segments import split_batches

_deletions = schema.deletions


class Deletions(Repository):
    """The delete requests of all slots, by key below the slot.

    Requests for segments are rows of `condemned` instead.
    """

    def begin(self, slot_uid: str, keys: Collection[str], *, token: str, until: datetime) -> None:
        """Record a request before it is sent, and remove the requests that can no longer arrive.

        Args:
            slot_uid: the slot.
            keys: the keys in the request.
            token: the identity of the request.
            until: the latest time at which the store may carry out the request, by the database's clock.
        """
        self._session.run(
            delete(_deletions).where(_deletions.c.slot_uid == slot_uid, _deletions.c.until <= self._session.now())
        )
        rows = [{"slot_uid": slot_uid, "key": key, "token": token, "until": until} for key in sorted(set(keys))]
        if rows:
            self._session.run(insert(_deletions), rows)

    def end(self, slot_uid: str, token: str) -> None:
        """Remove a request that the store has answered."""
        self._session.run(delete(_deletions).where(_deletions.c.slot_uid == slot_uid, _deletions.c.token == token))

    def pending_until(self, slot_uid: str, keys: Collection[str]) -> datetime | None:
        """Return the latest time at which a store may carry out a request for one of the keys.

        Return None without a request.
        """
        latest: datetime | None = None
        for some in split_batches(sorted(set(keys))):
            found = self._session.value(
                select(func.max(_deletions.c.until)).where(
                    _deletions.c.slot_uid == slot_uid,
                    _deletions.c.key.in_(some),
                    _deletions.c.until > self._session.now(),
                )
            )
            latest = max(filter(None, (latest, found)), default=None)
        return latest
