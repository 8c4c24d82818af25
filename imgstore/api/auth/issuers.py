"""The keys of OIDC issuers, from a file or over https: fetched when they are needed, and again when they changed."""

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
"""Public keys alone: with a shared secret the key that checks could sign."""

_KEEP_SECONDS: Final = 3_600.0
_AGAIN_SECONDS: Final = 60.0
"""A key that is not among those known makes us look again, no more often than this. Also after a failure."""
_REQUEST_SECONDS_MAX: Final = 3.0
_FETCH_SECONDS_MAX: Final = 5.0
"""For the whole document. A caller waits no longer for it."""
_WAITING_MAX: Final = 4
"""Callers of all issuers together that wait for keys. Each of them holds a thread of the requests."""
_READ_BYTES: Final = 64 << 10
_BYTES_MAX: Final = 1 << 20
_KINDS: Final[Mapping[str, type[RSAKey] | type[ECKey]]] = {"RSA": RSAKey, "EC": ECKey}


class IssuerBusy(ImgstoreError):
    """The keys of an issuer are being fetched, and enough callers wait for them already."""

    code = "IssuerBusy"
    status = 503
    retry_after_seconds = 1


@dataclass(slots=True, kw_only=True)
class _Known:
    """What is known of an issuer's keys."""

    keys: KeySet | None = None
    """Those that were fetched last; None before the first."""
    at: float = -math.inf
    """When they were fetched, or when it failed."""
    failure: Unauthenticated | None = None
    """Of the last fetch."""
    flight: "Future[None] | None" = None
    """The fetch that is under way."""

    def has(self, kid: str | None) -> bool:
        """Whether there is a key of that id; without an id, whether there is any."""
        return self.keys is not None and (kid is None or any(key.kid == kid for key in self.keys))


@dataclass(slots=True)
class IssuerKeys:
    """The keys of every issuer that was asked for. Safe to use from several threads at once.

    Keys are fetched in a thread for each issuer, one fetch at a time. Few callers wait for it, for a few seconds. A
    failure, and a key that an issuer does not have, are remembered: forged tokens cost no request of their own.
    """

    effects: Effects
    _known: dict[str, _Known] = field(default_factory=dict)
    _waiting: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, issuer: Issuer, kid: str | None) -> KeySet:
        """The issuer's keys, with that of `kid` among them if it has it.

        Raises:
            Unauthenticated: they cannot be had, or are no JWK Set.
            IssuerBusy: too many callers wait for them.
        """
        with self._lock:
            known = self._known.setdefault(issuer.jwks, _Known())
            if known.flight is None and self._is_due(known, kid):
                known.flight = Future()
                threading.Thread(target=self._fetch, args=(issuer, known), name="issuer", daemon=True).start()
            flight = known.flight
            # While old keys are being fetched again, they hold.
            waits = flight is not None and not known.has(kid)
            if waits and self._waiting >= _WAITING_MAX:
                raise _busy(issuer)
            self._waiting += waits
        if waits:
            assert flight is not None, "somebody who waits, waits for a fetch"
            try:
                flight.result(_FETCH_SECONDS_MAX)
            except TimeoutError:
                raise _unusable(issuer, f"no answer within {_FETCH_SECONDS_MAX:g} s") from None
            finally:
                with self._lock:
                    self._waiting -= 1
        with self._lock:
            keys, failure = known.keys, known.failure
        if keys is None:
            raise failure or _unusable(issuer, "no answer yet")
        return keys

    def _is_due(self, known: _Known, kid: str | None) -> bool:
        age = self.effects.monotonic() - known.at
        is_fresh = known.has(kid) and known.failure is None
        return age >= (_KEEP_SECONDS if is_fresh else _AGAIN_SECONDS)

    def _fetch(self, issuer: Issuer, known: _Known) -> None:
        """Fetch the keys. Those that are known stay when that fails."""
        keys, failure = None, None
        try:
            keys = _key_set(issuer, _document(issuer, self.effects.monotonic))
        except Unauthenticated as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - whatever it is, callers wait for the end
            failure = _unusable(issuer, repr(error))
        with self._lock:
            known.at, known.failure = self.effects.monotonic(), failure
            known.keys = known.keys if keys is None else keys
            flight, known.flight = known.flight, None
        assert flight is not None, "a fetch is under way until it says so itself"
        flight.set_result(None)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Keys are believed because of where they were asked for."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _document(issuer: Issuer, monotonic: Callable[[], float]) -> bytes:
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
                    raise TimeoutError(f"not all of it within {_FETCH_SECONDS_MAX:g} s")
            return bytes(body)
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


def _busy(issuer: Issuer) -> IssuerBusy:
    return IssuerBusy(
        f"The keys of the issuer '{issuer.url}' are being fetched.",
        found=f"{_WAITING_MAX} requests that wait for keys",
        expected="fewer",
        hint="send the same request again in a second",
        target="jwks",
    )


def _unusable(issuer: Issuer, found: str) -> Unauthenticated:
    return Unauthenticated(
        f"The keys of the issuer '{issuer.url}' cannot be used.",
        found=f"{issuer.jwks}: {found}",
        expected="a JWK Set (RFC 7517) of RSA or EC keys",
        hint="see to it, or give another place: imgstore auth issuer remove, then add",
        target="jwks",
    )
