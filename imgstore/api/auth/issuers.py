"""Fetch the keys of OIDC issuers from a file or over https, at the first use and after a change of the keys."""

import json
import math
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, RSAKey

from imgstore.domain.effects import Effects
from imgstore.domain.errors import ImgstoreError, Unauthenticated
from imgstore.domain.identity.principals import Issuer

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""Algorithms with public keys. With a shared secret, the verifier could also sign tokens."""

_KEEP_SECONDS: Final = 3_600.0
_AGAIN_SECONDS: Final = 60.0
"""The minimum interval of fetches after an unknown key or a failure."""
_REQUEST_SECONDS_MAX: Final = 3.0
_FETCH_SECONDS_MAX: Final = 5.0
"""The time for the whole document, and the maximum wait of a caller."""
_WAITING_MAX: Final = 4
"""The callers that wait for keys, of all issuers together. Each waiting caller occupies a thread of the login pool."""
_READ_BYTES: Final = 64 << 10
_BYTES_MAX: Final = 1 << 20
_KINDS: Final[Mapping[str, type[RSAKey] | type[ECKey]]] = {"RSA": RSAKey, "EC": ECKey}


class IssuerBusy(ImgstoreError):
    """The keys of an issuer are being fetched, and too many callers wait for keys."""

    code = "IssuerBusy"
    status = 503
    retry_after_seconds = 1


@dataclass(slots=True, kw_only=True)
class _CachedKeys:
    """The cached keys of an issuer."""

    keys: KeySet | None = None
    """The keys of the last successful fetch. None before the first successful fetch."""
    tried_at: float = -math.inf
    """The time of the last fetch or failure."""
    failure: Unauthenticated | None = None
    """The error of the last fetch."""
    pending_fetch: "Future[None] | None" = None
    """The running fetch."""

    def has(self, kid: str | None) -> bool:
        """Return whether the keys contain the key id. Without an id, return whether any keys are known."""
        return self.keys is not None and (kid is None or any(key.kid == kid for key in self.keys))


@dataclass(slots=True)
class IssuerKeys:
    """A cache of the keys of issuers. Safe for use in several threads.

    A thread for each issuer fetches the keys, with one fetch at a time. Few callers wait for a fetch, and only for a few
    seconds. The cache remembers failures and unknown keys, so a forged token causes no request.
    """

    effects: Effects
    _known: dict[str, _CachedKeys] = field(default_factory=dict)
    _waiting: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, issuer: Issuer, kid: str | None) -> KeySet:
        """Return the keys of an issuer. The result contains the key `kid` if the issuer has this key.

        Raises:
            Unauthenticated: the keys can't be fetched, or are no JWK Set.
            IssuerBusy: too many callers wait for keys.
        """
        with self._lock:
            known = self._known.setdefault(issuer.jwks, _CachedKeys())
            if known.pending_fetch is None and self._is_due(known, kid):
                known.pending_fetch = Future()
                threading.Thread(target=self._fetch, args=(issuer, known), name="issuer", daemon=True).start()
            pending_fetch = known.pending_fetch
            # Known keys stay valid during a fetch.
            waits = pending_fetch is not None and not known.has(kid)
            if waits and self._waiting >= _WAITING_MAX:
                raise _busy_error(issuer)
            self._waiting += waits
        if waits:
            assert pending_fetch is not None, "a caller waits only for a fetch"
            try:
                pending_fetch.result(_FETCH_SECONDS_MAX)
            except TimeoutError:
                raise _unusable_error(issuer, f"no answer within {_FETCH_SECONDS_MAX:g} s") from None
            finally:
                with self._lock:
                    self._waiting -= 1
        with self._lock:
            keys, failure = known.keys, known.failure
        if keys is None:
            raise failure or _unusable_error(issuer, "no answer yet")
        return keys

    def _is_due(self, known: _CachedKeys, kid: str | None) -> bool:
        age = self.effects.monotonic() - known.tried_at
        is_fresh = known.has(kid) and known.failure is None
        return age >= (_KEEP_SECONDS if is_fresh else _AGAIN_SECONDS)

    def _fetch(self, issuer: Issuer, known: _CachedKeys) -> None:
        """Fetch the keys. Keep the known keys after a failure."""
        keys, failure = None, None
        try:
            keys = _parse_key_set(issuer, _read_document(issuer, self.effects.monotonic))
        except Unauthenticated as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - callers wait for the end of the fetch after any error
            failure = _unusable_error(issuer, repr(error))
        with self._lock:
            known.tried_at, known.failure = self.effects.monotonic(), failure
            known.keys = known.keys if keys is None else keys
            pending_fetch, known.pending_fetch = known.pending_fetch, None
        assert pending_fetch is not None, "only the fetch itself clears `pending_fetch`"
        pending_fetch.set_result(None)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A handler that follows no redirect. Keys are trusted because of the configured URL."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _read_document(issuer: Issuer, monotonic: Callable[[], float]) -> bytes:
    try:
        if not issuer.jwks.startswith("https://"):
            with Path(issuer.jwks).open("rb") as file:
                return file.read(_BYTES_MAX + 1)
        opener = urllib.request.build_opener(_NoRedirects())
        due_at = monotonic() + _FETCH_SECONDS_MAX
        with opener.open(issuer.jwks, timeout=_REQUEST_SECONDS_MAX) as answer:
            body = bytearray()
            while len(body) <= _BYTES_MAX and (part := answer.read1(_READ_BYTES)):
                body += part
                if monotonic() > due_at:
                    raise TimeoutError(f"the document is incomplete after {_FETCH_SECONDS_MAX:g} s")
            return bytes(body)
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise _unusable_error(issuer, str(error)) from error


def _parse_key_set(issuer: Issuer, document: bytes) -> KeySet:
    if len(document) > _BYTES_MAX:
        raise _unusable_error(issuer, f"more than {_BYTES_MAX} bytes")
    try:
        listed = json.loads(document)["keys"]
        keys = [_KINDS[each["kty"]].import_key(each) for each in listed if each.get("kty") in _KINDS]
    except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _unusable_error(issuer, f"no JWK Set: {error!r}") from error
    if not keys:
        raise _unusable_error(issuer, "a JWK Set without RSA or EC key")
    return KeySet(list(keys))


def _busy_error(issuer: Issuer) -> IssuerBusy:
    return IssuerBusy(
        f"The keys of the issuer '{issuer.url}' are being fetched.",
        found=f"{_WAITING_MAX} waiting requests",
        expected=f"fewer than {_WAITING_MAX}",
        hint="send the same request again in a second",
        target="jwks",
    )


def _unusable_error(issuer: Issuer, found: str) -> Unauthenticated:
    return Unauthenticated(
        f"The keys of the issuer '{issuer.url}' cannot be used.",
        found=f"{issuer.jwks}: {found}",
        expected="a JWK Set (RFC 7517) of RSA or EC keys",
        hint="correct the keys, or set another URL: imgstore auth issuer remove, then add",
        target="jwks",
    )
