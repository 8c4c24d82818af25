"""Tests of a redirector that leads each request to another mirror (invariant U8)."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imgstore.domain.errors import ImgstoreError, InvalidInput, SourceChanged, StoreDenied, StoreUnreachable
from imgstore.domain.storage.sizes import MIB, PIECE_BYTES
from imgstore.stores import Retrier
from imgstore.stores.http import range_requests as under_test
from imgstore.stores.http.http_source import HttpSource
from imgstore.stores.http.mirrors import MIRRORS_MAX
from imgstore.stores.http.read_samples import CHOSEN_MAX, KEPT_MAX, ReadSamples
from tests.support.certificates import issue
from tests.support.http_server import Page, WebServer, start_web
from tests.support.manual_clock import ManualClock

BODY = bytes(MIB) + random.Random(1).randbytes(6 * MIB)
NAMES = ["one.example", "two.example", "three.example"]
PATH = "/pub/disk.raw"


@dataclass(slots=True)
class Mirrors:
    """A redirector and three mirrors with equal bytes, each with its own name, ETag and date."""

    redirector: WebServer
    servers: dict[str, WebServer]
    authority: Path
    clock: ManualClock
    stops: dict[str, ExitStack]
    addresses: dict[str, list[str]] = field(default_factory=dict)

    def page(self, name: str) -> Page:
        return self.servers[name].pages[PATH]

    def urls(self, *names: str, query: str = "") -> list[str]:
        return [self.servers[name].url(PATH + query, name) for name in names]

    def lead_to(self, *urls: str) -> None:
        """Set the targets of the next redirects. The last target repeats."""
        page = self.redirector.pages["/latest"]
        page.redirects, page.redirect = list(urls[:-1]), urls[-1]

    def stop(self, name: str) -> None:
        """End a server and its open connections."""
        self.servers[name].is_dead = True
        self.stops[name].close()

    def open(self, url: str | None = None, *, allow_private: bool = True) -> HttpSource:
        return HttpSource(
            url or self.redirector.url("/latest", "redirector.example"),
            allow_private=allow_private,
            authorities=self.authority,
            resolver=lambda host, port: self.addresses.get(host, ["127.0.0.1"]),
            retrier=Retrier(wait=self.clock.wait, monotonic=self.clock.monotonic, random=lambda: 0.5),
        )

    def requests(self, name: str) -> int:
        return len(self.servers[name].requests)


@pytest.fixture
def mirrors(tmp_path: Path) -> Iterator[Mirrors]:
    tls = issue(*NAMES, "redirector.example").context(tmp_path)
    with ExitStack() as stack:
        redirector = stack.enter_context(start_web({"/latest": Page()}, tls=tls))
        stops = {name: stack.enter_context(ExitStack()) for name in NAMES}
        servers = {
            name: stops[name].enter_context(
                start_web({PATH: Page(body=BODY, headers={"ETag": f'"{name}"', "Last-Modified": name})}, tls=tls)
            )
            for name in NAMES
        }
        found = Mirrors(redirector, servers, tmp_path / "cert.pem", ManualClock(), stops)
        found.lead_to(*found.urls(*NAMES))
        yield found


def test_a_source_stays_with_the_first_mirror(mirrors: Mirrors) -> None:
    source = mirrors.open()
    assert source.identity().stamp == '"one.example"'
    assert source.read_at(0, len(BODY)) == BODY
    assert source.identity() == source.identity()
    assert len(mirrors.redirector.requests) == 1
    assert mirrors.requests("two.example") == mirrors.requests("three.example") == 0
    source.close()


@pytest.mark.parametrize(
    "page", [None, Page(statuses=[404]), Page(body=BODY, ranges=False)], ids=["dead", "absent", "no ranges"]
)
def test_another_mirror_is_opened_in_place_of_an_unsuitable_first_mirror(mirrors: Mirrors, page: Page | None) -> None:
    if page is None:
        mirrors.stop("one.example")
    else:
        mirrors.servers["one.example"].pages[PATH] = page
    source = mirrors.open()
    assert source.identity().stamp == '"two.example"'
    assert source.read_at(0, MIB) == BODY[:MIB]
    source.close()


@pytest.mark.parametrize("failure", ["dead", "absent", "denied", "no ranges", "no name", "private"])
def test_a_redirector_cannot_tell_failures_apart(
    mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    """Invariant U5. The redirector may be a stranger who sees the number of requests."""
    monkeypatch.setattr(under_test, "is_public", lambda address: address != "127.0.0.2")
    mirrors.lead_to(*mirrors.urls("one.example"))
    page = mirrors.page("one.example")
    if failure == "dead":
        mirrors.stop("one.example")
    elif failure in ("absent", "denied"):
        page.statuses = [404 if failure == "absent" else 403] * 9
    elif failure == "no ranges":
        page.ranges = False
    else:
        mirrors.addresses["one.example"] = [] if failure == "no name" else ["127.0.0.2"]
    with pytest.raises(ImgstoreError):
        mirrors.open(allow_private=False)
    assert len(mirrors.redirector.requests) == MIRRORS_MAX


def test_a_change_at_the_mirror_is_detected(mirrors: Mirrors) -> None:
    source = mirrors.open()
    before = source.identity()
    mirrors.page("one.example").headers["ETag"] = '"new"'
    assert source.identity() != before
    with pytest.raises(SourceChanged):
        source.read_at(0, 1)
    source.close()


def test_another_mirror_with_equal_bytes_replaces_a_dead_mirror(mirrors: Mirrors) -> None:
    source = mirrors.open()
    before = source.identity()
    assert source.read_at(0, 3 * MIB) == BODY[: 3 * MIB]
    mirrors.stop("one.example")
    assert source.read_at(3 * MIB, 4 * MIB) == BODY[3 * MIB :]
    assert source.identity() == before
    assert mirrors.requests("two.example") > 2
    source.close()


def test_a_dead_mirror_is_asked_for_by_the_redirector_once_more(mirrors: Mirrors) -> None:
    """The redirector does not know at once that a mirror is dead."""
    mirrors.lead_to(*mirrors.urls("one.example", "one.example", "two.example"))
    source = mirrors.open()
    source.read_at(0, MIB)
    mirrors.stop("one.example")
    assert source.read_at(MIB, MIB) == BODY[MIB : 2 * MIB]
    source.close()


def test_a_mirror_with_other_bytes_is_refused(mirrors: Mirrors) -> None:
    other = bytearray(BODY)
    other[2 * MIB] ^= 1
    mirrors.page("two.example").body = bytes(other)
    mirrors.page("three.example").body = BODY + b"longer"
    source = mirrors.open()
    source.read_at(0, MIB)
    source.read_at(MIB, 4 * MIB)
    mirrors.stop("one.example")
    with pytest.raises(SourceChanged, match="servers with another file") as raised:
        source.read_at(5 * MIB, MIB)
    assert "the URL of one mirror" in str(raised.value)
    source.close()


def test_a_mirror_with_equal_bytes_is_found_behind_a_mirror_with_other_bytes(mirrors: Mirrors) -> None:
    mirrors.page("two.example").body = BODY[::-1]
    source = mirrors.open()
    source.read_at(0, 3 * MIB)
    mirrors.stop("one.example")
    assert source.read_at(3 * MIB, MIB) == BODY[3 * MIB : 4 * MIB]
    assert mirrors.requests("three.example") > 1
    source.close()


@pytest.mark.parametrize("page", [Page(statuses=[404]), Page(body=BODY, ranges=False)], ids=["absent", "no ranges"])
def test_a_mirror_behind_an_unsuitable_mirror_is_found(mirrors: Mirrors, page: Page) -> None:
    mirrors.servers["two.example"].pages[PATH] = page
    source = mirrors.open()
    mirrors.stop("one.example")
    assert source.read_at(0, MIB) == BODY[:MIB]
    source.close()


@pytest.mark.parametrize("header", ["Digest", "Repr-Digest"])
@pytest.mark.parametrize("is_equal", [True, False])
def test_digests_of_the_servers_decide(mirrors: Mirrors, header: str, is_equal: bool) -> None:
    """No bytes are read twice."""
    for name in NAMES:
        value = "A" * 43 if is_equal or name == "one.example" else "B" * 43
        mirrors.page(name).headers[header] = f"sha-256={value}=" if header == "Digest" else f"sha-256=:{value}=:"
    source = mirrors.open()
    source.read_at(0, 3 * MIB)
    mirrors.stop("one.example")
    if is_equal:
        assert source.read_at(3 * MIB, MIB) == BODY[3 * MIB : 4 * MIB]
        assert mirrors.requests("two.example") == 2
    else:
        with pytest.raises(SourceChanged):
            source.read_at(3 * MIB, MIB)
    source.close()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_an_expired_signature_is_renewed(mirrors: Mirrors, status: int) -> None:
    """The same object with the same ETag is not compared again."""
    mirrors.lead_to(*mirrors.urls("one.example", query="?sig=1"), *mirrors.urls("one.example", query="?sig=2"))
    source = mirrors.open()
    source.read_at(0, 3 * MIB)
    mirrors.servers["one.example"].requests.clear()
    mirrors.page("one.example").statuses = [status]
    assert source.read_at(3 * MIB, MIB) == BODY[3 * MIB : 4 * MIB]
    assert [path.partition("?")[2] for path, *_ in mirrors.servers["one.example"].requests] == [
        "sig=1",
        "sig=2",
        "sig=2",
    ]
    source.close()


def test_a_renewed_signature_for_a_replaced_object_is_refused(mirrors: Mirrors) -> None:
    mirrors.lead_to(*mirrors.urls("one.example", query="?sig=1"))
    source = mirrors.open()
    source.read_at(0, MIB)
    mirrors.page("one.example").statuses = [403]
    mirrors.page("one.example").headers["ETag"] = '"new"'
    with pytest.raises(SourceChanged):
        source.read_at(MIB, MIB)
    source.close()


def test_a_refusal_of_the_redirector_is_reported(mirrors: Mirrors) -> None:
    source = mirrors.open()
    mirrors.page("one.example").statuses = [403]
    mirrors.redirector.pages["/latest"].statuses = [403]
    with pytest.raises(StoreDenied):
        source.read_at(0, 1)
    source.close()


def test_the_kept_mirror_is_used_while_the_redirector_is_away(mirrors: Mirrors) -> None:
    source = mirrors.open()
    mirrors.page("one.example").statuses = [503] * 3
    mirrors.redirector.pages["/latest"].statuses = [503] * 9
    assert source.read_at(0, 4) == BODY[:4]
    source.close()


def test_the_read_fails_without_any_mirror(mirrors: Mirrors) -> None:
    source = mirrors.open()
    for name in NAMES:
        mirrors.stop(name)
    with pytest.raises(StoreUnreachable):
        source.read_at(0, 4)
    source.close()


def test_many_readers_move_together(mirrors: Mirrors) -> None:
    """One reader asks the redirector, and the other readers use its result."""
    source = mirrors.open()
    mirrors.stop("one.example")
    offsets = range(0, len(BODY), MIB // 4)
    with ThreadPoolExecutor(8) as threads:
        parts = list(threads.map(lambda at: source.read_at(at, MIB // 4), offsets))
    assert b"".join(parts) == BODY
    assert len(mirrors.redirector.requests) == 2
    assert mirrors.requests("three.example") == 0
    source.close()


def test_another_mirror_on_a_private_network_is_refused(mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant U4: each redirect is checked, also after the opening."""
    monkeypatch.setattr(under_test, "is_public", lambda address: address == "127.0.0.1")
    mirrors.addresses["two.example"] = ["127.0.0.2"]
    source = mirrors.open(allow_private=False)
    mirrors.page("one.example").statuses = [403]
    with pytest.raises(InvalidInput, match=r"two\.example"):
        source.read_at(0, 1)
    assert mirrors.requests("two.example") == 0
    source.close()


def test_credentials_go_to_the_redirector_only(mirrors: Mirrors) -> None:
    source = mirrors.open(mirrors.redirector.url("/latest", "me:secret@redirector.example"))
    source.read_at(0, MIB)
    mirrors.stop("one.example")
    source.read_at(MIB, MIB)
    assert {bool(authorization) for *_, authorization in mirrors.redirector.requests} == {True}
    for name in ("one.example", "two.example"):
        assert {authorization for *_, authorization in mirrors.servers[name].requests} == {""}
    source.close()


def test_samples_are_few_and_spread() -> None:
    samples = ReadSamples()
    for number in range(3 * KEPT_MAX):
        samples.add(number * PIECE_BYTES, bytes(4) if number % 2 else b"data")
    chosen = samples.choose()
    assert len(chosen) == CHOSEN_MAX
    assert sum(each.is_zero for each in chosen) <= 2
    offsets = [each.offset for each in chosen if not each.is_zero]
    assert offsets[0] < 2 * KEPT_MAX * PIECE_BYTES // 8
    assert offsets[-1] > 2 * KEPT_MAX * PIECE_BYTES
    assert len(samples._kept) <= KEPT_MAX
