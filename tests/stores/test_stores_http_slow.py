"""Tests of slow sources: each kind of slowness ends at a deadline, and a stop ends a request at once."""

import threading
from collections.abc import Callable

import pytest

from imgstore.domain.disks.source_deadlines import SourceDeadlines
from imgstore.domain.errors import StoreUnreachable
from imgstore.domain.host.stop_signal import OperationCanceled, StopSignal
from imgstore.stores import Retrier
from imgstore.stores.http.http_source import HttpSource
from imgstore.stores.wrappers.retry import RetryPolicy
from tests.support.http_server import Page, start_web
from tests.support.slow_web import Slowness, SlowWeb, start_slow_web

ONCE = Retrier(RetryPolicy(attempts_max=1))
LONG = SourceDeadlines(idle_seconds=600, head_seconds=600, total_seconds=600)


@pytest.mark.parametrize(
    ("slowness", "deadlines", "found"),
    [
        (Slowness.SILENT, SourceDeadlines(idle_seconds=0.2), "no byte for 0.2 seconds"),
        (Slowness.SILENT, SourceDeadlines(head_seconds=0.2), "no whole head of an answer within 0.2 seconds"),
        (Slowness.HEAD, SourceDeadlines(head_seconds=0.3), "no whole head of an answer within 0.3 seconds"),
        (
            Slowness.BODY,
            SourceDeadlines(idle_seconds=0.2, bytes_per_second_min=10**7),
            "fewer than 10000000 bytes a second of a body of 1000 bytes",
        ),
    ],
)
def test_a_slow_source_is_refused(slowness: Slowness, deadlines: SourceDeadlines, found: str) -> None:
    with start_slow_web(slowness) as web, pytest.raises(StoreUnreachable) as refused:
        source = HttpSource(web.url("disk"), allow_private=True, retrier=ONCE, deadlines=deadlines)
        source.read_at(0, 1_000)
    assert refused.value.found == found
    assert "source_head_seconds_max" in str(refused.value.hint)


def test_all_requests_together_have_a_deadline() -> None:
    now = 0.0

    def slower_and_slower() -> float:
        nonlocal now
        now += 10.0
        return now

    # Invariant U6.
    with start_web({"/disk": Page(body=bytes(1_000))}) as web:
        source = HttpSource(
            web.url("/disk"),
            allow_private=True,
            retrier=ONCE,
            deadlines=SourceDeadlines(head_seconds=10**6, idle_seconds=10**6, total_seconds=500),
            monotonic=slower_and_slower,
        )
        with pytest.raises(StoreUnreachable, match="all requests together"):
            for _ in range(1_000):
                source.read_at(0, 1)
        source.close()


def test_a_redirect_has_no_deadline_of_its_own() -> None:
    now = 0.0

    def slow_clock() -> float:
        nonlocal now
        now += 1.0
        return now

    pages = {f"/{number}": Page(redirect=f"/{number + 1}") for number in range(5)} | {"/5": Page(body=b"disk")}
    with start_web(pages) as web:
        for seconds, error in ((1_000.0, None), (8.0, "no whole head of an answer within 8 seconds")):
            deadlines = SourceDeadlines(head_seconds=seconds)

            def opened(deadlines: SourceDeadlines = deadlines) -> HttpSource:
                return HttpSource(
                    web.url("/0"), allow_private=True, retrier=ONCE, deadlines=deadlines, monotonic=slow_clock
                )

            if error is None:
                opened().close()
                continue
            with pytest.raises(StoreUnreachable) as refused:
                opened()
            assert refused.value.found == error


def in_thread(work: Callable[[], object]) -> "tuple[threading.Thread, list[BaseException]]":
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


@pytest.mark.parametrize("slowness", [Slowness.SILENT, Slowness.HEAD, Slowness.SECOND_SILENT])
@pytest.mark.parametrize("reason", [KeyboardInterrupt, OperationCanceled])
def test_a_stop_ends_a_request_that_waits(slowness: Slowness, reason: type[BaseException]) -> None:
    stop = StopSignal()

    def read(web: SlowWeb) -> None:
        HttpSource(web.url("disk"), allow_private=True, deadlines=LONG, stop=stop).read_at(0, 1)

    with start_slow_web(slowness) as web:
        thread, raised = in_thread(lambda: read(web))
        assert web.asked.acquire(timeout=60)
        stop.set(reason)
        thread.join()
    assert [type(each) for each in raised] == [reason]
