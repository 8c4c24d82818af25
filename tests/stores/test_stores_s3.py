"""Tests of S3 beyond the contract: responses of engines, requests on the wire, and disk images in a bucket."""

import json
import os
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet

import imgstore
from imgstore.domain.disks.source_urls import S3Location
from imgstore.domain.disks.sources import Extent
from imgstore.domain.errors import (
    Conflict,
    ImageTruncated,
    ObjectCorrupt,
    ObjectNotFound,
    SourceChanged,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreMismatch,
    StoreUnreachable,
)
from imgstore.stores import MeteredStore, Retrier, RetryingStore, TrafficMeter, crc32_checksum
from imgstore.stores.s3 import store as s3_store
from imgstore.stores.s3.source import S3Object, open_s3_object
from imgstore.stores.s3.store import S3Store, _timestamp
from imgstore.testing.engines import S3Engine
from tests.support.manual_clock import ManualClock


def on(fixture: str) -> ParameterSet:
    return pytest.param(fixture, marks=pytest.mark.engine(fixture.removesuffix("_s3")))


@pytest.fixture(params=[on("minio"), on("seaweedfs"), on("moto_s3")])
def any_engine(request: pytest.FixtureRequest) -> S3Engine:
    engine: S3Engine = request.getfixturevalue(request.param)
    return engine


def opened(engine: S3Engine, bucket: str, **how: Any) -> S3Store:
    keys = {"access_key": engine.access_key, "secret_key": engine.secret_key}
    return S3Store(endpoint=engine.endpoint, bucket=bucket, path_style=True, **(keys | how))


@contextmanager
def fresh(engine: S3Engine) -> Iterator[S3Store]:
    store = opened(engine, "s3-" + os.urandom(6).hex())
    store.create_bucket()
    yield store
    store.close()


@pytest.fixture
def on_minio(minio: S3Engine) -> Iterator[S3Store]:
    with fresh(minio) as store:
        yield store


# -- the bucket -------------------------------------------------------------------------------------------------------


def test_a_bucket_is_created_once(any_engine: S3Engine) -> None:
    """A repeat does not change the objects of the bucket."""
    store = opened(any_engine, "made-" + os.urandom(6).hex())
    assert not store.bucket_exists()
    store.create_bucket()
    assert store.bucket_exists()
    store.put("a", b"1")
    store.create_bucket()
    assert store.get("a") == b"1"
    store.close()


@pytest.mark.parametrize("engine", [on("minio"), on("moto_s3")])  # SeaweedFS makes missing buckets for an administrator
@pytest.mark.parametrize(
    "call", [lambda store: store.put("a", b"1"), lambda store: store.get("a"), lambda store: list(store.list(""))]
)
def test_a_missing_bucket_is_named(
    engine: str, call: Callable[[S3Store], object], request: pytest.FixtureRequest
) -> None:
    """A missing bucket is not reported as a missing object."""
    store = opened(request.getfixturevalue(engine), "never-made")
    with pytest.raises(StoreError) as raised:
        call(store)
    assert not isinstance(raised.value, ObjectNotFound)
    assert "imgstore regions init" in str(raised.value)
    store.close()


# -- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [on("minio"), on("seaweedfs")])  # moto lets everybody in
@pytest.mark.parametrize("wrong", [{"secret_key": "wrong"}, {"access_key": "nobody"}])
def test_wrong_credentials(engine: str, wrong: dict[str, str], request: pytest.FixtureRequest) -> None:
    store = opened(request.getfixturevalue(engine), "whatever", **wrong)
    for call in (lambda: store.put("a", b"1"), lambda: store.get("a"), lambda: store.head("a"), store.bucket_exists):
        with pytest.raises(StoreDenied) as raised:
            call()
        assert "AWS_ACCESS_KEY_ID" in str(raised.value)
    store.close()


def test_no_credentials(minio: S3Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StoreDenied):
        opened(minio, "whatever", access_key=None, secret_key=None).get("a")
    with pytest.raises(StoreDenied) as raised:
        opened(minio, "whatever", access_key=None, secret_key=None, profile="nobody")
    assert "nobody" in str(raised.value)


def test_credentials_of_the_environment(on_minio: S3Store, minio: S3Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", minio.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", minio.secret_key)
    store = opened(minio, on_minio.bucket, access_key=None, secret_key=None)
    store.put("a", b"1")
    assert on_minio.get("a") == b"1"
    store.close()


@pytest.mark.engine("moto")
def test_credentials_that_another_service_gives(
    moto_s3: S3Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile with an assumed role fetches its credentials from STS."""
    (tmp_path / "credentials").write_text(
        f"[base]\naws_access_key_id = {moto_s3.access_key}\naws_secret_access_key = {moto_s3.secret_key}\n"
    )
    (tmp_path / "config").write_text(
        "[profile role]\nsource_profile = base\nregion = us-east-1\nrole_arn = arn:aws:iam::123456789012:role/images\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto_s3.endpoint)
    bucket = moto_s3.make_bucket("of-a-role")
    with closing(opened(moto_s3, bucket, access_key=None, secret_key=None, profile="role")) as store:
        store.put("a", b"1")
        assert store.get("a") == b"1"


@pytest.mark.parametrize(
    "told", ["2026-11-28T22:01:02.000Z", "2026-11-28T22:01:02+00:00", "Sat, 28 Nov 2026 22:01:02 GMT", "1795903262"]
)
def test_times_are_parsed_in_both_notations(told: str) -> None:
    assert _timestamp(told) == datetime(2026, 11, 28, 22, 1, 2, tzinfo=UTC)


# -- what is on the wire ----------------------------------------------------------------------------------------------


def test_damage_on_the_network_is_refused(any_engine: S3Engine) -> None:
    """Engines that verify refuse damage. The declared property names these engines (moto does not verify)."""
    with fresh(any_engine) as store:
        if any_engine.found.name == "moto":
            store._put("a", b"damaged", crc32_checksum(b"whole"))
            return
        with pytest.raises(ObjectCorrupt):
            store._put("a", b"damaged", crc32_checksum(b"whole"))
        with pytest.raises(ObjectNotFound):
            store.head("a")


def test_the_store_keeps_our_checksum(any_engine: S3Engine) -> None:
    body = os.urandom(300_000)
    # Invariant Z9.
    with fresh(any_engine) as store:
        assert store.put("a", body).checksum in {crc32_checksum(body), None}
        assert store.head("a").checksum == crc32_checksum(body)


def test_our_meter_agrees_with_the_servers(minio_cluster: Callable[[int], tuple[S3Engine, ...]]) -> None:
    """The counts of bytes are equal if only bodies are transferred."""
    (engine,) = minio_cluster(1)
    with fresh(engine) as bare:
        meter = TrafficMeter()
        store = MeteredStore(bare, meter)
        received, sent = engine.traffic()
        for number in range(4):
            store.put(f"k/{number}", os.urandom(1_000_000 + number))
        for number in range(4):
            store.get(f"k/{number}")
        store.get_range("k/0", 10, 5000)
        store.head("k/0")
        received_after, sent_after = engine.traffic()
    assert received_after - received == meter.traffic.sent_bytes == 4_000_006
    # Invariant M15.
    assert sent_after - sent == meter.traffic.received_bytes == 4_005_006


def test_a_storage_class_is_named(on_minio: S3Store, minio: S3Engine) -> None:
    store = opened(minio, on_minio.bucket, storage_class="REDUCED_REDUNDANCY")
    store.put("a", b"1")
    store.copy_within("a", "b")
    client = minio.client()
    classes = [client.head_object(Bucket=store.bucket, Key=key).get("StorageClass") for key in "ab"]
    assert classes == ["REDUCED_REDUNDANCY"] * 2
    client.close()
    store.close()


# -- answers ----------------------------------------------------------------------------------------------------------


class Scripted:
    """A server with scripted responses, one per connection."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.resets = False
        """Whether a connection is cut by a reset, which drops what the other side still expects."""
        self.requests = 0
        self.head: list[bytes] = []
        """The lines of the last request's head, in lower case."""
        scripted = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                if self.request.recv(1, socket.MSG_PEEK) == b"\x16":
                    return  # The client asks whether the port speaks TLS.
                length, scripted.head = 0, []
                while (line := self.rfile.readline().lower()) not in {b"\r\n", b""}:
                    scripted.head.append(line.strip())
                    if line.startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                self.rfile.read(length)
                scripted.requests += 1
                if scripted.answers:
                    self.wfile.write(scripted.answers.pop(0))
                if scripted.resets:
                    self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.request.close()

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def store(self, storage_class: str | None = None) -> S3Store:
        how: dict[str, Any] = {"path_style": True, "access_key": "k", "secret_key": "s"}
        return S3Store(endpoint=self.endpoint, bucket="b", storage_class=storage_class, **how)


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    server = Scripted()
    yield server
    server.close()


def without_fast_path(store: S3Store) -> S3Store:
    store._fast_path = None
    return store


def without_client(store: S3Store) -> S3Store:
    """Make every request fail that uses botocore's client."""

    def asked(**how: object) -> None:
        raise AssertionError(how)

    store._client.put_object = store._client.get_object = asked
    return store


def answer(status: int, body: str = "", headers: str = "", length: int | None = None) -> bytes:
    told = len(body) if length is None else length
    head = f"HTTP/1.1 {status} Told\r\nContent-Length: {told}\r\nConnection: close\r\n{headers}\r\n"
    return (head + body).encode()


def error(status: int, code: str, message: str = "for a reason") -> bytes:
    return answer(status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (error(503, "SlowDown"), StoreUnreachable),
        (error(500, "InternalError"), StoreUnreachable),
        (error(400, "RequestTimeout"), StoreUnreachable),
        (error(429, "TooManyRequests"), StoreUnreachable),
        (error(409, "ConditionalRequestConflict"), StoreUnreachable),
        (answer(502, "<html>a proxy</html>"), StoreUnreachable),
        (b"", StoreUnreachable),
        (b"not http at all\r\n\r\n", StoreUnreachable),
        (answer(503, "not xml"), StoreUnreachable),
        (answer(400, "<not xml"), StoreError),
        (error(507, "XMinioStorageFull"), StoreFull),
        (error(507, "SomethingElse"), StoreFull),
        (error(403, "RequestTimeTooSkewed"), StoreDenied),
        (error(403, "NeverHeardOf"), StoreDenied),
        (error(400, "BadDigest"), ObjectCorrupt),
        (error(400, "XAmzContentChecksumMismatch"), ObjectCorrupt),
        (error(412, "PreconditionFailed"), Conflict),
        (error(409, "BucketAlreadyExists"), StoreMismatch),
        (error(400, "MalformedXML"), StoreError),
    ],
)
def test_each_error_response_has_its_error(scripted: Scripted, said: bytes, expected: type[StoreError]) -> None:
    """Each error is raised once, with the found text and a hint. The store itself does not retry."""
    scripted.answers = [said]
    store = scripted.store()
    with pytest.raises(expected) as raised:
        store.put("a", b"body")
    assert type(raised.value) is expected
    assert raised.value.found
    assert raised.value.hint
    assert scripted.requests == 1
    store.close()


HTML = "<html>a login page</html>"
CONSOLE = "S3 API Requests must be made to API port."


@pytest.mark.parametrize("call", [lambda store: store.get("a"), lambda store: store.put("a", b"1")])
@pytest.mark.parametrize(
    ("said", "advice"),
    [
        *((answer(status, HTML), "another program answers") for status in (302, 400, 401, 403, 404, 407, 413)),
        (error(400, "InvalidArgument", CONSOLE), "the port is that of the S3 service"),
        (error(404, "NoSuchBucket"), "check the bucket and the endpoint"),
        (error(501, "NotImplemented"), "look up the code"),
    ],
)
def test_a_hint_fits_the_program_that_answered(
    scripted: Scripted, said: bytes, advice: str, call: Callable[[S3Store], object]
) -> None:
    """An answer of a proxy is neither a missing object, nor a refusal of the credentials, nor a passing fault."""
    scripted.answers = [said]
    store = scripted.store()
    with pytest.raises(StoreError) as raised:
        call(store)
    assert type(raised.value) is StoreError
    assert advice in str(raised.value.hint)
    store.close()


def test_a_redirect_names_the_region_of_the_bucket(scripted: Scripted) -> None:
    body = "<Error><Code>PermanentRedirect</Code></Error>"
    scripted.answers = [answer(301, body, "x-amz-bucket-region: eu-west-1\r\n")] * 4
    store = scripted.store()
    with pytest.raises(StoreError) as raised:
        store.get("a")
    assert "The bucket is in eu-west-1." in str(raised.value.found)
    assert "signing_region of the zone in regions.yaml to the region of the bucket" in str(raised.value.hint)
    store.close()


@pytest.mark.parametrize(
    ("how", "variables", "advice"),
    [
        ({"profile": "nobody-has-this"}, {}, "correct profile in regions.yaml"),
        ({}, {"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": ""}, "correct HTTP_PROXY"),
    ],
)
def test_a_hint_names_the_wrong_setting_of_this_machine(
    how: dict[str, Any], variables: dict[str, str], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setenv(name.lower(), value)
    keys: dict[str, Any] = {} if how else {"access_key": "a", "secret_key": "s"}
    with pytest.raises(StoreError) as raised:
        S3Store(endpoint="http://store.example:9000", bucket="b", **keys, **how).get("a")
    assert advice in str(raised.value.hint)


@pytest.mark.parametrize(
    ("call", "missing"),
    [
        (lambda store: store.put("a", b"body"), "without date"),
        (lambda store: store.head("a"), "without LastModified"),
        (lambda store: S3Object(store, "a"), "without ETag"),
    ],
)
def test_a_missing_header_is_named(scripted: Scripted, call: Callable[[S3Store], object], missing: str) -> None:
    """A proxy may strip headers. The error names the missing header."""
    scripted.answers = [answer(200)]
    store = scripted.store()
    with pytest.raises(StoreError, match="failed the request") as raised:
        call(store)
    assert missing in str(raised.value.found)
    store.close()


def test_a_partial_body_is_retried(scripted: Scripted) -> None:
    """A partial body is an error, and a retry succeeds."""
    clock = ManualClock()
    half, whole = answer(200, "half", length=8), answer(200, "complete")
    scripted.answers = [half]
    store = scripted.store()
    with pytest.raises(StoreUnreachable):
        store.get("a")
    scripted.answers = [half, error(503, "SlowDown"), b"", whole]
    assert RetryingStore(store, wait=clock.wait, monotonic=clock.monotonic).get("a") == b"complete"
    assert len(clock.waits) == 3
    store.close()


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("prepared", [without_client, without_fast_path])
def test_a_truncated_refusal_is_unreachable(
    scripted: Scripted, status: int, prepared: Callable[[S3Store], S3Store]
) -> None:
    """botocore does not translate the error of a truncated refusal."""
    scripted.answers, scripted.resets = [answer(status, "half", length=1 << 20)], True
    store = prepared(scripted.store())
    with pytest.raises(StoreUnreachable) as raised:
        store.get("a")
    assert raised.value.retryable
    store.close()


def test_a_partial_failure_of_a_delete_is_raised(scripted: Scripted) -> None:
    """The status is 200, and the body contains the failures."""
    scripted.answers = [
        answer(
            200,
            "<DeleteResult><Error><Key>b</Key><Code>AccessDenied</Code><Message>locked</Message></Error></DeleteResult>",
        )
    ]
    store = scripted.store()
    with pytest.raises(StoreDenied) as raised:
        store.delete(["a", "b", "c"])
    assert "1 of 3 keys" in str(raised.value)
    assert raised.value.target == "b"
    assert scripted.requests == 1
    store.close()


def test_a_copy_that_fails_inside_its_answer(scripted: Scripted) -> None:
    scripted.answers = [answer(200, "<Error><Code>InternalError</Code><Message>late</Message></Error>")]
    store = scripted.store()
    with pytest.raises(StoreUnreachable):
        store.copy_within("a", "b")
    store.close()


def test_a_store_that_acknowledges_something_else(scripted: Scripted) -> None:
    date = "Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    scripted.answers = [answer(200, headers=f"{date}x-amz-checksum-crc32: AAAAAA==\r\n")]
    store = scripted.store()
    with pytest.raises(ObjectCorrupt):
        store.put("a", b"body")
    store.close()


def test_requests_have_the_user_agent(scripted: Scripted) -> None:
    """The user agent is for the store's log."""
    scripted.answers = [error(404, "NoSuchKey")]
    store = scripted.store()
    with pytest.raises(ObjectNotFound):
        store.get("a")
    (agent,) = (line for line in scripted.head if line.startswith(b"user-agent:"))
    assert agent.split()[1] == f"imgstore/{imgstore.__version__}".encode()
    store.close()


# -- the short way ----------------------------------------------------------------------------------------------------


def test_fast_path_and_client_have_equal_results(any_engine: S3Engine) -> None:
    with fresh(any_engine) as store, closing(opened(any_engine, store.bucket)) as other:
        short, long = without_client(store), without_fast_path(other)
        for key, body in {"few": b"bytes", "none": b"", "more": os.urandom(1 << 20)}.items():
            by_short, by_long = short.put(key, body), long.put(key, body)
            assert (by_short.checksum, by_short.stored_bytes) == (by_long.checksum, by_long.stored_bytes)
            assert short.get(key) == long.get(key) == body
            assert short.head(key).checksum == long.head(key).checksum
        refusals = []
        for each in (short, long):
            with pytest.raises(ObjectNotFound) as raised:
                each.get("absent")
            refusals.append(str(raised.value))
        assert refusals[0] == refusals[1]


@pytest.mark.parametrize("storage_class", [None, "STANDARD_IA"])
def test_fast_path_and_client_send_equal_requests(scripted: Scripted, storage_class: str | None) -> None:
    # What differs from request to request, what the client counts, and what it asks for an empty body alone.
    own = (b"authorization", b"x-amz-date", b"amz-sdk-", b"accept-encoding", b"expect")
    heads = []
    for prepared in (without_client, without_fast_path):
        store = prepared(scripted.store(storage_class=storage_class))
        for body in (None, b"body", b""):
            scripted.answers = [answer(200, headers="Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n")]
            store.get("a") if body is None else store.put("a", body)
            heads.append({line for line in scripted.head if not line.startswith(own)})
        store.close()
    assert heads[:3] == heads[3:]


def test_a_bucket_that_is_elsewhere_is_asked_for_by_the_client(scripted: Scripted) -> None:
    """The client finds the region of the bucket; the fast path does not."""
    scripted.answers = [error(400, "AuthorizationHeaderMalformed"), answer(200, "whole")]
    store = scripted.store()
    assert store.get("a") == b"whole"
    assert scripted.requests == 2
    store.close()


def test_aws_endpoints_do_not_use_the_fast_path() -> None:
    """The client's rules handle AWS's own endpoints (FIPS, dual stack)."""
    store = S3Store(endpoint=None, bucket="b", path_style=True, access_key="k", secret_key="s")
    assert store._fast_path is None
    store.close()


@pytest.mark.parametrize(
    ("profile_style", "path_style", "host", "path"),
    [
        ("path", False, "bucket.localhost", "/a/1"),
        ("virtual", True, "localhost", "/bucket/a/1"),
        ("virtual", None, "bucket.localhost", "/a/1"),
        (None, None, "localhost", "/bucket/a/1"),
    ],
)
def test_each_request_names_the_bucket_in_the_same_place(
    scripted: Scripted,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    profile_style: str | None,
    path_style: bool | None,
    host: str,
    path: str,
) -> None:
    """The client, the fast path and a source agree. Without a setting, the AWS profile decides."""
    config = tmp_path / "config"
    config.write_text(
        f"[profile p]\ns3 =\n  addressing_style = {profile_style}\n" if profile_style else "[profile p]\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    s3_store._session.cache_clear()
    port = scripted.endpoint.rpartition(":")[2]
    store = S3Store(
        endpoint=f"http://localhost:{port}",
        bucket="bucket",
        path_style=path_style,
        profile="p",
        access_key="k",
        secret_key="s",
    )
    assert store._fast_path is not None
    monkeypatch.setattr(socket, "getaddrinfo", partial(_resolve_localhost, socket.getaddrinfo))
    date = "Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nETag: e\r\n"
    calls: list[Callable[[], object]] = [
        lambda: store.get("a/1"),
        lambda: store.get_range("a/1", 0, 4),
        lambda: store.put("a/1", b"body"),
        lambda: store.head("a/1"),
        lambda: S3Object(store, "a/1", retrier=Retrier()).read_at(0, 0),
    ]
    for call in calls:
        scripted.answers = [answer(200, headers=date)]
        call()
        request, *lines = scripted.head
        assert request.split()[1].decode() == path
        assert f"host: {host}:{port}".encode() in lines
    store.close()
    s3_store._session.cache_clear()


def _resolve_localhost(real: Callable[..., Any], host: str, *how: Any, **more: Any) -> Any:
    """Resolve every name below localhost, as RFC 6761 (section 6.3) demands and some resolvers do not."""
    return real("127.0.0.1" if host.endswith("localhost") else host, *how, **more)


class Closed:
    """A client with other internals, as of another botocore."""

    def __init__(self, client: Any) -> None:
        self._real = client

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._real, name)


def test_another_botocore_has_no_fast_path(any_engine: S3Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = s3_store._client
    monkeypatch.setattr(s3_store, "_client", lambda *how: Closed(real(*how)))
    with fresh(any_engine) as store:
        assert store._fast_path is None
        store.put("a", b"body")
        assert store.get("a") == b"body"


def test_credentials_that_renew_themselves(on_minio: S3Store, minio: S3Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request reads the credentials, because the credentials at the opening may have expired."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", minio.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "run out")
    store = without_client(S3Store(endpoint=minio.endpoint, bucket=on_minio.bucket, path_style=True))
    with pytest.raises(StoreDenied):
        store.put("a", b"body")
    assert store._fast_path is not None
    monkeypatch.setattr(store._fast_path._credentials, "secret_key", minio.secret_key)
    store.put("a", b"body")
    assert store.get("a") == b"body"
    store.close()


def test_a_listing_in_no_order_is_refused(scripted: Scripted) -> None:
    """A merge of listings, or a listing that resumes, would otherwise lose objects."""
    entry = "<Contents><Key>{}</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
    told = "".join(entry.format(key) for key in ("b/x", "a/x"))
    scripted.answers = [answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{told}</ListBucketResult>")]
    store = scripted.store()
    with pytest.raises(StoreError) as raised:
        list(store.list(""))
    assert "no order" in str(raised.value)
    store.close()


def test_an_invalid_listing_is_refused(scripted: Scripted) -> None:
    """A proxy may send a page with status 200."""
    scripted.answers = [answer(200, "<html>welcome")]
    store = scripted.store()
    with pytest.raises(StoreUnreachable):
        list(store.list(""))
    store.close()


def test_a_closed_port_is_unreachable(scripted: Scripted) -> None:
    scripted.close()
    store = scripted.store()
    with pytest.raises(StoreUnreachable) as raised:
        store.get("a")
    assert scripted.endpoint in str(raised.value)
    store.close()


def test_an_invalid_endpoint_is_refused() -> None:
    with pytest.raises(StoreError) as raised:
        S3Store(endpoint="nonsense", bucket="b")
    assert "nonsense" in str(raised.value)


# -- a source ---------------------------------------------------------------------------------------------------------


def test_an_image_in_a_bucket(any_engine: S3Engine) -> None:
    """Reads use offsets, the identity is length and ETag, and any S3 key is allowed."""
    body = os.urandom(100_000)
    key = "Images of 2026/ä disk (1).vhd"
    with fresh(any_engine) as store:
        client = any_engine.client()
        client.put_object(Bucket=store.bucket, Key=key, Body=body)
        source = S3Object(store, key)
        assert source.file_bytes == len(body)
        assert source.read_at(500, 60_000) == body[500:60_500]
        assert source.read_at(len(body) - 1, 1) == body[-1:]
        assert source.read_at(0, 0) == b""
        assert list(source.extents()) == [Extent(offset=0, length=len(body))]
        assert source.identity() == source.identity()
        assert source.identity().location == f"s3://{store.bucket}/{key}"
        with pytest.raises(ImageTruncated):
            source.read_at(len(body) - 1, 2)
        before = source.identity()
        client.put_object(Bucket=store.bucket, Key=key, Body=os.urandom(100_000))
        assert source.identity() != before
        with pytest.raises(SourceChanged):
            source.read_at(0, 10)
        client.delete_object(Bucket=store.bucket, Key=key)
        for call in (source.identity, lambda: source.read_at(0, 10), lambda: S3Object(store, key)):
            with pytest.raises(ObjectNotFound):
                call()
        source.close()
        client.close()


def test_keys_are_sent_letter_by_letter(scripted: Scripted) -> None:
    """Invariant U7. Only the bytes that a request line cannot contain are encoded."""
    head = 'ETag: "1"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n'
    store = scripted.store()
    for key, sent in KEYS_ON_THE_WIRE.items():
        scripted.answers = [answer(200, headers=head, length=8)] * 2
        assert S3Object(store, key).identity().location == f"s3://{store.bucket}/{key}"
        assert scripted.head[0] == f"head /{store.bucket}/{sent} http/1.1".encode().lower()
    store.close()


KEYS_ON_THE_WIRE = {
    "a#1?versionId=2": "a%231%3FversionId%3D2",
    "a%20b+c d": "a%2520b%2Bc%20d",
    "/a//b/../c/./": "/a//b/../c/./",
    "ä\r\n": "%C3%A4%0D%0A",
}


@pytest.mark.parametrize("engine", [on("minio"), on("moto_s3")])  # SeaweedFS makes missing buckets for an administrator
def test_a_missing_source_is_named(engine: str, request: pytest.FixtureRequest) -> None:
    """A missing bucket and a missing object have different errors, without hints about regions."""
    with fresh(request.getfixturevalue(engine)) as store:
        with pytest.raises(ObjectNotFound, match=f"no object 'a%20b' in the bucket '{store.bucket}'") as raised:
            S3Object(store, "a%20b")
        assert "scrub" not in str(raised.value)
    store = opened(request.getfixturevalue(engine), "never-made")
    with pytest.raises(StoreError, match="no bucket 'never-made'") as missing:
        S3Object(store, "a")
    assert "regions" not in str(missing.value)
    store.close()


@pytest.mark.engine("minio")
def test_a_source_without_a_right_is_named(minio: S3Engine, on_minio: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    on_minio.put("a", b"1")
    statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{on_minio.bucket}/other"}
    answer = minio.client("sts").assume_role(
        RoleArn="arn:aws:iam::x:role/x",
        RoleSessionName="reader",
        Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
    )
    for name, part in {
        "AWS_ACCESS_KEY_ID": "AccessKeyId",
        "AWS_SECRET_ACCESS_KEY": "SecretAccessKey",
        "AWS_SESSION_TOKEN": "SessionToken",
    }.items():
        monkeypatch.setenv(name, answer["Credentials"][part])
    location = S3Location(on_minio.bucket, "a")
    with pytest.raises(StoreDenied, match=f"do not permit reading '{location}'") as raised:
        open_s3_object(location, minio.endpoint)
    assert "s3:GetObject" in str(raised.value)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "InvalidAccessKeyId"),
        (403, "SignatureDoesNotMatch"),
        (403, "RequestTimeTooSkewed"),
        (403, "NeverHeardOf"),
        (403, "AccessDenied"),
        (400, "ExpiredToken"),
        (400, "AuthorizationHeaderMalformed"),
        (400, "InvalidBucketName"),
        (301, "PermanentRedirect"),
        (404, "NoSuchBucket"),
        (404, "NoSuchKey"),
        (503, "SlowDown"),
    ],
)
def test_an_error_of_a_source_names_settings_of_sources(scripted: Scripted, status: int, code: str) -> None:
    """regions.yaml has no effect on sources."""
    clock = ManualClock()
    store = scripted.store()
    head = answer(status, headers="x-amz-request-id: 1\r\n")
    scripted.answers = [head] * 6 if status == 503 else [head, error(status, code)]
    with pytest.raises(StoreError) as raised:
        S3Object(store, "a", retrier=Retrier(wait=clock.wait, monotonic=clock.monotonic))
    assert raised.value.hint
    assert "regions" not in str(raised.value)
    assert "zone" not in str(raised.value)
    store.close()


def test_a_source_retries(scripted: Scripted) -> None:
    clock = ManualClock()
    head = 'ETag: "1"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n'
    scripted.answers = [error(503, "SlowDown"), answer(200, headers=head, length=8), b"", answer(206, "part")]
    store = scripted.store()
    source = S3Object(store, "a", retrier=Retrier(wait=clock.wait, monotonic=clock.monotonic))
    assert source.read_at(0, 4) == b"part"
    assert len(clock.waits) == 2
    store.close()
