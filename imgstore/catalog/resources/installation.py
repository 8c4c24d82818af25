"""The identity and settings of the installation, created at the first start."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.engine.rows import to_value
from imgstore.domain.errors import NotFound

HMAC_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallationRow:
    """The identity that marks all buckets of the installation, and the default subscription of commands."""

    uid: str
    subscription: str
    created_at: datetime
    outdated: str | None = None
    """The evidence that this catalog is older than its buckets, or None."""
    keeps_unknown: bool = False
    """True if an operator accepted an older catalog. Objects that are not in the catalog are never deleted then."""
    records_every_zone: bool = True
    """False if older code may have used a zone without a record."""


class Installations(Repository):
    """The single row of the installation."""

    def get(self) -> InstallationRow:
        """Return the installation.

        Raises:
            NotFound: the catalog has no installation, because `ensure` was never called.
        """
        found = self.find()
        if found is None:
            raise self._never_started()
        return found

    def find(self) -> InstallationRow | None:
        """Return the installation, or None before the first call of `ensure`."""
        row = self._session.first(select(schema.installation))
        return None if row is None else to_value(InstallationRow, row)

    def mark_outdated(self, found: str) -> None:
        """Record the evidence that this catalog is older than its buckets. The first evidence stays."""
        table = schema.installation
        self._session.run(update(table).where(table.c.outdated.is_(None)).values(outdated=found))

    def accept_outdated(self) -> None:
        """Permit the use of an outdated catalog. From now on, objects that are not in the catalog are kept."""
        self._session.run(update(schema.installation).values(outdated=None, keeps_unknown=True))

    def adopt(self, *, keeps_unknown: bool) -> None:
        """Note that the catalog has the newer objects of the buckets.

        Args:
            keeps_unknown: keep unknown objects for ever, because not all newer objects were taken.
        """
        table = schema.installation
        self._session.run(update(table).values(outdated=None, keeps_unknown=table.c.keeps_unknown | keeps_unknown))

    def ensure(self, subscription: str | None) -> InstallationRow:
        """Return the installation.

        If there is none, create one with `subscription`, or with a new subscription id if None.
        """
        effects = self._session.effects
        row = {
            "id": 1,
            "uid": effects.new_uid(),
            "subscription": subscription or effects.new_uid(),
            "hmac_key": effects.random_bytes(HMAC_KEY_BYTES),
            "created_at": self._session.now(),
            "records_every_zone": True,
        }
        self._session.run(self._session.upsert(schema.installation).values(row).on_conflict_do_nothing())
        return self.get()

    def hmac_key(self) -> bytes:
        """Return the 32 random bytes that authenticate the installation's own objects in a bucket (invariant B18).

        Raises:
            NotFound: the catalog has no installation, because `ensure` was never called.
        """
        key: bytes | None = self._session.value(select(schema.installation.c.hmac_key))
        if key is None:
            raise self._never_started()
        return key

    def _never_started(self) -> NotFound:
        return NotFound(
            "This catalog belongs to no installation yet.",
            found="an empty table",
            expected="the row that the first start writes",
            hint="run any imgstore command on this home first",
            target=self._session.place,
        )
