"""Requests to a server: safe retries, reported failures, and restored errors of the server."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.disks.sources import Extent
from imgstore.domain.errors import (
    AccessDenied,
    Conflict,
    ImgstoreError,
    InvalidInput,
    NotFound,
    ParentNotFound,
    StoreFull,
    StoreUnreachable,
    Unauthenticated,
    WorkHeld,
)
from imgstore.remote.connection import Connection
from imgstore.remote.credentials import Address, Application, Bearer, read_address
from imgstore.remote.local_disk import local_path, piece_indexes
from imgstore.remote.upload import missing_ranges, nonzero_ranges
from imgstore.wire.blob_protocol import error_xml, page_list_xml, read_error_xml, read_page_list, read_page_list_request
from imgstore.wire.errors import error_json, read_error

KIB64 = 64 << 10
Script = Callable[[BaseHTTPRequestHandler], None]


def say(status: int, body: Any = None, **headers: str) -> Script:
    def answer(asked: BaseHTTPRequestHandler) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        asked.send_response(status)
        asked.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            asked.send_header(name.replace("_", "-"), value)
        asked.end_headers()
        asked.wfile.write(data)

    return answer


def hang_up(asked: BaseHTTPRequestHandler) -> None:
    asked.close_connection = True
    asked.connection.close()


@contextmanager
def scripted(*script: Script) -> Iterator[tuple[str, list[str]]]:
    """Run a server that answers by a script. Yield the URL and the list of received requests."""
    asked: list[str] = []
    left = list(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            token = self.headers.get("Authorization") or body.partition("secret=")[2].partition("&")[0]
            asked.append(f"{self.command} {self.path} {token}")
            left.pop(0)(self)

        do_PUT = do_POST = do_GET  # noqa: N815 - the library's names

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def connected(url: str, credentials: Any = None) -> Iterator[tuple[Connection, list[float]]]:
    waited: list[float] = []
    given = credentials or Bearer(token="t")
    connection = Connection(Address(url=url, credentials=given), wait=waited.append, monotonic=lambda: 0.0)
    try:
        yield connection, waited
    finally:
        connection.close()


def test_get_is_retried() -> None:
    busy = say(503, {"error": {"code": "ServerStopping", "message": "stopping"}})
    script = (busy, hang_up, say(429, {}, Retry_After="7"), say(200, {"a": 1}))
    with scripted(*script) as (url, asked), connected(url) as (connection, waited):
        with pytest.raises(StoreUnreachable):
            connection.request("GET", "/x")  # The client gives up soon if the server never answered.
        assert len(asked) == 3
        assert 7.0 in waited
        assert connection.request("GET", "/x").json == {"a": 1}


def test_known_server_is_retried_longer() -> None:
    busy = say(502)
    with scripted(say(200, {}), *[busy] * 8, say(200, {"a": 1})) as (url, asked), connected(url) as (connection, _):
        connection.request("GET", "/x")
        assert connection.request("PUT", "/x", {}).json == {"a": 1}, "a rejected request was not executed"
        assert len(asked) == 10


def test_possibly_executed_request_is_not_sent_again() -> None:
    with scripted(say(200, {}), hang_up, hang_up, say(201, {})) as (url, asked), connected(url) as (connection, _):
        connection.request("GET", "/x")
        with pytest.raises(StoreUnreachable) as caught:
            connection.request("PUT", "/x", {})
        assert (caught.value.error_code, len(asked)) == ("ConnectionBroken", 2)
        # The same range of a disk may be sent several times.
        assert connection.transfer("PUT", f"{url}/b?sig=secret", headers={}, data=b"x").status == 201
        assert len(asked) == 4


def test_rejected_token_is_renewed_once() -> None:
    no = say(401, {"error": {"code": "ExpiredAuthenticationToken", "message": "expired"}})
    given = [say(200, {"access_token": f"t{number}", "expires_in": 3600}) for number in range(3)]
    application = Application(tenant_id="t/../x", client_id="c", client_secret="s")
    script = (given[0], no, given[1], say(200, {}), no, given[2], no)
    with scripted(*script) as (url, asked), connected(url, application) as (connection, _):
        connection.request("GET", "/x")
        assert asked == [
            "POST /t%2F..%2Fx/oauth2/v2.0/token s",
            "GET /x Bearer t0",
            "POST /t%2F..%2Fx/oauth2/v2.0/token s",
            "GET /x Bearer t1",
        ]
        with pytest.raises(Unauthenticated, match="expired"):
            connection.request("GET", "/x")


def test_error_contains_neither_token_nor_signature() -> None:
    with (
        scripted(hang_up, hang_up, hang_up) as (url, _),
        connected(url) as (connection, _),
        pytest.raises(StoreUnreachable) as caught,
    ):
        connection.transfer("GET", f"{url}/b?sig=secret", headers={})
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(Application(tenant_id="t", client_id="c", client_secret="secret"))
    assert "secret" not in repr(Bearer(token="secret"))


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput("m", found="f", expected="e", hint="h", target="t"),
        NotFound("m"),
        ParentNotFound("m", hint="h"),
        AccessDenied("m", found="<&>"),
        WorkHeld("m"),
        StoreFull("m"),
        Conflict("m", code="OperationNotAllowed"),
    ],
)
def test_server_error_is_restored(error: ImgstoreError) -> None:
    for restored in (
        read_error(error_json(error), error.status),
        read_error(json.loads(json.dumps(error_json(error))), 0),
        read_error(read_error_xml(error_xml(error).decode()), error.status),
    ):
        assert (restored.error_code, str(restored)) == (error.error_code, str(error))
        assert isinstance(restored, NotFound) == isinstance(error, NotFound)
        assert isinstance(restored, StoreUnreachable) == isinstance(error, StoreUnreachable)


@pytest.mark.parametrize("body", [None, [], {}, {"error": {}}, {"error": {"code": 3}}, "<html>"])
def test_foreign_answer_is_reported(body: Any) -> None:
    assert read_error(body, 404).error_code == "UnexpectedAnswer"
    assert isinstance(read_error(body, 502), StoreUnreachable)


def test_page_lists_round_trip() -> None:
    extents = [Extent(offset=0, length=512), Extent(offset=4096, length=1024)]
    whole = page_list_xml(extents, read_page_list_request((0, 1 << 20))).decode()
    assert read_page_list(whole) == (extents, None)
    part = page_list_xml(extents, read_page_list_request((0, 1 << 20), results_max="1")).decode()
    first, marker = read_page_list(part)
    behind = page_list_xml(extents, read_page_list_request((0, 1 << 20), marker)).decode()
    assert (first, read_page_list(behind)) == (extents[:1], (extents[1:], None))


def test_nonzero_ranges_without_received_ranges() -> None:
    data = bytearray(5 * KIB64)
    assert list(nonzero_ranges(bytes(data))) == []
    data[KIB64] = data[3 * KIB64 - 1] = data[5 * KIB64 - 1] = 1
    ranges = list(nonzero_ranges(bytes(data)))
    assert ranges == [(KIB64, 3 * KIB64), (4 * KIB64, 5 * KIB64)]
    assert list(nonzero_ranges(bytes(data)[: 4 * KIB64 + 512] + b"\1")) == [ranges[0], (4 * KIB64, 4 * KIB64 + 513)]
    arrived = [Extent(offset=1000 + KIB64, length=2 * KIB64)]
    assert list(missing_ranges(ranges, arrived, 1000)) == [ranges[1]]
    assert list(missing_ranges(ranges, arrived, 1001)) == ranges, "a half received range is still missing"


def test_piece_indexes_of_extents() -> None:
    mib4 = 4 << 20
    extents = [Extent(offset=1, length=1), Extent(offset=mib4 - 1, length=2), Extent(offset=3 * mib4, length=512)]
    assert piece_indexes(iter(extents), 4 * mib4) == [0, 1, 3]
    assert piece_indexes(iter([Extent(offset=0, length=3 * mib4)]), mib4 + 512) == [0, 1]


def test_local_path_of_a_uri() -> None:
    assert local_path("./a b.vhd") == Path("a b.vhd")
    assert local_path("file:///a%20b.vhd") == Path("/a b.vhd")
    assert local_path("https://example.org/x") is None
    with pytest.raises(InvalidInput, match="s3"):
        local_path("s3://bucket/key")


@pytest.mark.parametrize(
    "server",
    [
        "",
        "images.example",
        "http://images.example",
        "https://",
        "https://a:b@c",
        "https://h/path",
        "ftp://h",
        "https://h:x",
    ],
)
def test_invalid_server_address_is_refused(server: str) -> None:
    with pytest.raises(InvalidInput, match="address of the server is invalid"):
        read_address(server, authorities=None, subscription=None, environ={"IMGSTORE_TOKEN": "t"})


@pytest.mark.parametrize(
    "name", ["IMGSTORE_TOKEN", "IMGSTORE_TENANT_ID", "IMGSTORE_CLIENT_ID", "IMGSTORE_CLIENT_SECRET"]
)
def test_what_surrounds_a_credential_is_removed_and_a_second_line_is_refused(name: str) -> None:
    names = ("IMGSTORE_TENANT_ID", "IMGSTORE_CLIENT_ID", "IMGSTORE_CLIENT_SECRET")
    environ = dict.fromkeys([name] if name == "IMGSTORE_TOKEN" else names, "\ufeff secret\r\n")
    read = read_address("https://h", authorities=None, subscription=None, environ=environ)
    assert set(asdict(read.credentials).values()) == {"secret"}
    with pytest.raises(Unauthenticated, match=f"{name} contains a line end") as caught:
        read_address(
            "https://h", authorities=None, subscription=None, environ=environ | {name: "secret\nIMGSTORE_CLIENT_ID=x"}
        )
    assert "secret" not in str(caught.value).replace(name, "")


def test_credentials_and_address_come_from_the_environment() -> None:
    address = read_address(
        "https://h:1/", authorities=None, subscription=None,
        environ={"IMGSTORE_TOKEN": " t\n", "SSL_CERT_FILE": "/a", "REQUESTS_CA_BUNDLE": "/b", "IMGSTORE_SUBSCRIPTION_ID": "s"},
    )  # fmt: skip
    assert address == Address(
        url="https://h:1", credentials=Bearer(token="t"), authorities=Path("/b"), subscription="s"
    )
    for plain in ("http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1"):
        assert read_address(plain, authorities=None, subscription="s", environ={"IMGSTORE_TOKEN": "t"}).url == plain
    with pytest.raises(Unauthenticated, match="no IMGSTORE_TENANT_ID") as caught:
        read_address("https://h", authorities=None, subscription=None, environ={"IMGSTORE_CLIENT_ID": "c"})
    assert "no IMGSTORE_TENANT_ID, IMGSTORE_CLIENT_SECRET" in str(caught.value)
