"""Test any value at any position of a request: the request succeeds or gets an error, and each list stays readable.

Bodies are sent as text, because Python's own writer does not write all numbers, names and texts.
"""

import http.client
import json
import re
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from api_requests import COMPUTE, HERE, Request, group_of, requests_of
from api_server import Api, start_api
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from imgstore.domain.text.strict_json import read_json
from imgstore.testing.engines import PostgreSQL
from tests.support.http_server import WebServer
from tests.support.sample_gallery import DEFINITION, GALLERY, GROUP

pytest_plugins = ["api_fixtures"]

QUIET = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture)
MARK = "@@here@@"

NUMBERS = [
    "1e999", "-1e999", "1e-999", "-0", "-0.0", "1e308", "NaN", "Infinity", "-Infinity", "0", "-1", "1.5", "1e3",
    "2147483648", "9223372036854775807", "9223372036854775808", "-9223372036854775809", "9" * 400, "9" * 5_000,
]  # fmt: skip
TEXTS = [
    '""', '" "', r'"\u0000"', r'"a\u0000b"', r'"\ud800"', r'"\udfff"', r'"\u2028"', r'"\ud83d\ude00"', '"' + "x" * 300 + '"',
    '"' + "x" * 70_000 + '"', '"' + "é" * 3_000 + '"', '"https://[/x"', '"https://a..b/x"', '"http://a:99999/"',
    '"../../x"', '"a/b"', '"%00"', '"0001-01-01T00:00:00+14:00"', '"9999-12-31T23:59:59-14:00"', '"2090-02-30"',
    '"[concat(\'x\')]"', '"[json(\'1e999\')]"', '"[json(\'[1e999]\')]"', '"[[x]"', '"99999999999999999999.0.0"', '"²"', '"NaN"',
    '"/subscriptions/[/resourceGroups/x/providers/Microsoft.Compute/disks/d"', '"1e999"', '"-0"',
]  # fmt: skip
SHAPES = [
    "null", "true", "[]", "{}", "[null]", "[[]]", '{"":""}', r'{"\u0000":1}', r'{"\ud800":1}', '{"a":1,"a":2}',
    '{"' + "k" * 70_000 + '":1}', '{"a":1e999}', "[1e999]", "[" * 200 + "]" * 200, "[" * 60 + "]" * 60,
    '{"a":' * 60 + "1" + "}" * 60, '{"id":1}', '{"id":{"id":[]}}', "[" * 90_000,
]  # fmt: skip
LITERALS = [*NUMBERS, *TEXTS, *SHAPES]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Run a server with a resource of each type. Return the requests that created the resources."""

    api: Api
    requests: tuple[Request, ...]


@contextmanager
def staged(home: Path, web: WebServer, database: str | None = None) -> Iterator[Stage]:
    with start_api(home, database=database, rate_limit_factor=0, worker=True) as api:
        found = requests_of(api, web)
        for request in found:
            settled(api, request, json.dumps(request.body), accepted=request.done)
        yield Stage(api=api, requests=found)


def settled(api: Api, request: Request, text: str, *, accepted: bool = False) -> None:
    """Send a body, follow the operation, and read all routes that show the resource."""
    answer = api.ask(request.method, request.path, text.encode("utf-8", "surrogatepass"), version=request.version)
    where = (request.method, request.path, text[:300])
    assert answer.status < 500, (where, answer)
    assert answer.status < 400 or not accepted, (where, answer)
    if answer.status >= 400:
        return
    if "azure-asyncoperation" in answer.headers:
        ended = api.await_end(answer)
        assert ended.get("error", {}).get("code") != "InternalError", (where, ended)
    for path in (request.path, *request.lists) if request.method != "POST" else request.lists:
        shown = strictly(api, path, request.version)
        assert shown in (200, 404), (where, path, shown)


def strictly(api: Api, path: str, version: str) -> int:
    """Read a resource or a list as strict JSON. Return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=120)
    try:
        connection.request("GET", f"{path}?api-version={version}", headers=api.headers)
        answer = connection.getresponse()
        read_json(answer.read().decode())
        return answer.status
    finally:
        connection.close()


def places(value: Any) -> list[tuple[Any, ...]]:
    """Return the path of each value in a body."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((name, *below) for name, each in items for below in places(each))]


def with_literal(value: Any, place: tuple[Any, ...], literal: str) -> str:
    """Return a body as text with a literal at a path."""

    def replaced(inner: Any, left: tuple[Any, ...]) -> Any:
        if not left:
            return MARK
        copy = inner.copy()
        copy[left[0]] = replaced(inner[left[0]], left[1:])
        return copy

    return json.dumps(replaced(value, place)).replace(f'"{MARK}"', literal)


def with_name(value: Any, place: tuple[Any, ...], literal: str) -> str:
    """Return a body as text with a literal instead of a field's name, or as an additional list item."""
    if not place or not isinstance(place[-1], str):
        return with_literal(value, place, literal)
    return with_literal(value, place, f"1, {literal if literal.startswith(chr(34)) else json.dumps(literal)}: 1")


def test_every_route_with_a_body_is_tested(tmp_path: Path, web: WebServer) -> None:
    with staged(tmp_path / "home", web) as stage:
        schema = stage.api.ask("GET", "/openapi.json", version=None).body["paths"]
        wanted = {
            (method.upper(), re.sub(r"\{[^}]*\}", "*", path))
            for path, methods in schema.items()
            for method, how in methods.items()
            if "requestBody" in how
        }
        tried = {(each.method, each.path) for each in stage.requests}
        missing = {
            (method, path)
            for method, path in wanted
            if not any(m == method and re.fullmatch(re.escape(path).replace(r"\*", "[^/]*"), p) for m, p in tried)
        }
        assert missing == set()


def fuzz(stage: Stage, examples: int) -> None:
    @settings(
        max_examples=examples, database=None, phases=(Phase.generate,), suppress_health_check=QUIET, deadline=None
    )
    @given(data=st.data())
    def send(data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(stage.requests))
        place = data.draw(st.sampled_from(places(request.body)))
        change: Callable[[Any, tuple[Any, ...], str], str] = data.draw(
            st.sampled_from([with_literal, with_literal, with_name])
        )
        settled(stage.api, request, change(request.body, place, data.draw(st.sampled_from(LITERALS))))

    send()


def test_no_value_in_a_body_breaks_an_answer(tmp_path: Path, web: WebServer) -> None:
    with staged(tmp_path / "home", web) as stage:
        fuzz(stage, 120)


@pytest.mark.long
@pytest.mark.engine("postgresql")
@pytest.mark.parametrize("on", ["sqlite", "postgresql"])
@pytest.mark.timeout(7_200)
def test_no_value_at_any_position_breaks_an_answer(
    tmp_path: Path, web: WebServer, postgresql_server: PostgreSQL, on: str
) -> None:
    """Test each value at each path."""
    with (
        postgresql_server.database() as url,
        staged(tmp_path / "home", web, url if on == "postgresql" else None) as stage,
    ):
        for request in stage.requests:
            for place in places(request.body):
                for literal in LITERALS:
                    settled(stage.api, request, with_literal(request.body, place, literal))
                    if not literal.startswith("["):
                        settled(stage.api, request, with_name(request.body, place, literal))


SEGMENTS = [
    "%00", "a%00", "%ff", "%ed%a0%80", "%2e%2e", "..", ".", "%2F", "a%2Fb", "x" * 300, "x" * 20_000, "%F0%9F%98%80", "%0a", "%20",
    "[", "%5B", "-", "latest", "99999999999999999999.0.0", "1e999", "~", "*", "{x}", "%7f", "%C2%B2",
]  # fmt: skip
QUERIES = [
    "%00", "%ff", "W10", "W1tb", "eyJhIjoxfQ", quote("é"), "x" * 20_000, "", "-1", "1e999", "9" * 5_000, "%F0%9F%98%80",
    "WyIiLCJcdTAwMDAiXQ", "WyIiLCJcdWQ4MDAiXQ",
]  # fmt: skip
HEADERS = [
    "", "²", "9" * 5_000, "x" * 20_000, "\x7f", "é", '"', ",,,", "W/", "*", "bytes=0-" + "9" * 50, "bytes=²-", "1e999", "[", "[/x", "a:99999",
    "a b", "\t",
]  # fmt: skip
PARAMETERS = (
    "api-version",
    "$skiptoken",
    "$top",
    "$filter",
    "$expand",
    "$select",
    "monitor",
    "sig",
    "se",
    "comp",
    "restype",
)
NAMES = (
    "Host", "Authorization", "If-Match", "If-None-Match", "Accept", "Content-Type", "Range", "x-ms-range", "Content-Range",
    "x-ms-client-request-id", "x-ms-correlation-request-id", "X-Forwarded-For", "X-Forwarded-Proto", "x-ms-page-write",
    "Content-MD5", "x-ms-content-crc64", "x-ms-version", "Accept-Encoding", "User-Agent", "Expect", "traceparent",
)  # fmt: skip


def routes_of(api: Api) -> list[tuple[str, str]]:
    """Return each method and path with names of existing resources."""
    known = {
        "subscription": api.installation.subscription,
        "group": GROUP,
        "gallery": GALLERY,
        "definition": DEFINITION,
        "version": "1.0.0",
        "location": HERE,
        "provider": "Microsoft.Compute",
    }
    schema = api.ask("GET", "/openapi.json", version=None).body["paths"]
    paths = [(method.upper(), path) for path, methods in schema.items() for method in methods]
    hidden = [("POST", "/{tenant}/oauth2/v2.0/token"), ("GET", "/blobs/{disk}/{name}"), ("PUT", "/blobs/{disk}/{name}")]
    return [
        (method, re.sub(r"\{(\w+)\}", lambda match: known.get(match[1], "n"), path))
        for method, path in sorted({*paths, *hidden})
        if method != "DELETE"
    ]


def send_raw(api: Api, method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> tuple[int, bytes]:
    """Send a raw request without the checks of a client library. Return status 0 if the server closes the connection."""
    lines = [
        f"{method} {target} HTTP/1.1",
        *(f"{name}: {value}" for name, value in headers),
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    text = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body
    with socket.create_connection(("127.0.0.1", api.port), timeout=120) as connection:
        connection.sendall(text)
        answer = b""
        try:
            while more := connection.recv(65_536):
                answer += more
        except ConnectionError:
            pass
    status = re.match(rb"HTTP/1\.1 (\d{3})", answer)
    return (int(status[1]) if status else 0), answer


def test_no_path_query_or_header_breaks_an_answer(tmp_path: Path, web: WebServer) -> None:
    with staged(tmp_path / "home", web) as stage:
        api, routes = stage.api, routes_of(stage.api)
        bodies = {(each.method, each.path): json.dumps(each.body).encode() for each in stage.requests}

        @settings(max_examples=200, database=None, phases=(Phase.generate,), suppress_health_check=QUIET, deadline=None)
        @given(data=st.data())
        def send(data: st.DataObject) -> None:
            method, path = data.draw(st.sampled_from(routes))
            headers = {"Host": f"localhost:{api.port}", **api.headers}
            query = {"api-version": COMPUTE}
            parts, target = path.split("/"), path
            match data.draw(st.sampled_from(["path", "query", "header"])):
                case "path":
                    parts[data.draw(st.integers(1, len(parts) - 1))] = data.draw(st.sampled_from(SEGMENTS))
                    target = "/".join(parts)
                case "query":
                    query[data.draw(st.sampled_from(PARAMETERS))] = data.draw(st.sampled_from(QUERIES))
                case _:
                    headers[data.draw(st.sampled_from(NAMES))] = data.draw(st.sampled_from(HEADERS))
            body = bodies.get((method, path), b"{}" if method in ("PUT", "POST", "PATCH") else b"")
            said = "&".join(f"{name}={value}" for name, value in query.items())
            status, answer = send_raw(api, method, f"{target}?{said}", list(headers.items()), body)
            assert status < 500, (method, target, query, headers, answer[-500:])

        send()
        for request in stage.requests:
            for path in request.lists:
                assert strictly(api, path, request.version) == 200


def test_nonfinite_number_of_an_older_version_is_shown_as_null(api: Api) -> None:
    api.found()
    path = f"{group_of(api)}/providers/Microsoft.Network/virtualNetworks"
    assert (
        api.ask("PUT", f"{path}/v", {"location": HERE, "properties": {"a": 4711.5}}, version="2023-09-01").status == 201
    )
    with closing(sqlite3.connect(api.installation.catalog.place)) as database:
        database.execute("UPDATE inert_resources SET body = replace(body, '4711.5', 'Infinity')")
        database.commit()
    assert strictly(api, path, "2023-09-01") == 200
    (shown,) = api.ask("GET", path, version="2023-09-01").body["value"]
    assert shown["properties"]["a"] is None
