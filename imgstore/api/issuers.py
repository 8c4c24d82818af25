"""The keys of OIDC issuers, from a file or over https: fetched when they are needed, and again when they changed."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, RSAKey

from imgstore.domain.effects import Effects
from imgstore.domain.errors import Unauthenticated
from imgstore.domain.identities import Issuer

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""Public keys alone: with a shared secret the key that checks could sign."""

_KEEP_SECONDS: Final = 3_600.0
_AGAIN_SECONDS: Final = 60.0
"""A key that is not among those known makes us look again, no more often than this."""
_REQUEST_SECONDS_MAX: Final = 10.0
_BYTES_MAX: Final = 1 << 20
_KINDS: Final[Mapping[str, type[RSAKey] | type[ECKey]]] = {"RSA": RSAKey, "EC": ECKey}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fetched:
    keys: KeySet
    at: float


@dataclass(slots=True)
class IssuerKeys:
    """The keys of every issuer that was asked for. Safe to use from several threads at once."""

    effects: Effects
    _fetched: dict[str, _Fetched] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, issuer: Issuer, kid: str | None) -> KeySet:
        """The issuer's keys, with that of `kid` among them if it has it.

        Raises:
            Unauthenticated: they cannot be had, or are no JWK Set.
        """
        with self._lock:
            fetched, now = self._fetched.get(issuer.jwks), self.effects.monotonic()
            age = now - fetched.at if fetched else _KEEP_SECONDS
            lacking = fetched is None or (kid is not None and all(key.kid != kid for key in fetched.keys))
            if fetched is None or age >= _KEEP_SECONDS or (lacking and age >= _AGAIN_SECONDS):
                fetched = _Fetched(keys=_key_set(issuer, _document(issuer)), at=now)
                self._fetched[issuer.jwks] = fetched
            return fetched.keys


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Keys are believed because of where they were asked for."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _document(issuer: Issuer) -> bytes:
    try:
        if not issuer.jwks.startswith("https://"):
            with Path(issuer.jwks).open("rb") as file:
                return file.read(_BYTES_MAX + 1)
        opener = urllib.request.build_opener(_NoRedirects())
        with opener.open(issuer.jwks, timeout=_REQUEST_SECONDS_MAX) as answer:
            body: bytes = answer.read(_BYTES_MAX + 1)
            return body
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise _unusable(issuer, str(error)) from error


def _key_set(issuer: Issuer, document: bytes) -> KeySet:
    if len(document) > _BYTES_MAX:
        raise _unusable(issuer, f"more than {_BYTES_MAX} bytes")
    try:
        listed = json.loads(document)["keys"]
        keys = [_KINDS[each["kty"]].import_key(each) for each in listed if each.get("kty") in _KINDS]
    except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _unusable(issuer, f"no JWK Set: {error!r}") from error
    if not keys:
        raise _unusable(issuer, "no RSA or EC key in it")
    return KeySet(list(keys))


def _unusable(issuer: Issuer, found: str) -> Unauthenticated:
    return Unauthenticated(
        f"The keys of the issuer '{issuer.url}' cannot be used.",
        found=f"{issuer.jwks}: {found}",
        expected="a JWK Set (RFC 7517) of RSA or EC keys",
        hint="see to it, or give another place: imgstore auth issuer remove, then add",
        target="jwks",
    )
