"""Tests of images behind a URL: ranges, redirects, forbidden addresses, changes, and passing errors."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imgstore.domain.disks.sources import Extent
from imgstore.domain.errors import (
    ImageRefused,
    ImageTruncated,
    ImgstoreError,
    InvalidInput,
    ObjectNotFound,
    SourceChanged,
    StoreDenied,
    StoreError,
    StoreUnreachable,
)
from imgstore.stores import Retrier
from imgstore.stores.http import range_requests as under_test
from imgstore.stores.http.http_source import HttpSource
from imgstore.stores.http.public_addresses import is_public
from tests.support.certificates import issue
from tests.support.http_server import Page, WebServer, start_web
from tests.support.manual_clock import ManualClock

BODY = bytes(range(256)) * 100
HOST = "images.example"


@dataclass(frozen=True, slots=True)
class Site:
    """A TLS server named images.example, and a method that opens a source on it."""

    server: WebServer
    authority: Path
    clock: ManualClock

    def open(self, path: str = "/disk.vhd", **how: object) -> HttpSource:
        options: dict[str, object] = {
            "allow_private": True,
            "authorities": self.authority,
            "resolver": lambda host, port: ["127.0.0.1"],
            "retrier": Retrier(wait=self.clock.wait, monotonic=self.clock.monotonic, random=lambda: 0.5),
        }
        return HttpSource(self.server.url(path, HOST), **(options | how))  # type: ignore[arg-type]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with start_web({"/disk.vhd": Page(body=BODY)}, tls=issue(HOST).context(tmp_path)) as server:
        yield Site(server, tmp_path / "cert.pem", ManualClock())


@pytest.fixture
def source(site: Site) -> Iterator[HttpSource]:
    source = site.open()
    yield source
    source.close()


def test_a_source_reads_at_offsets(site: Site, source: HttpSource) -> None:
    assert source.file_bytes == len(BODY)
    assert source.read_at(0, 10) == BODY[:10]
    assert source.read_at(1000, 5000) == BODY[1000:6000]
    assert source.read_at(len(BODY) - 3, 3) == BODY[-3:]
    assert source.read_at(5, 0) == b""
    assert list(source.extents()) == [Extent(offset=0, length=len(BODY))]
    assert {host for _, host, _ in site.server.requests} == {f"{HOST}:{site.server.port}"}


def test_a_read_past_the_end_is_refused(source: HttpSource) -> None:
    with pytest.raises(ImageTruncated):
        source.read_at(len(BODY) - 3, 4)


def test_an_empty_file_is_a_source(site: Site) -> None:
    site.server.pages["/empty"] = Page()
    source = site.open("/empty")
    assert source.file_bytes == 0
    assert not list(source.extents())
    source.close()
    source.close()


def test_the_identity_has_no_secrets(site: Site) -> None:
    source = site.open("/disk.vhd?signature=secret")
    identity = source.identity()
    assert identity.location == f"https://{HOST}:{site.server.port}/disk.vhd"
    assert (identity.file_bytes, identity.stamp) == (len(BODY), '"1"')
    source.close()
    site.server.pages["/disk.vhd"].headers = {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
    source = site.open()
    assert source.identity().stamp == "Thu, 01 Jan 2026 00:00:00 GMT"
    source.close()


@pytest.mark.parametrize(
    "changed", [Page(body=BODY, headers={"ETag": '"2"'}), Page(body=BODY + b"more", headers={"ETag": '"1"'})]
)
def test_a_change_during_the_read_is_detected(site: Site, source: HttpSource, changed: Page) -> None:
    before = source.identity()
    site.server.pages["/disk.vhd"] = changed
    with pytest.raises(SourceChanged):
        source.read_at(0, 10)
    assert source.identity() != before


@pytest.mark.parametrize(
    "page",
    [Page(body=BODY, ranges=False), Page(body=BODY, headers={}), Page(statuses=[400])],
    ids=["no ranges", "nothing to know a change by", "another status"],
)
def test_an_unsuitable_server_is_refused(site: Site, page: Page) -> None:
    site.server.pages["/disk.vhd"] = page
    with pytest.raises(ImageRefused) as raised:
        site.open()
    assert "download the file first" in str(raised.value)


@pytest.mark.parametrize(
    ("status", "message", "found", "hint"),
    [
        (204, "refuses the request", "HTTP 204 No Content", "check the URL and its signature"),
        (400, "refuses the request", "HTTP 400 Bad Request", "check the URL and its signature"),
        (401, "refuses access", "HTTP 401 Unauthorized", "https://name:password@host/path"),
        (403, "refuses access", "HTTP 403 Forbidden", "a signed URL that has not expired"),
        (404, "does not exist", "HTTP 404 Not Found", "check the URL"),
        (416, "refuses the requested range", "HTTP 416 ", "complete and not empty"),
        (429, "cannot serve the file now", "HTTP 429 Too Many Requests", "wait, then run the same command"),
        (503, "cannot serve the file now", "HTTP 503 Service Unavailable", "wait, then run the same command"),
        (799, "cannot serve the file now", "HTTP 799", "wait, then run the same command"),
    ],
)
def test_a_bad_status_is_explained(site: Site, status: int, message: str, found: str, hint: str) -> None:
    site.server.pages["/disk.vhd"].statuses = [status] * 20
    with pytest.raises(ImgstoreError, match=message) as raised:
        site.open()
    assert str(raised.value.found).startswith(found)
    assert raised.value.expected == "206 Partial Content to a request with Range"
    assert hint in str(raised.value.hint)


def test_a_page_in_place_of_the_file_is_named(site: Site) -> None:
    """A page to sign in has the status 200."""
    site.server.pages["/disk.vhd"].ranges = False
    site.server.pages["/disk.vhd"].headers["Content-Type"] = "text/html; charset=utf-8"
    with pytest.raises(ImageRefused, match="does not support ranges") as raised:
        site.open()
    assert raised.value.found == "HTTP 200 OK with a file of type 'text/html; charset=utf-8'"
    assert "for example to sign in" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("status", "error"), [(403, StoreDenied), (401, StoreDenied), (404, ObjectNotFound), (410, ObjectNotFound)]
)
def test_a_server_that_refuses(site: Site, status: int, error: type[StoreError]) -> None:
    site.server.pages["/disk.vhd"] = Page(statuses=[status])
    with pytest.raises(error) as raised:
        site.open("/disk.vhd?signature=secret")
    assert str(status) in str(raised.value)
    assert "secret" not in str(raised.value)


# -- what passes ------------------------------------------------------------------------------------------------------


def test_passing_errors_are_retried(site: Site, source: HttpSource) -> None:
    page = site.server.pages["/disk.vhd"]
    page.statuses = [503, 500, 429]
    assert source.read_at(7, 100) == BODY[7:107]
    page.cut_bytes = 50
    assert source.read_at(7, 100) == BODY[7:107]
    assert len(site.clock.waits) == 4


def test_retries_end(site: Site, source: HttpSource) -> None:
    site.server.pages["/disk.vhd"].statuses = [503] * 100
    with pytest.raises(StoreUnreachable):
        source.read_at(0, 1)


def test_a_closed_port_is_unreachable(site: Site) -> None:
    with start_web({}) as gone:
        pass
    with pytest.raises(StoreUnreachable):
        HttpSource(gone.url("/x"), allow_private=True, retrier=Retrier(wait=site.clock.wait))
    assert site.clock.waits == [], "the time of the refusal would tell that the port is closed"


def test_a_server_that_answers_is_asked_again_at_the_first_contact(site: Site) -> None:
    site.server.pages["/disk.vhd"].statuses = [503, 429]
    assert site.open("/disk.vhd").file_bytes == len(BODY)


def test_a_name_that_does_not_resolve(site: Site) -> None:
    def unknown(_host: str, _port: int) -> list[str]:
        raise OSError("Name or service not known")

    with pytest.raises(StoreUnreachable) as raised:
        site.open(resolver=unknown)
    assert "does not resolve" in str(raised.value)


def test_a_hint_for_an_unknown_name_is_about_the_name(site: Site) -> None:
    """Private addresses are another cause, and IMGSTORE_ALLOW_PRIVATE_SOURCES makes no name resolve."""

    def unknown(_host: str, _port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(InvalidInput) as raised:
        site.open(resolver=unknown)
    assert "correct the name of the host" in str(raised.value.hint)


# -- redirects --------------------------------------------------------------------------------------------------------


def test_redirects_are_followed_once(site: Site) -> None:
    """Later reads use the final URL. The redirects are followed again after a refusal."""
    site.server.pages["/latest"] = Page(redirect="/signed?x=1")
    site.server.pages["/signed"] = Page(redirect=site.server.url("/disk.vhd?token=1", HOST))
    source = site.open("/latest")
    site.server.requests.clear()
    assert source.read_at(0, 4) == BODY[:4]
    assert [path for path, *_ in site.server.requests] == ["/disk.vhd?token=1"]
    site.server.pages["/disk.vhd"].statuses = [403]
    site.server.pages["/signed"].redirect = "/disk.vhd?token=2"
    assert source.read_at(0, 4) == BODY[:4]
    assert [path for path, *_ in site.server.requests][-1] == "/disk.vhd?token=2"
    source.close()


def test_five_redirects_and_no_more(site: Site) -> None:
    for number in range(6):
        site.server.pages[f"/{number}"] = Page(redirect=f"/{number - 1}" if number else "/disk.vhd")
    source = site.open("/4")
    assert source.read_at(0, 1) == BODY[:1]
    source.close()
    with pytest.raises(ImageRefused) as raised:
        site.open("/5")
    assert "redirects" in str(raised.value)


def test_credentials_stay_with_their_host(site: Site) -> None:
    site.server.pages["/away"] = Page(redirect=site.server.url("/disk.vhd", HOST))
    url = site.server.url("/away", f"me:pass@{HOST}")
    source = HttpSource(url, allow_private=True, authorities=site.authority, resolver=lambda host, port: ["127.0.0.1"])
    assert [bool(authorization) for _, _, authorization in site.server.requests] == [True, False]
    assert "pass" not in source.identity().location
    source.close()


# -- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
        ),
        *("224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
        *(
            "::1",
            "::",
            "fe80::1",
            "fe80::1%eth0",
            "fc00::1",
            "ff02::1",
            "2001:db8::1",
            "64:ff9b:1::1",
            "fec0::1",
            "4000::1",
        ),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::1"),
        "2001:0:4136:e378:8000:63bf:f5ff:fffe",
    ],
)
def test_private_addresses_are_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_public(address)


def test_a_private_server_is_not_asked(site: Site) -> None:
    """No connection is made."""
    with pytest.raises(InvalidInput) as raised:
        site.open(allow_private=False)
    assert "IMGSTORE_ALLOW_PRIVATE_SOURCES" in str(raised.value)
    assert not site.server.requests


def test_one_private_address_among_many_is_enough(site: Site) -> None:
    with pytest.raises(InvalidInput):
        site.open(allow_private=False, resolver=lambda host, port: ["8.8.8.8", "10.0.0.1"])


def test_a_redirect_to_a_private_server_is_not_followed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first host counts as public, the second does not."""
    monkeypatch.setattr(under_test, "is_public", lambda address: address == "127.0.0.1")
    site.server.pages["/away"] = Page(redirect=site.server.url("/disk.vhd", "internal.example"))
    addresses = {HOST: ["127.0.0.1"], "internal.example": ["127.0.0.2"]}
    with pytest.raises(InvalidInput) as raised:
        site.open("/away", allow_private=False, resolver=lambda host, port: addresses[host])
    assert "internal.example" in str(raised.value)
    assert {path for path, *_ in site.server.requests} == {"/away"}


def test_the_address_that_was_checked_is_the_one_connected_to(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later change of the name has no effect."""
    monkeypatch.setattr(under_test, "is_public", lambda address: address == "127.0.0.1")
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    source = site.open(allow_private=False, resolver=lambda host, port: next(answers))
    assert source.read_at(0, 4) == BODY[:4]  # the kept way asks no resolver
    with pytest.raises(InvalidInput):
        source.identity()
    # Invariant U4.
    source.close()


@pytest.mark.parametrize(
    "url", ["http://images.example/x", "ftp://images.example/x", "file:///etc/passwd", "https:///x"]
)
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        HttpSource(url, allow_private=False)


def test_a_redirect_to_plain_http(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "is_public", lambda address: True)
    site.server.pages["/away"] = Page(redirect="http://images.example/disk.vhd")
    with pytest.raises(InvalidInput):
        site.open("/away", allow_private=False)


def test_certificate_for_another_name_than_that_of_the_url_is_refused(site: Site) -> None:
    with pytest.raises(StoreError, match="other names") as raised:
        HttpSource(
            site.server.url("/disk.vhd", "other.example"),
            allow_private=True,
            authorities=site.authority,
            resolver=lambda host, port: ["127.0.0.1"],
        )
    assert raised.value.expected == "other.example"
    assert not raised.value.retryable


def test_plain_http_on_a_private_network() -> None:
    with start_web({"/disk": Page(body=BODY)}) as server:
        source = HttpSource(server.url("/disk"), allow_private=True)
        assert source.read_at(2, 3) == BODY[2:5]
        source.close()
