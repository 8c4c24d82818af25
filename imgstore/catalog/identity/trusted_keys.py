"""The installation's own signing keys, and the trusted issuers of other tokens."""

import builtins
from datetime import datetime

from sqlalchemy import delete, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository, Rows
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.domain.identity.principals import Issuer, SigningKey

_issuers = schema.issuers
_keys = schema.signing_keys


class Issuers(Rows[Issuer], table=_issuers, noun="issuer", value=Issuer):
    """The OIDC issuers whose tokens are accepted."""

    def get(self, url: str) -> Issuer | None:
        """Return the trusted issuer with exactly this URL, or None."""
        return self._find(_issuers.c.url == url)

    def list(self) -> builtins.list[Issuer]:
        """Return all trusted issuers, by URL."""
        return self._list(select(_issuers).order_by(_issuers.c.url))


class SigningKeys(Repository):
    """The installation's own signing keys."""

    def add(self, key: SigningKey) -> None:
        """Add a key, which signs all tokens from now on."""
        self._session.run(_keys.insert(), to_columns(_keys, key))

    def list(self) -> builtins.list[SigningKey]:
        """Return all keys, newest first. The first key that is not retired signs."""
        return [
            to_value(SigningKey, row)
            for row in self._session.all(select(_keys).order_by(_keys.c.created_at.desc(), _keys.c.kid))
        ]

    def retire(self, kid: str, public_pem: bytes, *, retired_at: datetime, trusted_until: datetime) -> None:
        """Stop signing with a key, and keep only the public part for the check of tokens.

        A retired key stays unchanged.
        """
        active = (_keys.c.kid == kid) & _keys.c.retired_at.is_(None)
        values = {"pem": public_pem, "retired_at": retired_at, "trusted_until": trusted_until}
        self._session.run(update(_keys).where(active).values(**values))

    def remove_expired(self, before: datetime) -> None:
        """Remove the keys whose last token expired before `before`."""
        self._session.run(delete(_keys).where(_keys.c.trusted_until < before))
