"""The progress of scrub passes, and the damaged objects of each pass."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, delete, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.domain.storage.scrub_passes import ScrubPass, ScrubRunner

_passes = schema.scrub_passes
_damages = schema.scrub_damages


class ScrubPasses(Repository):
    """The unfinished passes. A runner has at most one pass in a slot."""

    def find(self, slot_uid: str, runner: ScrubRunner) -> ScrubPass | None:
        """Return the pass of a runner in a slot, or None."""
        row = self._session.first(select(_passes).where(_passes.c.slot_uid == slot_uid, _passes.c.runner == runner))
        if row is None:
            return None
        found = self._session.all(select(_damages).where(_damages.c.pass_uid == row.uid))
        return _scrub_pass(row, {damage.key: damage.is_repaired for damage in found})

    def in_slot(self, slot_uid: str) -> list[ScrubPass]:
        """Return the unfinished passes of all runners in a slot."""
        found = [self.find(slot_uid, runner) for runner in ScrubRunner]
        return [each for each in found if each is not None]

    def begin(self, slot_uid: str, runner: ScrubRunner, *, percent: float, seed: int) -> ScrubPass:
        """Begin a pass, and remove an earlier pass of the runner in the slot."""
        old = self.find(slot_uid, runner)
        if old is not None:
            self.end(old.uid)
        now = self._session.now()
        begun = ScrubPass(
            uid=self._session.effects.new_uid(),
            slot_uid=slot_uid,
            runner=runner,
            percent=percent,
            seed=seed,
            began_at=now,
            saved_at=now,
            damaged={},
        )
        values = to_columns(_passes, begun)
        self._session.run(self._session.upsert(_passes).values(values).on_conflict_do_nothing())
        return begun

    def save(self, uid: str, position: str, damaged: Mapping[str, bool]) -> None:
        """Record the progress of a pass. Do nothing if the pass has ended.

        Args:
            uid: the pass.
            position: see `ScrubPass.position`.
            damaged: the objects that were found damaged or were repaired since the last call, as in
                `ScrubPass.damaged`.
        """
        values = {"position": position, "saved_at": self._session.now()}
        if self._session.change(update(_passes).where(_passes.c.uid == uid).values(values)) and damaged:
            rows = [{"pass_uid": uid, "key": key, "is_repaired": value} for key, value in sorted(damaged.items())]
            insert = self._session.upsert(_damages)
            keys = ["pass_uid", "key"]
            statement = insert.on_conflict_do_update(
                index_elements=keys, set_={"is_repaired": insert.excluded.is_repaired}
            )
            self._session.run(statement, rows)

    def end(self, uid: str) -> None:
        """Remove a pass. The next scrub of the runner starts at the beginning of the slot."""
        self._session.run(delete(_damages).where(_damages.c.pass_uid == uid))
        self._session.run(delete(_passes).where(_passes.c.uid == uid))

    def end_in_slot(self, slot_uid: str) -> None:
        """Remove the passes of all runners in a slot."""
        for row in self._session.all(select(_passes.c.uid).where(_passes.c.slot_uid == slot_uid)):
            self.end(row.uid)


def _scrub_pass(row: Row[Any], damaged: Mapping[str, bool]) -> ScrubPass:
    return to_value(ScrubPass, row, damaged=damaged)
