"""Tests of hostile S3 servers: a response is read, or refused by an error of imgstore."""

import gc
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores_hostile import HostileServer, start_hostile

from imgstore.domain.errors import ImgstoreError, StoreError
from imgstore.stores import Retrier, RetryPolicy
from imgstore.stores.interface import ObjectInfo
from imgstore.stores.s3.probe import probe_properties
from imgstore.stores.s3.source import S3Object
from imgstore.stores.s3.store import S3Store

# botocore leaves some responses open that it cannot parse, until the garbage collector closes them.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

QUIET = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
ONCE = Retrier(RetryPolicy(attempts_max=1))
CALLS: Final[dict[str, Callable[[S3Store], Any]]] = {
    "get": lambda store: store.get("k"),
    "get_range": lambda store: store.get_range("k", 0, 1),
    "head": lambda store: store.head("k"),
    "list": lambda store: list(store.list("")),
    "put": lambda store: store.put("k", b"x"),
    "delete": lambda store: store.delete(["k"]),
    "copy": lambda store: store.copy_within("k", "l"),
    "create_bucket": lambda store: store.create_bucket(),
    "object": lambda store: S3Object(store, "k", retrier=ONCE).read_at(0, 1),
    "probe": lambda store: probe_properties(store, "00"),
}
NUMBERS: Final = ("", "-1", "²", "9" * 20, "9" * 5_000, "1, 2", "1e400", "0x10", "1_000", "+1", "1.5", "nan")
DATES: Final = (
    "", "x", "1e400", "inf", "nan", "-1", "9" * 20, "9" * 5_000, "2026-02-30T00:00:00Z", "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00+14:00", "Mon, 30 Nov 99999 00:00:00 GMT", "Mon, 30 Nov 2026 00:00:00 +9999", "2026-W01",
)  # fmt: skip
KEYS: Final = ("", "../../x", "/", "a" * 5_000, "&#0;", "&#xD800;", "\u202e", "%zz%ff", "<a>x</a>", "\n", "&amp;lt;")
BODIES: Final = (
    b"", b"\xff\xfe", b"\0", b"{}", b"<html>", b"<ListBucketResult/>", b"<a>" * 5_000 + b"</a>" * 5_000,
    b"<Error><Code>InternalError</Code></Error>", b"<Error><Code><a/></Code></Error>", b"<DeleteResult><Error/></DeleteResult>",
    b"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
    b'<!DOCTYPE x [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><ListBucketResult><Name>&b;</Name></ListBucketResult>',
)  # fmt: skip
HEADERS: Final = (
    "Content_Length", "Last_Modified", "Date", "ETag", "Expires", "Content_Encoding", "Transfer_Encoding", "Location",
    "x_amz_checksum_crc32", "x_amz_checksum_type", "x_amz_missing_meta", "x_amz_mp_parts_count", "x_amz_tagging_count",
    "x_amz_object_lock_retain_until_date", "x_amz_delete_marker", "x_amz_bucket_region",
)  # fmt: skip
STATUSES: Final = (
    "200 OK", "204 N", "206 P", "301 M", "304 N", "307 T", "400 B", "403 F", "404 N", "412 P", "416 R", "500 E", "503 S",
    "0", "999", "x",
)  # fmt: skip


@pytest.fixture
def hostile() -> Iterator[HostileServer]:
    with start_hostile() as server:
        yield server
    gc.collect()


def answer(status: str = "200 OK", body: bytes = b"x", **headers: str) -> bytes:
    told = {
        "Content-Length": str(len(body)),
        "Date": "Mon, 30 Nov 2026 00:00:00 GMT",
        "Last-Modified": "Mon, 30 Nov 2026 00:00:00 GMT",
        "ETag": '"a"',
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items() if value)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1", "replace") + body


def listing(*, key: str = "k", date: str = "2026-11-30T00:00:00Z", size: str = "1", more: str = "") -> bytes:
    contents = f"<Contents><Key>{key}</Key><LastModified>{date}</LastModified><Size>{size}</Size></Contents>"
    return f"<ListBucketResult>{contents}{more}</ListBucketResult>".encode()


def store_at(server: HostileServer, *, path_style: bool = True) -> S3Store:
    endpoint = f"http://127.0.0.1:{server.port}"
    return S3Store(endpoint=endpoint, bucket="b", access_key="a", secret_key="s", path_style=path_style)


def check(store: S3Store, name: str) -> None:
    """Call a method, which returns a value for the catalog or raises an error of imgstore."""
    try:
        found = CALLS[name](store)
    except ImgstoreError:
        return
    for info in found if isinstance(found, list) else [found]:
        if isinstance(info, ObjectInfo):
            assert 0 <= info.stored_bytes < 1 << 63
            assert info.last_modified.utcoffset() == timedelta(0)
            assert "\0" not in info.key
            info.key.encode()


@pytest.mark.parametrize("size", NUMBERS)
def test_an_invalid_length_is_refused(hostile: HostileServer, size: str) -> None:
    hostile.answer = answer(body=listing(size=size))
    if size not in ("1_000", "+1"):  # which are numbers to botocore
        with pytest.raises(StoreError):
            list(store_at(hostile).list(""))
    hostile.answer = answer(Content_Length=size or "-1")
    for name in ("head", "object"):
        check(store_at(hostile), name)


@pytest.mark.parametrize("date", ["1e400", "inf", "9" * 20, "x", "9999-12-31T23:59:59-14:00", "2026-02-30T00:00:00Z"])
def test_an_invalid_date_is_refused(hostile: HostileServer, date: str) -> None:
    hostile.answer = answer(body=listing(date=date))
    with pytest.raises(StoreError):
        list(store_at(hostile).list(""))
    hostile.answer = answer(Last_Modified=date)
    with pytest.raises(StoreError):
        store_at(hostile).head("k")


@pytest.mark.parametrize("name", list(CALLS))
def test_endless_nesting_is_refused(hostile: HostileServer, name: str) -> None:
    for status in STATUSES[:13]:
        hostile.answer = answer(status, BODIES[6])
        check(store_at(hostile), name)


def test_an_endless_listing_is_refused(hostile: HostileServer) -> None:
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    hostile.answer = answer(body=f"<ListBucketResult>{more}</ListBucketResult>".encode(), Connection="close")
    with pytest.raises(StoreError, match="failed the request"):
        list(store_at(hostile).list(""))


@pytest.mark.parametrize("etag", ["a" * 2_000, "\x01", "\x80"])
def test_an_invalid_etag_is_refused(hostile: HostileServer, etag: str) -> None:
    hostile.answer = answer(ETag=etag)
    with pytest.raises(StoreError):
        S3Object(store_at(hostile), "k", retrier=ONCE)


ODD = st.sampled_from((*NUMBERS, *DATES, "[", "https://[/x", "%")) | st.text(
    st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=12
)
BODY = (
    st.sampled_from(BODIES)
    | st.binary(max_size=60)
    | st.builds(
        lambda key, date, size, more: listing(key=key, date=date, size=size, more=more),
        st.sampled_from(KEYS) | st.just("k"),
        st.sampled_from(DATES) | st.just("2026-11-30T00:00:00Z"),
        st.sampled_from(NUMBERS) | st.just("1"),
        st.sampled_from(
            ["", "<IsTruncated>true</IsTruncated>", "<IsTruncated>x</IsTruncated>", "<EncodingType>url</EncodingType>"]
        ),
    )
)


@settings(max_examples=100, database=None, deadline=None, suppress_health_check=QUIET)
@given(
    status=st.sampled_from(STATUSES),
    headers=st.dictionaries(st.sampled_from(HEADERS), ODD, max_size=2),
    body=BODY,
    name=st.sampled_from(list(CALLS)),
    path_style=st.booleans(),
)
def test_no_response_causes_an_internal_error(
    hostile: HostileServer, status: str, headers: dict[str, str], body: bytes, name: str, path_style: bool
) -> None:
    hostile.answer = answer(status, body, **headers)
    check(store_at(hostile, path_style=path_style), name)
