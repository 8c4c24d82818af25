"""What tokens are believed by: our own signing keys, and the issuers of others."""

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
    """OIDC issuers whose users are known here."""

    __slots__ = ()

    def add(self, issuer: Issuer) -> None:
        """Write a new one down.

        Raises:
            Conflict: it is there.
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
        """The issuer that calls itself so, to the letter, if it is trusted."""
        row = self._session.first(select(_issuers).where(_issuers.c.url == url))
        return None if row is None else _issuer(row)

    def list(self) -> builtins.list[Issuer]:
        """Every trusted issuer, by URL."""
        return [_issuer(row) for row in self._session.all(select(_issuers).order_by(_issuers.c.url))]

    def delete(self, uid: str) -> None:
        """Trust it no more.

        Raises:
            NotFound: no row has this uid.
        """
        self._remove(_issuers, uid, "issuer")


class SigningKeys(Repository):
    """The installation's own keys."""

    __slots__ = ()

    def add(self, key: SigningKey) -> None:
        """Write a new one down: from now on it signs."""
        self._session.run(_keys.insert(), {"kid": key.kid, "pem": key.pem, "created_at": key.created_at})

    def list(self) -> builtins.list[SigningKey]:
        """Every key that is kept, the newest first: the first one that is not retired signs."""
        return [_key(row) for row in self._session.all(select(_keys).order_by(_keys.c.created_at.desc(), _keys.c.kid))]

    def retire(self, kid: str, public_pem: bytes, *, retired_at: datetime, trusted_until: datetime) -> None:
        """Let a key sign no more, and keep of it what its tokens are checked with. A retired one stays as it is."""
        standing = (_keys.c.kid == kid) & _keys.c.retired_at.is_(None)
        values = {"pem": public_pem, "retired_at": retired_at, "trusted_until": trusted_until}
        self._session.run(update(_keys).where(standing).values(**values))

    def remove_expired(self, before: datetime) -> None:
        """Remove the keys whose last token expired before then."""
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
