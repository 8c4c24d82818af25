"""Test the issue and the check of tokens, secrets, signing keys and issuers."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from imgstore.api.auth import client_secrets, signing_keys, tokens
from imgstore.api.auth.client_secrets import Credential
from imgstore.api.auth.tokens import TokenAuthority
from imgstore.catalog.engine.database import Session
from imgstore.domain.effects import Effects
from imgstore.domain.errors import AccessDenied, ClientRefused, InvalidInput, Unauthenticated
from imgstore.domain.identity.access import Action, Principal, Role, is_allowed
from imgstore.operations.identity import principals, roles
from tests.support.sample_gallery import ADMIN, open_home

BASE = "https://localhost:8443"
SCOPE = f"{BASE}/.default"


class Clock:
    """A clock that tests advance. The clock stands for all clocks, also for the clock of the database."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def pass_by(self, **spans: float) -> None:
        self.now += timedelta(**spans)

    def monotonic(self) -> float:
        return self.now.timestamp()

    @property
    def effects(self) -> Effects:
        return Effects(now=lambda: self.now, monotonic=self.monotonic)


class AuthFixture:
    """An installation with an administrator and a token authority."""

    def __init__(self, clock: Clock, authority: TokenAuthority, admin: Credential) -> None:
        self.clock = clock
        self.authority = authority
        self.installation = authority.installation
        self.admin = admin

    def token(self, credential: Credential | None = None, scope: str = SCOPE) -> str:
        given = credential or self.admin
        identity = given.known.identity
        assert identity.client_id is not None
        return self.authority.issue_token(identity.tenant_uid, identity.client_id, given.secret, scope).access_token

    def caller(self, token: str) -> Principal:
        return self.authority.authenticate(f"Bearer {token}")

    def forged(self, key: Any, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """Return the administrator's token with other claims and a forged signature."""
        said = payload(self.token()) | claims
        return jwt.encode(
            {"alg": "RS256", "kid": "x"} | (header or {}), said, key, algorithms=["RS256", "ES256", "HS256"]
        )

    def genuine(self, **claims: Any) -> str:
        """Return a token with these claims and a valid signature."""
        kid, key = self.authority.ring.get_signing_key()
        said = {name: value for name, value in (payload(self.token()) | claims).items() if value is not None}
        return jwt.encode({"alg": "RS256", "kid": kid}, said, key)

    def activity(self) -> list[tuple[str, str, str]]:
        with self.installation.catalog.reading() as transaction:
            return [(row.principal, row.action, row.outcome) for row in transaction.activity.list(50)]


def payload(token: str) -> dict[str, Any]:
    body = token.split(".")[1]
    said: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return said


def encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def made(tmp_path: Path) -> Iterator[AuthFixture]:
    clock = Clock()
    with (
        mock.patch.object(Session, "now", side_effect=lambda: clock.now),
        open_home(tmp_path / "home", effects=clock.effects) as installation,
    ):
        admin = client_secrets.create_first_administrator(installation)
        assert admin is not None
        yield AuthFixture(clock, TokenAuthority(installation, BASE), admin)


@pytest.fixture
def auth(tmp_path: Path) -> Iterator[AuthFixture]:
    yield from made(tmp_path)


@pytest.fixture(scope="module")
def shared_auth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthFixture]:
    """Share an installation between many examples. No test advances the clock."""
    yield from made(tmp_path_factory.mktemp("standing"))


def test_first_administrator_is_created_once_as_owner(auth: AuthFixture) -> None:
    assert client_secrets.create_first_administrator(auth.installation) is None
    caller = auth.caller(auth.token())
    assert (caller.uid, caller.name) == (auth.admin.known.identity.uid, "administrator")
    assert is_allowed(caller, Action.ADMINISTER, "/")
    with auth.installation.catalog.reading() as transaction:
        stored = transaction.secrets.list(auth.admin.known.identity.client_id or "")
    assert auth.admin.secret not in repr(stored)


def test_token_has_the_claims_that_azure_clients_read(auth: AuthFixture) -> None:
    token, identity = auth.token(), auth.admin.known.identity
    claims, now = payload(token), int(auth.clock.now.timestamp())
    assert {name: claims[name] for name in ("aud", "iss", "tid", "oid", "sub", "appid", "ver")} == {
        "aud": BASE,
        "iss": f"{BASE}/{identity.tenant_uid}/v2.0",
        "tid": identity.tenant_uid,
        "oid": identity.uid,
        "sub": identity.uid,
        "appid": identity.client_id,
        "ver": "1.0",
    }
    assert (claims["iat"], claims["nbf"], claims["exp"]) == (now, now, now + 3600)
    told = auth.authority.issue_token(identity.tenant_uid, identity.client_id or "", auth.admin.secret, SCOPE)
    info = json.loads(base64.urlsafe_b64decode(told.client_info + "=="))
    assert info == {"uid": identity.uid, "utid": identity.tenant_uid}
    published = {each["kid"]: each for each in auth.authority.jwks()["keys"]}
    kid = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))["kid"]
    assert "d" not in published[kid]
    assert jwt.decode(token, RSAKey.import_key(published[kid]), algorithms=["RS256"]).claims == claims
    assert auth.authority.openid_configuration(BASE, identity.tenant_uid)["issuer"] == claims["iss"]


def test_wrong_secrets_get_equal_refusals_and_an_activity_row(
    auth: AuthFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, right = auth.admin.known.identity, auth.admin.secret
    client, tenant = identity.client_id or "", identity.tenant_uid
    hashed: list[str | None] = []

    def counted(kept: str | None, said: str) -> bool:
        hashed.append(kept)
        return client_secrets.verify_secret(kept, said)

    monkeypatch.setattr(tokens, "verify_secret", counted)
    wrong = [
        (tenant, client, right[:-1] + "~"),
        (tenant, client, "im" + right),
        (tenant, client, ""),
        (tenant, "nobody", right),
        ("nowhere", client, right),
    ]
    told = set()
    for each in wrong:
        with pytest.raises(ClientRefused) as caught:
            auth.authority.issue_token(*each, SCOPE)
        told.add((caught.value.message, caught.value.error_code, caught.value.status))
    assert told == {
        (
            "AADSTS7000215: Invalid client secret provided, or the application is not known in the tenant.",
            "invalid_client",
            401,
        )
    }
    assert len(hashed) == len(wrong), "each costs one hash, so that time tells nothing"
    refusals = [row for row in auth.activity() if row[1] == "imgstore/tokens/issue/action"]
    each_once = [wrong[4], wrong[3], wrong[0]]
    assert refusals == [(f"client {each[1]!r}", "imgstore/tokens/issue/action", "Failed") for each in each_once]
    with auth.installation.catalog.reading() as transaction:
        assert [row.repeats for row in transaction.activity.list(3)] == [0, 0, 2]


def test_secrets_are_rotated_and_expire(auth: AuthFixture) -> None:
    uid = auth.admin.known.identity.uid
    second = client_secrets.reset_credential(auth.installation, ADMIN, who=uid, days=10, keep=True)
    assert payload(auth.token())["oid"] == payload(auth.token(second))["oid"]
    third = client_secrets.reset_credential(auth.installation, ADMIN, who=uid, days=20)
    for gone in (auth.admin, second):
        with pytest.raises(ClientRefused):
            auth.token(gone)
    auth.clock.pass_by(days=19)
    auth.token(third)
    auth.clock.pass_by(days=2)
    with pytest.raises(ClientRefused):
        auth.token(third)


@pytest.mark.parametrize(
    "scope",
    ["https://evil.example/.default", BASE, "/.default", "", f"{BASE}.evil/.default", f"{BASE}/.default x", "openid"],
)
def test_token_for_a_foreign_scope_is_refused(auth: AuthFixture, scope: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        auth.token(scope=scope)
    assert caught.value.error_code == "invalid_scope"
    assert payload(auth.token(scope="https://management.azure.com//.default"))["aud"] == "https://management.azure.com/"
    assert payload(auth.token(scope=f"{BASE}/.default openid offline_access profile"))["aud"] == BASE, "as Go asks"


def test_expired_token_is_refused(auth: AuthFixture) -> None:
    token = auth.token()
    auth.clock.pass_by(seconds=3599)
    auth.caller(token)
    auth.clock.pass_by(seconds=1)
    for authority in (auth.authority, TokenAuthority(auth.installation, BASE)):
        with pytest.raises(Unauthenticated) as caught:
            authority.authenticate(f"Bearer {token}")
        assert caught.value.error_code == "ExpiredAuthenticationToken"


@pytest.mark.parametrize("days", [-100, 100])
def test_servers_with_different_clocks_accept_the_same_tokens(auth: AuthFixture, days: int) -> None:
    """The clock of the database also decides about secrets and keys."""
    wrong = replace(auth.clock.effects, now=lambda: auth.clock.now + timedelta(days=days))
    other = AuthFixture(auth.clock, TokenAuthority(replace(auth.installation, effects=wrong), BASE), auth.admin)
    assert other.caller(auth.token()) == auth.caller(other.token())
    with auth.installation.catalog.reading() as transaction:
        assert len(transaction.signing_keys.list()) == 1
    token = other.token()
    auth.clock.pass_by(hours=2)
    # Invariant W22.
    for each in (auth, other):
        with pytest.raises(Unauthenticated):
            each.caller(token)


def test_removed_role_and_deleted_principal_lose_access(auth: AuthFixture) -> None:
    second = client_secrets.create_service_principal(auth.installation, ADMIN, name="builder")
    uid, token = second.known.identity.uid, auth.token(second)
    assert auth.caller(token).grants == ()
    given = roles.assign(auth.installation, ADMIN, assignee="builder", role=Role.READER, scope="/subscriptions/s")
    auth.clock.pass_by(seconds=6)
    assert is_allowed(auth.caller(token), Action.READ, "/subscriptions/s")
    roles.remove(auth.installation, ADMIN, uid=given.uid)
    auth.clock.pass_by(seconds=6)
    assert auth.caller(token).grants == ()
    principals.delete_principal(auth.installation, ADMIN, who=uid)
    auth.clock.pass_by(seconds=6)
    with pytest.raises(Unauthenticated, match="does not exist any more"):
        auth.caller(token)
    with pytest.raises(ClientRefused):
        auth.token(second)


def test_tokens_are_revoked(auth: AuthFixture) -> None:
    second = client_secrets.create_service_principal(auth.installation, ADMIN, name="builder")
    old, mine = auth.token(second), auth.token()
    auth.caller(old)
    known = principals.revoke_tokens(auth.installation, ADMIN, who="builder")
    assert known.identity.tokens_valid_after is not None
    assert auth.caller(old).name == "builder", "as the catalog said a moment ago"
    new = auth.token(second)
    assert auth.caller(new).name == "builder", "a new one does not wait"
    with pytest.raises(Unauthenticated, match="has been revoked"):
        auth.caller(old)
    assert auth.caller(mine).name == "administrator"
    for authority in (auth.authority, TokenAuthority(auth.installation, BASE)):
        auth.clock.pass_by(seconds=6)
        assert authority.authenticate(f"Bearer {new}").name == "builder"
        with pytest.raises(Unauthenticated, match="has been revoked"):
            authority.authenticate(f"Bearer {old}")
    assert ("test", "imgstore/principals/revokeTokens/action", "Succeeded") in auth.activity()


def test_revoked_token_is_cached_for_at_most_five_seconds(auth: AuthFixture) -> None:
    token = auth.token()
    auth.caller(token)
    principals.revoke_tokens(auth.installation, ADMIN, who="administrator")
    auth.clock.pass_by(seconds=4.9)
    auth.caller(token)
    auth.clock.pass_by(seconds=0.2)
    with pytest.raises(Unauthenticated, match="has been revoked"):
        auth.caller(token)


def test_new_secret_revokes_tokens_of_the_old_secret(auth: AuthFixture) -> None:
    first = client_secrets.create_service_principal(auth.installation, ADMIN, name="builder")
    identity = first.known.identity
    principals.create_tenant(auth.installation, ADMIN, name="other")
    there = principals.add_service_principal(
        auth.installation, ADMIN, name="theirs", tenant="other", client_id=identity.client_id, proof=None
    )
    token = auth.token(first)
    elsewhere = auth.token(Credential(known=there, secret=first.secret))
    client_secrets.reset_credential(auth.installation, ADMIN, who=identity.uid, keep=True)
    auth.clock.pass_by(seconds=6)
    auth.caller(token)
    client_secrets.reset_credential(auth.installation, ADMIN, who=identity.uid)
    auth.clock.pass_by(seconds=6)
    for each in (token, elsewhere):
        with pytest.raises(Unauthenticated, match="has been revoked"):
            auth.caller(each)


def test_application_is_registered_in_two_tenants(auth: AuthFixture) -> None:
    principals.create_tenant(auth.installation, ADMIN, name="other")
    here = auth.admin.known.identity
    there = principals.add_service_principal(
        auth.installation, ADMIN, name="administrator", proof=None, tenant="other", client_id=here.client_id
    ).identity
    token = auth.token(replace(auth.admin, known=replace(auth.admin.known, identity=there)))
    caller = auth.caller(token)
    assert (caller.uid, caller.tenant, caller.grants) == (there.uid, there.tenant_uid, ())
    assert auth.caller(auth.token()).tenant == here.tenant_uid
    principals.delete_principal(auth.installation, ADMIN, who=there.uid)
    auth.token()  # the application's secrets stay while a tenant knows it


def test_keys_rotate_by_command_and_age_and_old_tokens_stay_valid(auth: AuthFixture) -> None:
    token = auth.token()
    first, _ = auth.authority.ring.get_signing_key()
    with pytest.raises(AccessDenied):
        auth.authority.ring.rotate(Principal(name="ann"))
    second = auth.authority.ring.rotate(ADMIN).kid
    assert auth.authority.ring.get_signing_key()[0] == second != first
    assert TokenAuthority(auth.installation, BASE).authenticate(f"Bearer {token}").uid == auth.admin.known.identity.uid
    stored = {key.kid: key.pem for key in auth.authority.ring.list(ADMIN)}
    assert b"PRIVATE" not in stored[first]
    assert b"PRIVATE" in stored[second]
    auth.clock.pass_by(seconds=signing_keys.TOKEN_SECONDS_MAX + 3 * signing_keys.LOOK_SECONDS)
    assert auth.authority.ring.find_trusted_key(first) is None
    assert [each["kid"] for each in auth.authority.jwks()["keys"]] == [second]
    auth.clock.pass_by(days=signing_keys.KEY_DAYS)
    third, _ = auth.authority.ring.get_signing_key()
    assert third not in (first, second)
    assert {key.kid for key in auth.authority.ring.list(ADMIN)} == {second, third}


def test_one_of_two_processes_rotates_the_key(auth: AuthFixture) -> None:
    others = [TokenAuthority(auth.installation, BASE) for _ in range(2)]
    kids = {each.ring.get_signing_key()[0] for each in others}
    auth.clock.pass_by(days=signing_keys.KEY_DAYS, hours=1)
    changed = {each.ring.get_signing_key()[0] for each in others}
    assert len(kids) == len(changed) == 1
    assert kids != changed


def test_users_of_an_issuer_are_identified_by_subject(auth: AuthFixture, tmp_path: Path) -> None:
    key, other = ECKey.generate_key("P-256", {"kid": "e1"}), ECKey.generate_key("P-256", {"kid": "e1"})
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [key.as_dict(private=False), OctKey.import_key("s" * 32).as_dict()]}))
    url = "https://id.example/realm"
    principals.add_issuer(auth.installation, ADMIN, url=url, audience="imgstore", jwks=str(file))
    said: dict[str, Any] = {"iss": url, "aud": "imgstore", "sub": "42", "exp": auth.clock.now.timestamp() + 600}

    def token(signer: Any = key, alg: str = "ES256", **changed: Any) -> str:
        claims = {name: value for name, value in (said | changed).items() if value is not None}
        return jwt.encode({"alg": alg, "kid": "e1"}, claims, signer, algorithms=["ES256", "HS256"])

    with pytest.raises(Unauthenticated, match="is not registered"):
        auth.caller(token())
    principals.add_user(auth.installation, ADMIN, issuer=url, subject="42", name="ann")
    assert auth.caller(token()).name == "ann"
    assert auth.caller(token(aud=["x", "imgstore"])).name == "ann"
    with auth.installation.catalog.reading() as transaction:
        now = transaction.now().timestamp()
    before, timeless = token(iat=now - 1), token()
    auth.caller(before)
    principals.revoke_tokens(auth.installation, ADMIN, who="ann")
    auth.clock.pass_by(seconds=6)
    assert auth.caller(token(iat=now + 60)).name == "ann"
    for each in (before, timeless):
        with pytest.raises(Unauthenticated, match="has been revoked"):
            auth.caller(each)
    said["iat"] = now + 60
    bad = [
        token(other),
        token(OctKey.import_key("s" * 32), "HS256"),
        token(aud="another"),
        token(aud=None),
        token(exp=None),
        token(exp=True),
        token(exp=said["exp"] - 1000),
        token(nbf=said["exp"]),
        token(sub="43"),
        token(sub=None),
        token(iss=url + "/"),
    ]
    for each in bad:
        with pytest.raises(Unauthenticated):
            auth.caller(each)
    principals.remove_issuer(auth.installation, ADMIN, url=url)
    auth.clock.pass_by(seconds=6)
    with pytest.raises(Unauthenticated):
        auth.caller(token())


def test_new_key_of_an_issuer_is_fetched(auth: AuthFixture, tmp_path: Path) -> None:
    file, url = tmp_path / "jwks.json", "https://id.example/realm"
    old, new = (ECKey.generate_key("P-256", {"kid": name}) for name in ("old", "new"))
    file.write_text(json.dumps({"keys": [old.as_dict(private=False)]}))
    principals.add_issuer(auth.installation, ADMIN, url=url, audience="a", jwks=str(file))
    principals.add_user(auth.installation, ADMIN, issuer=url, subject="42", name="ann")

    def come(key: ECKey) -> Principal:
        said = {"iss": url, "aud": "a", "sub": "42", "exp": auth.clock.now.timestamp() + 600}
        return auth.caller(jwt.encode({"alg": "ES256", "kid": key.kid}, said, key))

    assert come(old).name == "ann"
    file.write_text(json.dumps({"keys": [new.as_dict(private=False)]}))
    with pytest.raises(Unauthenticated):
        come(new)  # who knocks with made-up keys does not make us fetch each time
    auth.clock.pass_by(seconds=61)
    assert come(new).name == "ann"
    with pytest.raises(Unauthenticated):
        come(old)


# -- what opens nothing -----------------------------------------------------------------------------------------------


def test_forged_tokens_are_refused(auth: AuthFixture) -> None:
    mine = RSAKey.generate_key(2048)
    kid, ours = auth.authority.ring.get_signing_key()
    header, body, signature = auth.token().split(".")
    public = ours.as_pem(private=False)
    with_public = f"{encoded({'alg': 'HS256', 'kid': kid})}.{body}"
    hmaced = base64.urlsafe_b64encode(hmac.digest(public, with_public.encode(), hashlib.sha256)).decode().rstrip("=")
    forged = [
        auth.forged(mine),
        auth.forged(mine, {"kid": kid}),
        auth.forged(mine, {"kid": kid, "jwk": mine.as_dict(private=False)}),
        auth.forged(OctKey.import_key("x" * 32), {"alg": "HS256", "kid": kid}),
        f"{encoded({'alg': 'none', 'kid': kid})}.{body}.",
        f"{encoded({'alg': 'none', 'kid': kid})}.{body}.{signature}",
        f"{encoded({'alg': 'None'})}.{body}.AA",
        f"{with_public}.{hmaced}",
        f"{header}.{encoded(payload(auth.token()) | {'oid': 'x'})}.{signature}",
        f"{header}.{body}.{signature[:-8]}AAAAAAAA",
        f"{header}.{body}",
        f"{header}.{body}.",
        f"{header}..{signature}",
        "a.b.c",
    ]
    for each in forged:
        with pytest.raises(Unauthenticated):
            auth.caller(each)
    assert auth.caller(f"{header}.{body}.{signature}").name == "administrator"


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://evil.example"},
        {"aud": [BASE]},
        {"aud": None},
        {"iss": f"{BASE}/x/v2.0"},
        {"iss": f"{BASE}/"},
        {"tid": "x"},
        {"tid": None},
        {"oid": "x"},
        {"oid": None},
        {"oid": 7},
        {"exp": None},
        {"exp": "9999999999"},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": True},
        {"exp": 10**400},
        {"exp": 1},
        {"nbf": 9_999_999_999},
        {"nbf": "now"},
    ],
)
def test_valid_signature_with_a_wrong_claim_is_refused(auth: AuthFixture, claims: dict[str, Any]) -> None:
    auth.caller(auth.genuine(uti="another"))
    with pytest.raises(Unauthenticated):
        auth.caller(auth.genuine(**claims))


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer a.b", "Bearer a.b.c\n", "a.b.c"]
)
def test_malformed_header_is_refused(auth: AuthFixture, header: str | None) -> None:
    with pytest.raises(Unauthenticated) as caught:
        auth.authority.authenticate(header)
    assert caught.value.status == 401


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=2)
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damaged_token_is_refused(shared_auth: AuthFixture, data: st.DataObject) -> None:
    """A token with any damage is refused by name, unless the token is unchanged."""
    token = shared_auth.token()
    parts = token.split(".")
    kind = data.draw(st.sampled_from(["flip", "header", "claims", "text"]))
    if kind == "flip":
        at = data.draw(st.integers(0, len(token) - 1))
        tried = token[:at] + data.draw(st.characters()) + token[at + 1 :]
    elif kind == "header":
        header = {
            "alg": data.draw(st.sampled_from(["RS256", "none", "NONE", "HS256", "ES256", "RS512", "", None, 3])),
            "kid": data.draw(st.none() | st.text() | st.just(shared_auth.authority.ring.get_signing_key()[0])),
            data.draw(st.sampled_from(["jwk", "jku", "x5c", "crit", "b64", "typ"])): data.draw(json_values),
        }
        tried = ".".join([encoded(header), parts[1], data.draw(st.sampled_from([parts[2], "", "AA"]))])
    elif kind == "claims":
        claims = payload(token) | {
            data.draw(st.sampled_from(["oid", "tid", "exp", "iss", "aud"])): data.draw(json_values)
        }
        tried = ".".join([parts[0], encoded(claims), parts[2]])
    else:
        tried = data.draw(st.text())
    if tried == token:
        return
    try:
        caller = shared_auth.caller(tried)
    except Unauthenticated:
        return
    # Base64 has spare bits at its end: another spelling of the same signature is the same token.
    assert caller.uid == shared_auth.admin.known.identity.uid
    assert tried.rsplit(".", 1)[0] == token.rsplit(".", 1)[0]
    assert base64.urlsafe_b64decode(tried.split(".")[2] + "==") == base64.urlsafe_b64decode(parts[2] + "==")
