"""Tests of hostile HTTP servers: a source is read, or refused by an error of imgstore."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores_hostile import HostileServer, start_hostile

from imgstore.domain.disks.source_deadlines import SourceDeadlines
from imgstore.domain.errors import ImageRefused, ImgstoreError, InvalidInput, StoreUnreachable
from imgstore.stores import Retrier, RetryPolicy
from imgstore.stores.http.http_source import HttpSource

QUIET = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
ONCE = Retrier(RetryPolicy(attempts_max=1))


@pytest.fixture
def hostile() -> Iterator[HostileServer]:
    with start_hostile() as server:
        yield server


@contextmanager
def opened(server: HostileServer) -> Iterator[HttpSource]:
    source = HttpSource(
        f"http://127.0.0.1:{server.port}/x",
        allow_private=True,
        retrier=ONCE,
        deadlines=SourceDeadlines(connect_seconds=5.0, idle_seconds=5.0, head_seconds=5.0),
    )
    try:
        yield source
    finally:
        source.close()


def answer(status: str = "206 P", body: bytes = b"x", **headers: str) -> bytes:
    told = {"ETag": '"a"', "Content-Length": str(len(body)), "Content-Range": "bytes 0-0/9"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items() if value)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1", "replace") + body


@pytest.mark.parametrize(
    "range_",
    [
        f"bytes 0-0/{'9' * 5_000}",
        "bytes 0-0/²",
        "bytes 0-0/-1",
        "bytes 0-0/*",
        "bytes */9",
        "bytes 5-5/9",
        "items 0-0/9",
        "bytes 0-0/9, bytes 0-0/8",
        "",
    ],
)
def test_an_invalid_content_range_is_refused(hostile: HostileServer, range_: str) -> None:
    hostile.answer = answer(Content_Range=range_)
    with pytest.raises(ImageRefused), opened(hostile):
        pass


@pytest.mark.parametrize("stamp", ["", "a" * 2_000, "\x01", "\x80"])
def test_an_invalid_etag_is_refused(hostile: HostileServer, stamp: str) -> None:
    hostile.answer = answer(ETag=stamp)
    with pytest.raises(ImageRefused), opened(hostile):
        pass


@pytest.mark.parametrize("location", ["https://[/x", "http://a..b/", "http://a:99999/", "file:///etc/passwd", ""])
def test_an_invalid_redirect_is_refused(hostile: HostileServer, location: str) -> None:
    hostile.answer = answer("302 F", b"", Location=location, Content_Range="")
    with pytest.raises((ImageRefused, InvalidInput)), opened(hostile):
        pass


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        ("206", {"Content-Length": "9" * 5_000}, b"x"),
        ("206", {"Content-Length": "-1"}, b"x"),
        ("206", {"Content-Length": "1, 2"}, b"x"),
        ("206", {"Content-Length": "", "Transfer-Encoding": "chunked"}, b"-5\r\nx\r\n0\r\n\r\n"),
        ("206", {"Content-Length": "", "Transfer-Encoding": "chunked"}, b"-1\r\n" + b"x" * 100_000),
        ("206", {"Content-Length": "", "Transfer-Encoding": "chunked"}, b"f" * 5_000 + b"\r\nx"),
        ("206", {"Content-Length": "", "Transfer-Encoding": "chunked"}, b"zz\r\nx\r\n0\r\n\r\n"),
        ("206", {"X": "a" * 100_000}, b"x"),
        ("9" * 5_000, {}, b"x"),
        ("²06", {}, b"x"),
        ("-1", {}, b"x"),
        ("", {}, b""),
    ],
)
def test_an_invalid_response_is_an_error(
    hostile: HostileServer, status: str, headers: dict[str, str], body: bytes
) -> None:
    hostile.answer = answer(status, body, **headers)
    try:
        with opened(hostile) as source:
            assert source.file_bytes == 9
    except (ImageRefused, StoreUnreachable):
        pass


ODD = st.sampled_from(
    [
        "",
        "0",
        "-1",
        "²",
        "9" * 30,
        "9" * 5_000,
        "1, 2",
        "*/9",
        "bytes 0-0/1",
        "bytes */0",
        "bytes 1-0/9",
        "%",
        "[",
        "\x00",
    ]
) | st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=12)
FIELDS = (
    "ETag", "Last_Modified", "Content_Range", "Content_Length", "Location", "Transfer_Encoding", "Content_Encoding",
    "Connection", "Content_Type",
)  # fmt: skip
STATUSES = st.sampled_from(
    ["206 P", "200 OK", "302 F", "307", "416 R", "100 C", "204", "304", "403", "503", "999", "0"]
)


@settings(max_examples=75, database=None, deadline=None, suppress_health_check=QUIET)
@given(
    status=STATUSES | ODD, headers=st.dictionaries(st.sampled_from(FIELDS), ODD, max_size=3), body=st.binary(max_size=9)
)
def test_no_response_causes_an_internal_error(
    hostile: HostileServer, status: str, headers: dict[str, str], body: bytes
) -> None:
    hostile.answer = answer(status, body, **headers)
    try:
        with opened(hostile) as source:
            assert 0 <= source.file_bytes < 1 << 63
            assert source.identity().stamp.isprintable()
            source.read_at(0, min(1, source.file_bytes))
    except ImgstoreError:
        pass


@settings(max_examples=50, database=None, deadline=None, suppress_health_check=QUIET)
@given(told=st.binary(max_size=200) | st.binary(max_size=60).map(lambda rest: b"HTTP/1.1 206 P\r\n" + rest))
def test_no_bytes_cause_an_internal_error(hostile: HostileServer, told: bytes) -> None:
    hostile.answer = told
    with pytest.raises(ImgstoreError), opened(hostile):
        pass
