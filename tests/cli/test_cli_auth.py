"""``imgstore auth`` on a local home: principals, secrets that are shown once, roles, issuers, keys."""

import builtins
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imgstore.api.auth.tokens import TokenAuthority
from imgstore.cli.main import main
from imgstore.domain.errors import ClientRefused, Unauthenticated
from imgstore.domain.identity.access import Action, is_allowed
from tests.support.sample_gallery import open_home

BASE = "https://localhost:8443"


class AuthLine:
    """Runs ``imgstore auth`` lines on one home."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, line: str) -> Result:
        env = {"IMGSTORE_HOME": str(self.home)}
        return CliRunner().invoke(main, ["auth", *shlex.split(line)], prog_name="imgstore", env=env)

    def ok(self, line: str) -> Any:
        result = self.run(line)
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
        return json.loads(result.stdout) if result.stdout else None

    def fails(self, line: str, code: int = 1) -> str:
        result = self.run(line)
        assert result.exit_code == code, f"{line}\n{result.output}\n{result.exception!r}"
        return result.stderr

    def token(self, told: Any, password: str | None = None) -> str:
        with open_home(self.home) as installation:
            authority = TokenAuthority(installation, BASE)
            secret = password or told["password"]
            return authority.issue_token(told["tenant"], told["appId"], secret, f"{BASE}/.default").access_token


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AuthLine:
    for name in ("IMGSTORE_REGIONS", "IMGSTORE_DATABASE", "IMGSTORE_SUBSCRIPTION"):
        monkeypatch.delenv(name, raising=False)
    return AuthLine(tmp_path / "home")


def test_the_first_administrator_is_printed_once(line: AuthLine) -> None:
    told = line.ok("init")
    assert line.token(told)
    assert "auth sp credential reset" in line.fails("init")
    shown = line.ok(f"sp show --id {told['appId']}")
    assert shown["passwordCredentials"][0]["hint"] == told["password"][:8]
    assert told["password"] not in json.dumps([shown, line.ok("sp list")])
    assert told["password"].encode() not in (line.home / "catalog.sqlite").read_bytes()
    given = line.ok("role assignment list")
    assert [(each["principalName"], each["roleDefinitionName"], each["scope"]) for each in given] == [
        ("administrator", "Owner", "/")
    ]


def test_a_service_principal_its_secrets_and_its_end(line: AuthLine) -> None:
    told = line.ok("sp create -n builder")
    second = line.ok("sp credential reset --id builder --append --days 3")
    for password in (told["password"], second["password"]):
        assert line.token(told, password)
    third = line.ok("sp credential reset --id builder")
    assert line.token(third)
    with pytest.raises(ClientRefused):
        line.token(told)
    assert [each["displayName"] for each in line.ok("sp list")] == ["builder"]
    line.ok("sp delete --id builder")
    line.fails("sp show --id builder", 3)
    with pytest.raises(ClientRefused):
        line.token(third)


def test_a_name_of_several_is_not_guessed(line: AuthLine) -> None:
    ids = [line.ok("sp create -n twin")["id"] for _ in range(2)]
    told = line.fails("sp delete --id twin")
    assert all(each in told for each in ids)
    line.ok(f"sp delete --id {ids[0]}")
    line.ok("sp delete --id twin")


def test_tenants_and_one_application_in_two_of_them(line: AuthLine) -> None:
    first = line.ok("tenant list")
    assert [each["displayName"] for each in first] == ["default"]
    partners = line.ok("tenant create -n partners")
    assert "'Partners' exists" in line.fails("tenant create -n Partners")
    told = line.ok("sp create -n builder")
    there = line.ok(f"sp create -n builder --tenant partners --app-id {told['appId']}")
    assert (there["appId"], there["tenant"]) == (told["appId"], partners["tenantId"])
    assert "password" not in there
    assert line.token(there, told["password"])
    line.fails(f"sp create -n builder --tenant partners --app-id {told['appId']}")
    line.fails("sp create -n x --app-id nobody", 3)
    line.fails("sp create -n x --tenant nowhere", 3)


def test_roles_are_given_listed_and_taken(line: AuthLine) -> None:
    told = line.ok("sp create -n builder")
    scope = "/subscriptions/s/resourceGroups/rg"
    made = line.ok(f"role assignment create --assignee {told['appId']} --role contributor --scope {scope}/")
    assert (made["principalId"], made["roleDefinitionName"], made["scope"]) == (told["id"], "Contributor", scope)
    assert "RoleAssignmentExists" in line.fails(
        f"role assignment create --assignee builder --role Contributor --scope {scope.upper()}"
    )
    line.ok("role assignment create --assignee builder --role 'Compute Gallery Image Reader' --scope /subscriptions/s")
    with open_home(line.home) as installation:
        authority = TokenAuthority(installation, BASE)
        token = authority.issue_token(told["tenant"], told["appId"], told["password"], f"{BASE}/.default").access_token
        assert is_allowed(authority.authenticate(f"Bearer {token}"), Action.WRITE, scope)
    assert len(line.ok("role assignment list --assignee builder")) == 2
    assert [each["name"] for each in line.ok(f"role assignment list --scope {scope}")] == [made["name"]]
    line.ok("role assignment delete --assignee builder --role Contributor")
    line.fails("role assignment delete --assignee builder --role Contributor", 3)
    line.ok("role assignment delete --assignee builder")
    assert line.ok("role assignment list") == []
    line.fails("role assignment create --assignee builder --role Boss --scope /", 2)
    line.fails("role assignment create --assignee builder --role Owner --scope /subscriptions/s/../t", 3)
    line.fails("role assignment create --assignee nobody --role Owner --scope /", 3)


def test_issuers_and_their_users(line: AuthLine) -> None:
    url = "https://id.example/realm"
    line.fails(f"user create -n ann --issuer {url} --subject 42", 3)
    line.ok(f"issuer add --issuer {url} --audience imgstore --jwks https://id.example/keys")
    for bad in ("http://id.example/keys", "keys.json", "file:///keys"):
        line.fails(f"issuer add --issuer other --audience imgstore --jwks {bad}")
    line.fails(f"issuer add --issuer {url} --audience imgstore --jwks https://id.example/keys")
    assert [each["issuer"] for each in line.ok("issuer list")] == [url]
    made = line.ok(f"user create -n ann --issuer {url} --subject 42")
    assert (made["type"], made["subject"]) == ("User", "42")
    line.fails(f"user create -n bob --issuer {url} --subject 42")
    assert "no secrets" in line.fails("sp credential reset --id ann")
    assert [each["displayName"] for each in line.ok("user list")] == ["ann"]
    assert line.ok("sp list") == []
    line.ok("user delete --id 42")
    line.ok(f"issuer remove --issuer {url}")
    line.fails(f"issuer remove --issuer {url}", 3)


def test_keys_are_rotated_and_never_shown(line: AuthLine) -> None:
    told = line.ok("init")
    line.token(told)
    old = line.ok("keys list")
    new = line.ok("keys rotate")
    assert [(each["kid"], each["state"]) for each in line.ok("keys list")] == [
        (new["kid"], "Signing"),
        (old[0]["kid"], "Retired"),
    ]
    assert "PRIVATE" not in line.run("keys list").stdout


def test_the_activity_log_has_every_change(line: AuthLine) -> None:
    line.ok("tenant create -n t")
    line.ok("sp create -n builder")
    line.ok("role assignment create --assignee builder --role Reader --scope /subscriptions/s")
    line.ok("sp credential reset --id builder")
    line.ok("role assignment delete --assignee builder")
    line.ok("sp delete --id builder")
    line.ok("keys rotate")
    with open_home(line.home) as installation, installation.catalog.reading() as transaction:
        actions = [row.action for row in reversed(transaction.activity.list(50)) if row.outcome == "Succeeded"]
    assert actions == [
        "imgstore/tenants/write",
        "imgstore/servicePrincipals/write",
        "Microsoft.Authorization/roleAssignments/write",
        "imgstore/servicePrincipals/credentials/write",
        "Microsoft.Authorization/roleAssignments/delete",
        "imgstore/principals/delete",
        "imgstore/keys/rotate/action",
    ]


def test_without_the_servers_packages_the_hint_names_the_extra(line: AuthLine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("imgstore.api"):
            raise ModuleNotFoundError("No module named 'argon2'", name="argon2")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert "pip install 'imgstore-gallery[server]'" in line.fails("init")
    assert line.ok("sp list") == []


def test_tokens_are_taken_back(line: AuthLine) -> None:
    made = line.ok("sp create -n builder")
    token = line.token(made)
    assert line.ok("sp show --id builder")["tokensValidFromDateTime"] is None
    assert line.ok("sp revoke-tokens --id builder")["tokensValidFromDateTime"]
    with open_home(line.home) as installation:
        authority = TokenAuthority(installation, BASE)
        with pytest.raises(Unauthenticated, match="has been revoked"):
            authority.authenticate(f"Bearer {token}")
    new = line.token(made)
    with open_home(line.home) as installation:
        assert TokenAuthority(installation, BASE).authenticate(f"Bearer {new}").name == "builder"
    line.fails("sp revoke-tokens --id nobody", 3)
