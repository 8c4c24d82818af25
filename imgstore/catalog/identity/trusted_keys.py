"""The installation's own signing keys, and the trusted issuers of other tokens."""

import builtins
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select, update

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.domain.identity.principals import Issuer, SigningKey

if TYPE_CHECKING:
    from sqlalchemy.engine import Row

_issuers = schema.issuers
_keys = schema.signing_keys


class Issuers(Repository):
    """The OIDC issuers whose tokens are accepted."""

    __slots__ = ()

    def add(self, issuer: Issuer) -> None:
        """Add a trusted issuer.

        Raises:
            Conflict: an issuer with this URL exists.
        """
        self._session.run(
            _issuers.insert(),
            {
                "uid": issuer.uid,
                "tenant_uid": issuer.tenant_uid,
                "url": issuer.url,
                "audience": issuer.audience,
                "jwks": issuer.jwks,
                "created_at": issuer.created_at,
            },
        )

    def get(self, url: str) -> Issuer | None:
        """Return the trusted issuer with exactly this URL, or None."""
        row = self._session.first(select(_issuers).where(_issuers.c.url == url))
        return None if row is None else _issuer(row)

    def list(self) -> builtins.list[Issuer]:
        """Return all trusted issuers, by URL."""
        return [_issuer(row) for row in self._session.all(select(_issuers).order_by(_issuers.c.url))]

    def delete(self, uid: str) -> None:
        """Remove a trusted issuer.

        Raises:
            NotFound: no row has this uid.
        """
        self._remove(_issuers, uid, "issuer")


class SigningKeys(Repository):
    """The installation's own signing keys."""

    __slots__ = ()

    def add(self, key: SigningKey) -> None:
        """Add a key, which signs all tokens from now on."""
        self._session.run(_keys.insert(), {"kid": key.kid, "pem": key.pem, "created_at": key.created_at})

    def list(self) -> builtins.list[SigningKey]:
        """Return all keys, newest first. The first key that is not retired signs."""
        return [_key(row) for row in self._session.all(select(_keys).order_by(_keys.c.created_at.desc(), _keys.c.kid))]

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


def _issuer(row: "Row[Any]") -> Issuer:
    return Issuer(
        uid=row.uid,
        tenant_uid=row.tenant_uid,
        url=row.url,
        audience=row.audience,
        jwks=row.jwks,
        created_at=row.created_at,
    )


def _key(row: "Row[Any]") -> SigningKey:
    return SigningKey(
        kid=row.kid,
        pem=row.pem,
        created_at=row.created_at,
        retired_at=row.retired_at,
        trusted_until=row.trusted_until,
    )
