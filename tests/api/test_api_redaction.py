"""Test that errors over HTTP show no paths and addresses of the server's machine."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api_server import Answer, Api, version_body
from joserfc import jwt
from joserfc.jwk import RSAKey
from test_api_basics import token_of

from imgstore.api.http.redaction import error_body, redact
from imgstore.domain.errors import ImgstoreError, StoreUnreachable
from imgstore.domain.identity.access import Role
from imgstore.operations.disks.sources import open_source
from imgstore.operations.identity import principals
from tests.support.certificates import issue
from tests.support.http_server import Page, WebServer, start_web
from tests.support.sample_gallery import ADMIN, GROUP, open_home

pytest_plugins = ["api_fixtures"]


def check(api: Api, body: Any) -> None:
    """Check that a text contains no path or address of this machine."""
    text = body if isinstance(body, str) else json.dumps(body)
    for place in (api.installation.home, api.installation.regions.path, Path(__file__).parents[2]):
        assert str(place) not in text
        assert os.path.realpath(place) not in text


def refused(api: Api, answer: Answer, status: int = 400) -> str:
    """Return the message of a refusal without paths and addresses."""
    assert answer.status == status, answer
    check(api, answer.body)
    return str(answer.body["error"]["message"])


def test_refusals_name_regions_but_no_files(api: Api, tmp_path: Path) -> None:
    api.found()
    message = refused(api, api.ask("PUT", f"{api.top}/resourceGroups/other", {"location": "mars"}))
    assert "southcentralus" in message
    assert "regions.yaml" in message
    refused(api, api.ask("PUT", api.version(), version_body("https://example.org/x", "mars")))
    refused(api, api.ask("PUT", api.version(), version_body(f"{tmp_path}/home/catalog.db")))
    refused(api, api.ask("PUT", f"{api.compute}/disks/d1", {"location": "mars", "properties": {}}))
    refused(api, api.ask("GET", f"{api.compute}/disks/d1"), 404)


def test_store_error_shows_no_location(api: Api, web: WebServer) -> None:
    api.found()
    regions = api.installation.home / "regions"
    shutil.rmtree(regions, ignore_errors=True)
    regions.write_text("where a folder belongs")
    put = api.ask("PUT", api.version(), version_body(web.url("/one.raw")))
    ended = api.await_end(put)
    assert ended["status"] == "Failed"
    assert "HOME/regions" in ended["error"]["message"], "what failed is told still"
    check(api, ended)
    shown = api.ask("GET", api.version(), query="$expand=ReplicationStatus")
    assert "HOME/regions" in json.dumps(shown.body)
    check(api, shown.body)
    template = {
        "resources": [
            {
                "type": "Microsoft.Compute/disks",
                "apiVersion": "2023-04-02",
                "name": "d1",
                "location": "southcentralus",
                "properties": {"creationData": {"createOption": "Import", "sourceUri": web.url("/one.raw")}},
            }
        ]
    }
    of_group = f"{api.top}/resourceGroups/{GROUP}/providers/Microsoft.Resources/deployments/d"
    begun = api.ask(
        "PUT", of_group, {"properties": {"mode": "Incremental", "template": template}}, version="2021-04-01"
    )
    failed = api.await_end(begun)
    assert failed["status"] == "Failed", failed
    check(api, failed)
    check(api, api.ask("GET", of_group, version="2021-04-01").body)


def test_text_of_the_database_appears_only_in_the_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    place = api.installation.catalog.place
    error = StoreUnreachable(f"The catalog in {place} could not do it.", found="host db7 refuses user u", target=place)
    body = error_body(api.installation, error)
    assert body["error"]["code"] == "StoreUnreachable"
    assert "db7" not in json.dumps(body)
    assert "db7" in caplog.text
    check(api, body)


def test_only_paths_and_addresses_are_replaced(api: Api) -> None:
    home = api.installation.home
    kept = f"https://example.org{home}/x and {home}s and {home}-old"
    assert redact(api.installation, [{"a": kept, "b": f"in {home}/x: '{home}'"}, 1, None]) == [
        {"a": kept, "b": "in HOME/x: 'HOME'"},
        1,
        None,
    ]


def test_refused_urls_show_nothing_about_the_servers_network(api: Api, web: WebServer, tmp_path: Path) -> None:
    """Addresses, open ports, certificates and redirects all get the same answer (invariant U5)."""
    api.found()
    tls = issue("internal.corp.example").context(tmp_path)
    web.pages |= {
        "/away": Page(redirect="ftp://user@internal.corp.example:5432/x"),
        "/round": Page(redirect="/round"),
        "/denied": Page(statuses=[403] * 9),
        "/plain": Page(body=b"x" * 4096, ranges=False),
        "/unstamped": Page(body=b"x" * 4096, headers={}),
    }
    urls = [web.url(path) for path in ("/missing", *web.pages) if not path.endswith(".raw")]
    with start_web({}) as gone:
        urls.append(gone.url("/x"))
    answers = {}
    with start_web({}, tls=tls) as secure:
        for url in (*urls, secure.url("/x"), "https://no-such-name.invalid/x"):
            creation = {"createOption": "Import", "sourceUri": url}
            body = {"location": "southcentralus", "properties": {"creationData": creation}}
            answers[url] = api.ask("PUT", f"{api.compute}/disks/d1", body)
    one_answer(answers)


def one_answer(answers: dict[str, Answer]) -> None:
    """Check that all answers are equal except the URL of the request (invariant U5)."""
    bodies = {json.dumps(answer.body).replace(url, "URL") for url, answer in answers.items()}
    assert {answer.status for answer in answers.values()} == {400}, answers
    assert len(bodies) == 1, bodies
    assert '"code": "SourceNotReadable"' in bodies.pop()


def test_private_address_is_refused_like_any_other_source(api: Api, web: WebServer) -> None:
    """The answer shows neither the server behind the address nor that the address is private. The local CLI shows both."""
    strict = replace(api.installation, environ={})
    texts = set()
    for url in ("https://127.0.0.1:1/x", "https://localhost/x", web.url("/one.raw"), "https://[::1]/x"):
        with pytest.raises(ImgstoreError) as caught:
            open_source(strict, url)
        assert "127.0.0.1" in str(caught.value) or "::1" in str(caught.value)
        texts.add(json.dumps(error_body(strict, caught.value)).replace(url, "URL"))
    assert len(texts) == 1, texts


def test_forged_token_does_not_show_trusted_issuers(api: Api, tmp_path: Path) -> None:
    """The answer also shows neither the URLs of keys nor errors of the fetch."""
    key, other = (RSAKey.generate_key(2048, {"kid": "k"}) for _ in range(2))
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    for name in ("keys", "missing"):
        jwks = str(tmp_path / f"{name}.json")
        principals.add_issuer(api.installation, ADMIN, url=f"https://id.example/{name}", audience="a", jwks=jwks)
    answers = []
    for name, kid in (("keys", "k"), ("keys", "x"), ("missing", "k"), ("unknown", "k")):
        claims = {"iss": f"https://id.example/{name}", "aud": "a", "sub": "42", "exp": 4e9}
        token = jwt.encode({"alg": "RS256", "kid": kid}, claims, other)
        answers.append(api.ask("GET", "/subscriptions", headers={"Authorization": f"Bearer {token}"}))
    assert {each.status for each in answers} == {401}
    assert len({(json.dumps(each.body), each.headers["www-authenticate"]) for each in answers}) == 1, answers
    assert str(tmp_path) not in json.dumps(answers[0].body)


def test_taken_gallery_name_does_not_show_the_owner(api: Api) -> None:
    api.found()
    elsewhere = f"{api.top}/resourceGroups/secret-group"
    assert api.ask("PUT", elsewhere, {"location": "southcentralus"}).status == 201
    taken = f"{elsewhere}/providers/Microsoft.Compute/galleries/taken"
    assert api.ask("PUT", taken, {"location": "southcentralus"}).status == 201
    contributor = token_of(api, Role.CONTRIBUTOR, f"{api.top}/resourceGroups/{GROUP}")
    path = f"{api.compute}/galleries/TAKEN"
    refused = api.ask("PUT", path, {"location": "southcentralus"}, headers=contributor)
    assert refused.status == 409
    assert "secret-group" not in json.dumps(refused.body)
    assert "secret-group" in json.dumps(api.ask("PUT", path, {"location": "southcentralus"}).body)


def test_addresses_of_stores_are_not_shown(tmp_path: Path) -> None:
    """The addresses of stores are a secret of the operator."""
    with open_home(tmp_path / "home", environ={"IMGSTORE_S3_ENDPOINT": "http://10.9.8.7:9000"}) as installation:
        error = StoreUnreachable("No answer.", found='could not connect to "http://10.9.8.7:9000/bucket/key"')
        text = json.dumps(error_body(installation, error))
        assert "10.9.8.7" not in text
        assert "the store of " in text
