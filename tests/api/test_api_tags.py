"""Test the limits of tags on each resource type, at PUT and at PATCH."""

from typing import Any

import pytest
from api_requests import Request, requests_of
from api_server import Api

from tests.support.http_server import WebServer

pytest_plugins = ["api_fixtures"]

FULL = {f"k{number}": "v" for number in range(50)}
REFUSED = {
    "InvalidTags": FULL | {"k50": "v"},
    "InvalidTagName": {"n" * 513: "v"},
    "InvalidTagValueLength": {"k": "v" * 257},
    "InvalidTagNameCharacters": {"a/b": "v"},
    "InvalidRequestContent": {"Env": "a", "env": "b"},
}


def test_each_resource_type_has_the_limits(api: Api, web: WebServer) -> None:
    tagged = set[str]()
    for request in requests_of(api, web):
        if not request.done or request.path.endswith("/whatIf"):
            continue  # A forecast stores no tags.
        kind = request.path.rpartition("/")[0]
        has_tags = "location" in request.body or "tags" in request.body
        for code, tags in REFUSED.items() if has_tags else ():
            answer = api.ask(request.method, request.path, request.body | {"tags": tags}, version=request.version)
            assert (answer.status, answer.code) == (400, code), (request.method, request.path, answer)
            assert answer.body["error"]["target"] == "tags"
        _send(api, request, {"tags": FULL} if has_tags else {})
        if has_tags:
            tagged.add(f"{request.method} {kind.rpartition('/')[2]}")
            assert api.ask("GET", request.path, version=request.version).body["tags"] == FULL, request
    assert len(tagged) >= 18, tagged


def _send(api: Api, request: Request, tags: dict[str, Any]) -> None:
    answer = api.ask(request.method, request.path, request.body | tags, version=request.version)
    assert answer.status < 300, (request, answer)
    if "azure-asyncoperation" in answer.headers:
        assert api.await_end(answer)["status"] == "Succeeded"


def test_a_tag_keeps_its_name_until_a_request_replaces_it(api: Api) -> None:
    api.found()
    body = {"location": "southcentralus"}
    for tags in ({"Env": "a"}, {"env": "b"}):
        assert api.ask("PUT", api.gallery, body | {"tags": tags}).status == 200
        assert api.ask("GET", api.gallery).body["tags"] == tags


@pytest.mark.parametrize("tags", [{"Env": 1, "b": True}, {"Env": None}])
def test_values_that_are_no_text_stay_accepted(api: Api, tags: dict[str, Any]) -> None:
    api.found()
    assert api.ask("PATCH", api.gallery, {"tags": tags}).status == 200
