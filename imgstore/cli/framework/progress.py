"""Progress of tasks: bars on a terminal, lines elsewhere.

Events come from worker threads. One lock keeps lines whole.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn, TextIO

import click

from imgstore.domain.progress import ProgressEvent, Stage, Subscriber, ignore_event
from imgstore.domain.text.byte_counts import format_bytes

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_SECONDS_MIN: Final = 5.0
"""Seconds between two lines of one task, so that an hour of one region fills one screen."""

COLUMNS_UNKNOWN: Final = 100
"""The columns of a terminal without a known size."""
ROWS_UNKNOWN: Final = 24
"""The rows of a terminal without a known size."""

_SHOWN_FAILURES: Final = "imgstore.shown_failures"
"""The key in the meta data of click's contexts."""
_SHOWN_FAILURES_MAX: Final = 1000

_BAR_FORMAT: Final = "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} {rate_fmt} {remaining} left"
_FULL: Final = "#" * 20


@contextmanager
def show_progress(stream: TextIO | None = None, *, quiet: bool) -> Iterator[Subscriber]:
    """Create a subscriber that shows progress on `stream`, by default on standard error, while the block runs.

    Args:
        stream: target of the output.
        quiet: show nothing.
    """
    stream = stream or sys.stderr
    if quiet:
        yield ignore_event
    elif stream.isatty():
        bars = BarProgress(stream)
        try:
            yield _record_failures(bars)
        finally:
            bars.close()
    else:
        yield _record_failures(LineProgress(stream, time.monotonic))


def shown_failures(context: click.Context) -> set[str]:
    """Return the texts of failures that were shown as progress of a command. The end of a command does not repeat them."""
    failures: set[str] = context.meta.setdefault(_SHOWN_FAILURES, set())
    return failures


def _record_failures(subscriber: Subscriber) -> Subscriber:
    context = click.get_current_context(silent=True)
    if context is None:
        return subscriber
    failures = shown_failures(context)

    def report(event: ProgressEvent) -> None:
        subscriber(event)
        if event.stage is Stage.FAILED and len(failures) < _SHOWN_FAILURES_MAX:
            failures.add(event.detail)

    return report


def human_seconds(seconds: float) -> str:
    """Format a duration: "0.4 s", "1 min 05 s", "2 h 07 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


@dataclass(slots=True)
class _LineState:
    """State of the lines of one task."""

    started: float
    last: float
    bytes_begun: int


class LineProgress:
    """Progress as lines: at the start of a task, every few seconds while bytes move, and at the end."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()
        self._states: dict[str, _LineState] = {}

    def __call__(self, event: ProgressEvent) -> None:
        """Print a line if a line is due."""
        with self._lock:
            line = self._line(event, self._clock())
            if line is not None:
                print(line, file=self._stream, flush=True)

    def _line(self, event: ProgressEvent, now: float) -> str | None:
        if event.stage is Stage.NOTE:
            return event.detail
        state = self._states.get(event.task)
        if state is None or event.stage is Stage.STARTED:
            state = self._states[event.task] = _LineState(now, now, event.bytes_done)
            if event.stage is Stage.STARTED:
                return f"{event.task}: {_of(event)}"
        if event.stage is Stage.MOVED and now - state.last < LINE_SECONDS_MIN:
            return None
        state.last = now
        return f"{event.task}: {_news(event, now - state.started, event.bytes_done - state.bytes_begun)}"


def _of(event: ProgressEvent) -> str:
    return f"{format_bytes(event.bytes_total)} to do" if event.bytes_total else "started"


def _news(event: ProgressEvent, seconds: float, moved: int) -> str:
    if event.stage is Stage.FAILED:
        return _failure(event)
    if event.stage is Stage.COMPLETED:
        return f"completed, {format_bytes(event.bytes_done)} in {human_seconds(seconds)}"
    parts = [f"{format_bytes(event.bytes_done)} of {format_bytes(event.bytes_total)}"]
    if event.bytes_total:
        parts[0] += f" ({100 * event.bytes_done // event.bytes_total}%)"
    rate = moved / seconds if seconds > 0 else 0.0
    if rate > 0:
        parts.append(f"{format_bytes(rate)}/s")
        parts.append(f"{human_seconds(max(0, event.bytes_total - event.bytes_done) / rate)} left")
    return ", ".join(parts)


def _failure(event: ProgressEvent) -> str:
    """Format the failure of a task. Without a detail, the command prints the error."""
    return f"failed: {event.detail}" if event.detail else "failed"


def _tells_its_size(stream: TextIO) -> bool:
    """Return False for a terminal that reports a size of 0 by 0, as terminals of containers and build servers do.

    tqdm would accept the size and print nothing.
    """
    try:
        return min(os.get_terminal_size(stream.fileno())) > 0
    except (OSError, ValueError):
        return False


def _ending(event: ProgressEvent, seconds: float) -> str:
    """Return the format of a bar that has ended, in tqdm's format language."""
    if event.stage is Stage.FAILED:
        return _failure(event).replace("{", "{{").replace("}", "}}")
    return f"100%|{_FULL}| {format_bytes(event.bytes_done)} in {human_seconds(seconds)}"


class BarProgress:
    """Progress as one bar for each task, each on a line of the terminal.

    When no bar moves any more, the bars stay as lines, and the next task begins below.
    """

    def __init__(self, stream: TextIO, *, draw_seconds_min: float = 0.2) -> None:
        from tqdm import tqdm  # noqa: PLC0415 - start-up time: most commands move no bytes

        tqdm.monitor_interval = 0  # no thread that wakes up for us: events come once a second at least
        self._tqdm = tqdm
        self._stream = stream
        self._draw_seconds_min = draw_seconds_min
        self._known_size = _tells_its_size(stream)
        self._lock = threading.Lock()
        self._ended: set[str] = set()
        self._bars: dict[str, tqdm[NoReturn]] = {}

    def __call__(self, event: ProgressEvent) -> None:
        """Update the bar of a task."""
        with self._lock:
            if event.stage is Stage.NOTE:
                self._tqdm.write(event.detail, file=self._stream)
                return
            bar = self._bar(event)
            bar.total = max(event.bytes_total, event.bytes_done)
            bar.update(event.bytes_done - bar.n)
            if event.stage in (Stage.COMPLETED, Stage.FAILED):
                bar.bar_format = "{desc} " + _ending(event, bar.format_dict["elapsed"])
                bar.refresh()
                self._ended.add(event.task)
            if self._ended == set(self._bars):
                self._leave()

    def close(self) -> None:
        """Leave the bars on the screen, and put the cursor below the bars."""
        with self._lock:
            self._leave()

    def _leave(self) -> None:
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()
        self._ended.clear()

    def _bar(self, event: ProgressEvent) -> "tqdm[NoReturn]":
        bar = self._bars.get(event.task)
        if bar is not None and event.task in self._ended:  # tried once more while others still run
            self._ended.remove(event.task)
            bar.bar_format = _BAR_FORMAT
            bar.reset(event.bytes_total)
        if bar is None:
            bar = self._bars[event.task] = self._tqdm(
                desc=f"{event.task:<20}",
                total=event.bytes_total,
                initial=event.bytes_done,
                unit="B",
                unit_scale=True,
                file=self._stream,
                position=len(self._bars),
                bar_format=_BAR_FORMAT,
                mininterval=self._draw_seconds_min,
                dynamic_ncols=self._known_size,
                ncols=None if self._known_size else COLUMNS_UNKNOWN,
                nrows=None if self._known_size else ROWS_UNKNOWN,
                ascii=True,
            )
        return bar
