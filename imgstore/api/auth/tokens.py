"""Tokens: given to applications that prove themselves, and checked on every request.

Ours are JWTs signed with RS256, with the claims that Azure's clients look at. Besides them, those of trusted OIDC issuers
are taken for the users that are known by them. What a token says of roles is not asked: the catalog is.
"""

import base64
import hashlib
import json
import math
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, RSAKey

from imgstore.api.auth.client_secrets import verify_secret
from imgstore.api.auth.issuers import ALGORITHMS, IssuerKeys
from imgstore.api.auth.secret_checks import VerifiedSecrets
from imgstore.api.auth.signing_keys import TOKEN_SECONDS_MAX, KeyRing
from imgstore.api.auth.token_owners import CACHED_MAX, TokenOwners, VerifiedToken, evict, token_error
from imgstore.domain.errors import ClientRefused, InvalidInput, Unauthenticated
from imgstore.domain.identity.access import Principal
from imgstore.domain.identity.principals import HINT_CHARACTERS, Issuer, PrincipalRecord
from imgstore.operations.installation import Installation

TOKEN_SECONDS: Final = 3_600
UNVERIFIED_CLIENT: Final = "client "
"""What the activity log puts before the id of a client that nobody has proven to be."""
AUDIENCES: Final = ("https://management.azure.com", "https://management.core.windows.net")
"""What clients ask for that were told of no other cloud."""

_OURS: Final = ("RS256",)
_SKEW_SECONDS: Final = 60
"""How far another machine's clock may be ahead of ours."""
_TOKEN_CHARACTERS_MAX: Final = 16_384
_BEARER: Final = re.compile(r"Bearer +([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+) *", re.IGNORECASE)
_OPENID_SCOPES: Final = ("openid", "offline_access", "profile")
_DEFAULT_SCOPE: Final = "/.default"
_GENERATION: Final = "gen"
"""The claim that says how often its owner's tokens had been taken back before. Without it: never."""
_MALFORMED: Final = (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What an application is given."""

    access_token: str
    expires_in_seconds: int
    client_info: str
    """Who it is, as MSAL reads it: base64 of JSON with ``uid`` and ``utid``."""


@dataclass(slots=True)
class TokenAuthority:
    """Gives and checks the tokens of an installation. Safe to use from several threads at once."""

    installation: Installation
    base_url: str
    """Where the server is reached: ``https://localhost:8443``. Its tokens name it as issuer, and are good for it."""
    token_seconds: int = TOKEN_SECONDS
    audiences: tuple[str, ...] = AUDIENCES
    """Taken besides `base_url`."""
    ring: KeyRing = field(init=False)
    _issuers: IssuerKeys = field(init=False)
    _verified: dict[bytes, VerifiedToken] = field(default_factory=dict)
    _owners: TokenOwners = field(init=False)
    _secrets: VerifiedSecrets = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if not 1 <= self.token_seconds <= TOKEN_SECONDS_MAX:
            raise InvalidInput(
                "The lifetime of tokens is out of range.",
                found=f"{self.token_seconds} s",
                expected=f"1 to {TOKEN_SECONDS_MAX} s",
                hint="an hour is usual",
                target="tokenSeconds",
            )
        self.base_url = self.base_url.rstrip("/")
        self.ring = KeyRing(self.installation)
        self._issuers = IssuerKeys(self.installation.effects)
        self._owners = TokenOwners(self.installation)
        self._secrets = VerifiedSecrets(self.installation.effects)

    # -- given --------------------------------------------------------------------------------------------------------

    def issue_token(self, tenant_id: str, client_id: str, client_secret: str, scope: str) -> Token:
        """A token for an application that knows its secret.

        Args:
            tenant_id: the tenant's uid or name, as it stands in the path.
            client_id: the application's.
            client_secret: one of its secrets.
            scope: an audience of this installation with ``/.default`` behind it.

        Raises:
            ClientRefused: no such tenant, application or secret: which of them is not told. It stands in the activity
                log.
            InvalidInput: the scope is none of ours; its code is ``invalid_scope``.
        """
        identity = self._find_client(tenant_id, client_id, client_secret)
        if identity is None:
            raise self._record_refusal(tenant_id, client_id)
        # Go's client asks for OpenID's scopes too, which an application's token has no use for.
        asked = " ".join(word for word in scope.split(" ") if word not in _OPENID_SCOPES)
        audience = asked.removesuffix(_DEFAULT_SCOPE)
        if audience.rstrip("/") not in self._audiences() or audience == asked:
            raise InvalidInput(
                f"AADSTS70011: The provided value for scope '{scope[:200]}' is not valid.",
                found=repr(scope[:200]),
                expected=f"{self.base_url}{_DEFAULT_SCOPE}",
                hint="give the client this installation's address as its resource manager's",
                target="scope",
                code="invalid_scope",
            )
        return self._sign(identity, audience)

    def openid_configuration(self, base_url: str, tenant_id: str) -> dict[str, Any]:
        """Where clients find what (OpenID Connect Discovery 1.0).

        Args:
            base_url: as the client reached us.
            tenant_id: as it stands in the path.
        """
        base = base_url.rstrip("/")
        top = f"{base}/{tenant_id}"
        return {
            "issuer": f"{top}/v2.0",
            "authorization_endpoint": f"{top}/oauth2/v2.0/authorize",
            "token_endpoint": f"{top}/oauth2/v2.0/token",
            "jwks_uri": f"{top}/discovery/v2.0/keys",
            "response_types_supported": ["token"],
            "grant_types_supported": ["client_credentials"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": list(_OURS),
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
            "tenant_region_scope": None,
        }

    def jwks(self) -> dict[str, Any]:
        """The keys that our tokens are checked with (RFC 7517)."""
        return self.ring.jwks()

    def _find_client(self, tenant_id: str, client_id: str, client_secret: str) -> PrincipalRecord | None:
        """The application's principal in the tenant, if the secret is its own. One hash is reckoned, whoever asks."""
        with self.installation.catalog.reading() as transaction:
            tenant = transaction.tenants.find(tenant_id)
            identity = transaction.principals.of_client(tenant.uid, client_id) if tenant else None
            secret = transaction.secrets.find(client_id, client_secret[:HINT_CHARACTERS]) if identity else None
            now = transaction.now()
        right = self._verify_secret(client_id, client_secret, secret.hashed if secret else None)
        standing = secret is not None and now < secret.expires_at
        return identity if right and standing else None

    def is_recently_verified(self, client_id: str, client_secret: str) -> bool:
        """Tell whether a client's secret was right a short while ago; reads nothing."""
        return self._secrets.has(client_id, client_secret)

    def _verify_secret(self, client_id: str, client_secret: str, hashed: str | None) -> bool:
        if hashed is not None and self._secrets.matches(client_id, client_secret, hashed):
            return True
        right = verify_secret(hashed, client_secret)
        if right and hashed is not None:
            self._secrets.add(client_id, client_secret, hashed)
        else:
            self._secrets.discard(client_id, client_secret)
        return right

    def _record_refusal(self, tenant_id: str, client_id: str) -> ClientRefused:
        error = ClientRefused(
            "AADSTS7000215: Invalid client secret provided, or the application is not known in the tenant.",
            found=f"client {client_id[:64]!r} in tenant {tenant_id[:64]!r}",
            expected="a service principal of the tenant, and a secret of it that has not expired",
            hint="`imgstore auth sp show` tells what stands, `imgstore auth sp credential reset` gives a new secret",
            target="client_secret",
        )
        with self.installation.catalog.transaction() as transaction:
            transaction.activity.add_refusal(
                principal=f"{UNVERIFIED_CLIENT}{client_id[:64]!r}",
                action="imgstore/tokens/issue/action",
                scope=f"/tenants/{tenant_id[:64]}",
                detail=f"{error.error_code}: {error.message}",
                at=transaction.now(),
                like=UNVERIFIED_CLIENT,
            )
        return error

    def _sign(self, identity: PrincipalRecord, audience: str) -> Token:
        kid, key = self.ring.get_signing_key()
        now = int(self.ring.now().timestamp())
        claims = {
            "aud": audience,
            "iss": self._issuer(identity.tenant_uid),
            "iat": now,
            "nbf": now,
            "exp": now + self.token_seconds,
            "appid": identity.client_id,
            "appidacr": "1",
            "idtyp": "app",
            "oid": identity.uid,
            "sub": identity.uid,
            "tid": identity.tenant_uid,
            "ver": "1.0",
            _GENERATION: identity.token_generation,
            "uti": self.installation.effects.new_uid(),
        }
        info = json.dumps({"uid": identity.uid, "utid": identity.tenant_uid}).encode()
        return Token(
            access_token=jwt.encode({"alg": "RS256", "kid": kid}, claims, key, algorithms=list(_OURS)),
            expires_in_seconds=self.token_seconds,
            client_info=base64.urlsafe_b64encode(info).decode().rstrip("="),
        )

    def _issuer(self, tenant_uid: str) -> str:
        return f"{self.base_url}/{tenant_uid}/v2.0"

    def _audiences(self) -> tuple[str, ...]:
        return (self.base_url, *self.audiences)

    # -- checked ------------------------------------------------------------------------------------------------------

    def authenticate(self, authorization_header: str | None) -> Principal:
        """Who sent a request.

        A token's signature is checked once and remembered until it expires; its principal's roles, and whether its
        tokens were taken back, are read again every few seconds.

        Args:
            authorization_header: the header's value; None where there is none.

        Raises:
            Unauthenticated: no token, or one that is not believed.
        """
        token = _bearer(authorization_header)
        name = _token_name(token)
        verified = self._verified.get(name)
        if verified is None:
            verified = self._verify(token)
            self._cache_token(name, verified)
        if self.ring.now().timestamp() >= verified.expires_at:
            raise _expired()
        return self._owners.principal(verified)

    def find_cached_caller(self, authorization_header: str | None) -> str | None:
        """Return whose token it is, by object id, if `caller` has proven it before; reads nothing.

        Raises:
            Unauthenticated: the header is no bearer token.
        """
        verified = self._verified.get(_token_name(_bearer(authorization_header)))
        return None if verified is None else verified.identity_uid

    def read_issuer(self, authorization_header: str | None) -> str:
        """Return the issuer that a token names; nothing is proven.

        Raises:
            Unauthenticated: the header is no bearer token, or names no issuer.
        """
        return _read_unproven(_bearer(authorization_header))[0]

    def _verify(self, token: str) -> VerifiedToken:
        claimed, kid, alg = _read_unproven(token)
        if claimed.startswith(f"{self.base_url}/"):
            return self._verify_own(token, kid)
        return self._verify_foreign(token, claimed, kid, alg)

    def _verify_own(self, token: str, kid: str | None) -> VerifiedToken:
        key = None if kid is None else self.ring.find_trusted_key(kid)
        if key is None:
            raise token_error("The access token is signed with a key that is not known.", repr(kid))
        claims = _claims(token, key, _OURS)
        expires_at = self._check_time(claims)
        tenant, uid = _text(claims, "tid"), _text(claims, "oid")
        if _text(claims, "iss") != self._issuer(tenant):
            raise token_error("The access token is from the wrong issuer.", _text(claims, "iss"))
        if _text(claims, "aud").rstrip("/") not in self._audiences():
            raise _wrong_audience(_text(claims, "aud"), self.base_url)
        generation = claims.get(_GENERATION, 0)
        if not isinstance(generation, int):
            raise token_error(f"The access token has no usable claim '{_GENERATION}'.", repr(generation)[:200])
        return VerifiedToken(identity_uid=uid, issuer=None, expires_at=expires_at, generation=generation)

    def _verify_foreign(self, token: str, claimed: str, kid: str | None, alg: object) -> VerifiedToken:
        try:
            issuer, claims = self._verify_signature(token, claimed, kid, alg)
        except Unauthenticated as error:
            # Who has no key of an issuer learns neither which issuers are trusted, nor where their keys are.
            error.public = token_error(
                "The access token is not signed by an issuer that is trusted here.", "another token"
            )
            raise
        expires_at = self._check_time(claims)
        audience = claims.get("aud")
        if issuer.audience not in (audience if isinstance(audience, list) else [audience]):
            raise _wrong_audience(repr(audience)[:200], issuer.audience)
        subject = _text(claims, "sub")
        with self.installation.catalog.reading() as transaction:
            identity = transaction.principals.of_subject(issuer.url, subject)
        if identity is None:
            raise token_error(
                f"The user '{subject[:200]}' of '{issuer.url}' is not known here.",
                "a token that the issuer signed",
                hint="an administrator makes the user known: imgstore auth user create",
            )
        issued_at = _instant(claims, "iat") if "iat" in claims else -math.inf
        return VerifiedToken(identity_uid=identity.uid, issuer=issuer.url, expires_at=expires_at, issued_at=issued_at)

    def _verify_signature(
        self, token: str, claimed: str, kid: str | None, alg: object
    ) -> tuple[Issuer, Mapping[str, Any]]:
        """Verify the signature of an issuer's token; gives the issuer, and the claims unchecked.

        Raises:
            Unauthenticated: the issuer is not trusted, its keys cannot be had, or the signature is wrong.
        """
        with self.installation.catalog.reading() as transaction:
            issuer = transaction.issuers.get(claimed)
        if issuer is None:
            raise token_error("The access token is from the wrong issuer.", repr(claimed[:200]))
        if alg not in ALGORITHMS:
            raise token_error("The access token is signed in a way that is not taken.", repr(alg))
        return issuer, _claims(token, self._issuers.of(issuer, kid), ALGORITHMS)

    def _check_time(self, claims: Mapping[str, Any]) -> float:
        """When the token expires, if it is good now."""
        now = self.ring.now().timestamp()
        expires_at, begins_at = _instant(claims, "exp"), _instant({"nbf": now, **claims}, "nbf")
        if now >= expires_at:
            raise _expired()
        if begins_at > now + _SKEW_SECONDS:
            raise token_error("The access token is not yet valid.", f"nbf {begins_at:.0f}, now {now:.0f}")
        return expires_at

    def _cache_token(self, name: bytes, verified: VerifiedToken) -> None:
        with self._lock:
            if len(self._verified) >= CACHED_MAX:
                now = self.ring.now().timestamp()
                evict(self._verified, lambda each: each.expires_at > now)
            self._verified[name] = verified


def _bearer(authorization_header: str | None) -> str:
    """The token in the header."""
    if not authorization_header:
        raise token_error(
            "Authentication failed. The 'Authorization' header is missing.", "none", code="AuthenticationFailed"
        )
    match = _BEARER.fullmatch(authorization_header)
    if match is None or len(authorization_header) > _TOKEN_CHARACTERS_MAX:
        raise token_error(
            "Authentication failed. The 'Authorization' header is provided in an invalid format.",
            f"{len(authorization_header)} characters",
            code="AuthenticationFailedInvalidHeader",
        )
    return match[1]


def _token_name(token: str) -> bytes:
    """What a proven token is remembered by."""
    return hashlib.sha256(token.encode()).digest()


def _read_unproven(token: str) -> tuple[str, str | None, object]:
    """The issuer, key id and algorithm that a token names, before its signature is checked."""
    try:
        loose = jws.extract_compact(token.encode())
        kid, alg = loose.headers().get("kid"), loose.headers().get("alg")
        claimed = json.loads(loose.payload or b"")["iss"]
    except _MALFORMED as error:
        raise token_error("The access token is invalid.", repr(error)) from error
    if not isinstance(claimed, str) or not isinstance(kid, str | None):
        raise token_error("The access token is invalid.", "an issuer or key id that is no text")
    return claimed, kid, alg


def _claims(token: str, key: RSAKey | ECKey | KeySet, algorithms: Iterable[str]) -> dict[str, Any]:
    """What a token says, once its signature is right."""
    try:
        return jwt.decode(token, key, algorithms=list(algorithms)).claims
    except _MALFORMED as error:
        raise token_error("The access token's signature is not valid.", repr(error)) from error


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise token_error(f"The access token has no usable claim '{name}'.", repr(value)[:200])
    return value


def _instant(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise token_error(f"The access token has no usable claim '{name}'.", repr(value)[:200])
    return float(value)


def _expired() -> Unauthenticated:
    return token_error("The access token has expired.", "a token whose time is over", code="ExpiredAuthenticationToken")


def _wrong_audience(found: str, expected: str) -> Unauthenticated:
    return token_error(
        "The access token has been obtained for the wrong audience or resource.",
        found,
        expected=f"the audience {expected}",
        code="InvalidAuthenticationTokenAudience",
    )
