"""Issue tokens to applications with a valid secret, and check the token of each request.

Tokens of this installation are JWTs with RS256 signatures and the claims that Azure's clients read. Tokens of trusted OIDC
issuers are accepted for registered users. Roles come from the catalog and never from a token.
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
"""The prefix of an unverified client id in the activity log."""
AUDIENCES: Final = ("https://management.azure.com", "https://management.core.windows.net")
"""The audiences of clients without settings for a private cloud."""

_OWN_ALGORITHMS: Final = ("RS256",)
_SKEW_SECONDS: Final = 60
"""The tolerance for clocks of other machines that are ahead."""
_TOKEN_CHARACTERS_MAX: Final = 16_384
_BEARER: Final = re.compile(r"Bearer +([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+) *", re.IGNORECASE)
_OPENID_SCOPES: Final = ("openid", "offline_access", "profile")
_DEFAULT_SCOPE: Final = "/.default"
_GENERATION: Final = "gen"
"""The claim with the number of revocations of the owner's tokens before the issue. A missing claim means 0."""
_MALFORMED: Final = (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """The answer to an application's token request."""

    access_token: str
    expires_in_seconds: int
    client_info: str
    """The client's identity in MSAL's format: base64 of JSON with ``uid`` and ``utid``."""


@dataclass(slots=True)
class TokenAuthority:
    """The issuer and verifier of the tokens of an installation. Safe for use in several threads."""

    installation: Installation
    base_url: str
    """The URL of the server, such as ``https://localhost:8443``. The URL is the issuer and an audience of tokens."""
    token_seconds: int = TOKEN_SECONDS
    audiences: tuple[str, ...] = AUDIENCES
    """Accepted audiences in addition to `base_url`."""
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

    # -- issue --------------------------------------------------------------------------------------------------------

    def issue_token(self, tenant_id: str, client_id: str, client_secret: str, scope: str) -> Token:
        """Issue a token to an application with a valid secret.

        Args:
            tenant_id: the uid or the name of the tenant, as in the path.
            client_id: the client id of the application.
            client_secret: a secret of the application.
            scope: an audience of this installation with the suffix ``/.default``.

        Raises:
            ClientRefused: the tenant, the application or the secret is wrong. The error does not say which. The refusal
                adds a row to the activity log.
            InvalidInput: the scope is no audience of this installation. The error's code is ``invalid_scope``.
        """
        identity = self._find_client(tenant_id, client_id, client_secret)
        if identity is None:
            raise self._record_refusal(tenant_id, client_id)
        # Go's client also requests OpenID scopes, which have no meaning for an application.
        asked = " ".join(word for word in scope.split(" ") if word not in _OPENID_SCOPES)
        audience = asked.removesuffix(_DEFAULT_SCOPE)
        if audience.rstrip("/") not in self._audiences() or audience == asked:
            raise InvalidInput(
                f"AADSTS70011: The provided value for scope '{scope[:200]}' is not valid.",
                found=repr(scope[:200]),
                expected=f"{self.base_url}{_DEFAULT_SCOPE}",
                hint="set the resource manager URL of the client to the URL of this server",
                target="scope",
                code="invalid_scope",
            )
        return self._sign(identity, audience)

    def openid_configuration(self, base_url: str, tenant_id: str) -> dict[str, Any]:
        """Return the provider metadata of OpenID Connect Discovery 1.0.

        Args:
            base_url: the URL of the server from the view of the client.
            tenant_id: the tenant, as in the path.
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
            "id_token_signing_alg_values_supported": list(_OWN_ALGORITHMS),
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
            "tenant_region_scope": None,
        }

    def jwks(self) -> dict[str, Any]:
        """Return the public keys of this installation's tokens as a JWK Set (RFC 7517)."""
        return self.ring.jwks()

    def _find_client(self, tenant_id: str, client_id: str, client_secret: str) -> PrincipalRecord | None:
        """Return the application's identity in the tenant, or None if the secret is wrong.

        The function computes a hash in any case, so the time does not show which client ids exist.
        """
        with self.installation.catalog.reading() as transaction:
            tenant = transaction.tenants.find(tenant_id)
            identity = transaction.principals.find_by_client(tenant.uid, client_id) if tenant else None
            secret = transaction.secrets.find(client_id, client_secret[:HINT_CHARACTERS]) if identity else None
            now = transaction.now()
        is_correct = self._verify_secret(client_id, client_secret, secret.hashed if secret else None)
        is_valid = secret is not None and now < secret.expires_at
        return identity if is_correct and is_valid else None

    def is_recently_verified(self, client_id: str, client_secret: str) -> bool:
        """Return whether a client's secret was correct a short time ago. Read nothing from the catalog."""
        return self._secrets.has(client_id, client_secret)

    def _verify_secret(self, client_id: str, client_secret: str, hashed: str | None) -> bool:
        if hashed is not None and self._secrets.matches(client_id, client_secret, hashed):
            return True
        is_correct = verify_secret(hashed, client_secret)
        if is_correct and hashed is not None:
            self._secrets.add(client_id, client_secret, hashed)
        else:
            self._secrets.discard(client_id, client_secret)
        return is_correct

    def _record_refusal(self, tenant_id: str, client_id: str) -> ClientRefused:
        error = ClientRefused(
            "AADSTS7000215: Invalid client secret provided, or the application is not known in the tenant.",
            found=f"client {client_id[:64]!r} in tenant {tenant_id[:64]!r}",
            expected="a service principal of the tenant with a valid secret",
            hint="`imgstore auth sp show` shows the secrets, `imgstore auth sp credential reset` creates a new secret",
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
            access_token=jwt.encode({"alg": "RS256", "kid": kid}, claims, key, algorithms=list(_OWN_ALGORITHMS)),
            expires_in_seconds=self.token_seconds,
            client_info=base64.urlsafe_b64encode(info).decode().rstrip("="),
        )

    def _issuer(self, tenant_uid: str) -> str:
        return f"{self.base_url}/{tenant_uid}/v2.0"

    def _audiences(self) -> tuple[str, ...]:
        return (self.base_url, *self.audiences)

    # -- check --------------------------------------------------------------------------------------------------------

    def authenticate(self, authorization_header: str | None) -> Principal:
        """Return the principal that sent a request.

        The signature of a token is checked once, and the result is cached until the token expires. The roles of the
        principal and the revocation of tokens are read every few seconds.

        Args:
            authorization_header: the value of the header. None if the header is missing.

        Raises:
            Unauthenticated: the token is missing or not valid.
        """
        token = _parse_bearer(authorization_header)
        name = _token_name(token)
        verified = self._verified.get(name)
        if verified is None:
            verified = self._verify(token)
            self._cache_token(name, verified)
        if self.ring.now().timestamp() >= verified.expires_at:
            raise _expired_error()
        return self._owners.principal(verified)

    def find_cached_caller(self, authorization_header: str | None) -> str | None:
        """Return the object id of a token's owner, or None if `authenticate` has not verified the token yet.

        Read nothing from the catalog.

        Raises:
            Unauthenticated: the header is no bearer token.
        """
        verified = self._verified.get(_token_name(_parse_bearer(authorization_header)))
        return None if verified is None else verified.identity_uid

    def read_issuer(self, authorization_header: str | None) -> str:
        """Return the issuer that a token names, without a check of the signature.

        Raises:
            Unauthenticated: the header is no bearer token, or the token names no issuer.
        """
        return _read_unverified(_parse_bearer(authorization_header))[0]

    def _verify(self, token: str) -> VerifiedToken:
        claimed, kid, alg = _read_unverified(token)
        if claimed.startswith(f"{self.base_url}/"):
            return self._verify_own(token, kid)
        return self._verify_foreign(token, claimed, kid, alg)

    def _verify_own(self, token: str, kid: str | None) -> VerifiedToken:
        key = None if kid is None else self.ring.find_trusted_key(kid)
        if key is None:
            raise token_error("The access token is signed with an unknown key.", repr(kid))
        claims = _verify_claims(token, key, _OWN_ALGORITHMS)
        expires_at = self._check_time(claims)
        tenant, uid = _text_claim(claims, "tid"), _text_claim(claims, "oid")
        if _text_claim(claims, "iss") != self._issuer(tenant):
            raise token_error("The access token is from the wrong issuer.", _text_claim(claims, "iss"))
        if _text_claim(claims, "aud").rstrip("/") not in self._audiences():
            raise _audience_error(_text_claim(claims, "aud"), self.base_url)
        generation = claims.get(_GENERATION, 0)
        if not isinstance(generation, int):
            raise token_error(f"The access token has no usable claim '{_GENERATION}'.", repr(generation)[:200])
        return VerifiedToken(identity_uid=uid, issuer=None, expires_at=expires_at, generation=generation)

    def _verify_foreign(self, token: str, claimed: str, kid: str | None, alg: object) -> VerifiedToken:
        try:
            issuer, claims = self._verify_signature(token, claimed, kid, alg)
        except Unauthenticated as error:
            # A caller without a signed token must not learn the trusted issuers or the URLs of the issuers' keys.
            error.public = token_error("The access token is not signed by a trusted issuer.", "another token")
            raise
        expires_at = self._check_time(claims)
        audience = claims.get("aud")
        if issuer.audience not in (audience if isinstance(audience, list) else [audience]):
            raise _audience_error(repr(audience)[:200], issuer.audience)
        subject = _text_claim(claims, "sub")
        with self.installation.catalog.reading() as transaction:
            identity = transaction.principals.find_by_subject(issuer.url, subject)
        if identity is None:
            raise token_error(
                f"The user '{subject[:200]}' of '{issuer.url}' is not registered.",
                "a valid token of the issuer",
                hint="an administrator registers the user: imgstore auth user create",
            )
        issued_at = _time_claim(claims, "iat") if "iat" in claims else -math.inf
        return VerifiedToken(identity_uid=identity.uid, issuer=issuer.url, expires_at=expires_at, issued_at=issued_at)

    def _verify_signature(
        self, token: str, claimed: str, kid: str | None, alg: object
    ) -> tuple[Issuer, Mapping[str, Any]]:
        """Verify the signature of an issuer's token. Return the issuer and the claims, which are not checked yet.

        Raises:
            Unauthenticated: the issuer is not trusted, the keys can't be fetched, or the signature is wrong.
        """
        with self.installation.catalog.reading() as transaction:
            issuer = transaction.issuers.get(claimed)
        if issuer is None:
            raise token_error("The access token is from the wrong issuer.", repr(claimed[:200]))
        if alg not in ALGORITHMS:
            raise token_error("The access token is signed with an unsupported algorithm.", repr(alg))
        return issuer, _verify_claims(token, self._issuers.get(issuer, kid), ALGORITHMS)

    def _check_time(self, claims: Mapping[str, Any]) -> float:
        """Check that the token is valid now. Return the time of expiry."""
        now = self.ring.now().timestamp()
        expires_at, begins_at = _time_claim(claims, "exp"), _time_claim({"nbf": now, **claims}, "nbf")
        if now >= expires_at:
            raise _expired_error()
        if begins_at > now + _SKEW_SECONDS:
            raise token_error("The access token is not yet valid.", f"nbf {begins_at:.0f}, now {now:.0f}")
        return expires_at

    def _cache_token(self, name: bytes, verified: VerifiedToken) -> None:
        with self._lock:
            if len(self._verified) >= CACHED_MAX:
                now = self.ring.now().timestamp()
                evict(self._verified, lambda each: each.expires_at > now)
            self._verified[name] = verified


def _parse_bearer(authorization_header: str | None) -> str:
    """Return the token in the header."""
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
    """Return the cache key of a token."""
    return hashlib.sha256(token.encode()).digest()


def _read_unverified(token: str) -> tuple[str, str | None, object]:
    """Return the issuer, key id and algorithm that a token names, without a check of the signature."""
    try:
        loose = jws.extract_compact(token.encode())
        kid, alg = loose.headers().get("kid"), loose.headers().get("alg")
        claimed = json.loads(loose.payload or b"")["iss"]
    except _MALFORMED as error:
        raise token_error("The access token is invalid.", repr(error)) from error
    if not isinstance(claimed, str) or not isinstance(kid, str | None):
        raise token_error("The access token is invalid.", "an issuer or key id that is no string")
    return claimed, kid, alg


def _verify_claims(token: str, key: RSAKey | ECKey | KeySet, algorithms: Iterable[str]) -> dict[str, Any]:
    """Verify the signature of a token, and return the claims."""
    try:
        return jwt.decode(token, key, algorithms=list(algorithms)).claims
    except _MALFORMED as error:
        raise token_error("The access token's signature is not valid.", repr(error)) from error


def _text_claim(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise token_error(f"The access token has no usable claim '{name}'.", repr(value)[:200])
    return value


def _time_claim(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise token_error(f"The access token has no usable claim '{name}'.", repr(value)[:200])
    return float(value)


def _expired_error() -> Unauthenticated:
    return token_error("The access token has expired.", "an expired token", code="ExpiredAuthenticationToken")


def _audience_error(found: str, expected: str) -> Unauthenticated:
    return token_error(
        "The access token has been obtained for the wrong audience or resource.",
        found,
        expected=f"the audience {expected}",
        code="InvalidAuthenticationTokenAudience",
    )
