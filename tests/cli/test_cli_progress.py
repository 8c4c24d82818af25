import io
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.framework.progress import BarProgress, LineProgress, human_seconds, show_progress
from imgstore.cli.main import main
from imgstore.domain.progress import ProgressEvent, Stage, ignore_event
from imgstore.domain.text.byte_counts import format_bytes
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import DEFINITION, GALLERY, GROUP, create_sample_gallery, open_home


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def event(stage: Stage, done: int = 0, total: int = 0, *, task: str = "westus2/0", detail: str = "") -> ProgressEvent:
    return ProgressEvent(task=task, stage=stage, bytes_done=done, bytes_total=total, detail=detail)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (203_400_000, "203.4 MB"), (10**12, "1.0 TB"), (999_999, "1.0 MB")],
)
def test_bytes_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (12.3, "12 s"), (65, "1 min 05 s"), (7620, "2 h 07 min"), (59.6, "60 s")]
)
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


def test_lines_at_the_start_now_and_then_and_at_the_end() -> None:
    clock, stream = Clock(), io.StringIO()
    lines = LineProgress(stream, clock)
    lines(event(Stage.STARTED, total=1_000_000))
    for second in range(1, 13):
        clock.now = 100 + second
        lines(event(Stage.MOVED, second * 50_000, 1_000_000))
    clock.now = 120
    lines(event(Stage.COMPLETED, 1_000_000, 1_000_000))
    assert stream.getvalue().splitlines() == [
        "westus2/0: 1.0 MB to do",
        "westus2/0: 250.0 kB of 1.0 MB (25%), 50.0 kB/s, 15 s left",
        "westus2/0: 500.0 kB of 1.0 MB (50%), 50.0 kB/s, 10 s left",
        "westus2/0: completed, 1.0 MB in 20 s",
    ]


def test_each_task_has_its_own_time_and_reports_failures_and_notes_at_once() -> None:
    clock, stream = Clock(), io.StringIO()
    lines = LineProgress(stream, clock)
    lines(event(Stage.STARTED, task="a"))
    clock.now += 6
    lines(event(Stage.STARTED, task="b"))
    lines(event(Stage.MOVED, 1, 2, task="b"))
    lines(event(Stage.FAILED, task="a", detail="no answer"))
    lines(event(Stage.NOTE, detail="begun anew: the source has changed"))
    assert stream.getvalue().splitlines() == [
        "a: started",
        "b: started",
        "a: failed: no answer",
        "begun anew: the source has changed",
    ]


def test_the_rate_is_that_of_this_run() -> None:
    """A task that goes on where another process stopped has bytes done at its start; they took no time of ours."""
    clock, stream = Clock(), io.StringIO()
    lines = LineProgress(stream, clock)
    lines(event(Stage.STARTED, done=900, total=1000))
    clock.now += 10
    lines(event(Stage.MOVED, 950, 1000))
    # Invariant R10.
    assert stream.getvalue().splitlines()[1] == "westus2/0: 950 B of 1.0 kB (95%), 5 B/s, 10 s left"


@pytest.fixture
def bars() -> Iterator[tuple[BarProgress, Terminal]]:
    terminal = Terminal()
    bars = BarProgress(terminal, draw_seconds_min=0)
    yield bars, terminal
    bars.close()


def test_one_bar_a_task_on_a_terminal(bars: tuple[BarProgress, Terminal]) -> None:
    bar, terminal = bars
    bar(event(Stage.STARTED, total=2_000_000))
    bar(event(Stage.STARTED, total=1_000_000, task="eastus/0"))
    bar(event(Stage.MOVED, 500_000, 1_000_000, task="eastus/0"))
    bar(event(Stage.COMPLETED, 2_000_000, 2_000_000))
    bar(event(Stage.FAILED, 500_000, 1_000_000, task="eastus/0", detail="no {answer}"))
    bar(event(Stage.NOTE, detail="a note"))
    bar.close()
    text = terminal.getvalue()
    assert "westus2/0" in text
    assert "50%|##########          | 500k/1.00M" in text
    assert "100%|####################| 2.0 MB in " in text
    assert "failed: no {answer}" in text
    assert "a note\n" in text


def test_nothing_to_send_is_a_full_bar(bars: tuple[BarProgress, Terminal]) -> None:
    bar, terminal = bars
    bar(event(Stage.STARTED))
    bar(event(Stage.COMPLETED))
    bar.close()
    assert "westus2/0" in terminal.getvalue()
    assert "100%|####################| 0 B" in terminal.getvalue()


def test_bars_are_left_behind_once_nothing_moves(bars: tuple[BarProgress, Terminal]) -> None:
    """What is printed after them then does not fall among them, and the next tasks begin below."""
    bar, terminal = bars
    bar(event(Stage.STARTED, total=10, task="a"))
    bar(event(Stage.STARTED, total=10, task="b"))
    bar(event(Stage.FAILED, task="a", detail="no answer"))
    bar(event(Stage.STARTED, 4, 10, task="a"))
    bar(event(Stage.COMPLETED, 10, 10, task="b"))
    assert not terminal.getvalue().endswith("\n"), "a was begun once more"
    bar(event(Stage.COMPLETED, 10, 10, task="a"))
    assert terminal.getvalue().endswith("\n")
    assert terminal.getvalue().splitlines()[-1].startswith("b  ")
    terminal.truncate(0)
    bar(event(Stage.STARTED, total=10, task="a"))
    bar(event(Stage.COMPLETED, 10, 10, task="a"))
    assert "\x1b[A" not in terminal.getvalue(), "its own line is the first again"


def test_the_form_is_chosen_by_the_stream() -> None:
    with show_progress(io.StringIO(), quiet=False) as subscriber:
        assert isinstance(subscriber, LineProgress)
    with show_progress(Terminal(), quiet=False) as subscriber:
        assert isinstance(subscriber, BarProgress)
    with show_progress(Terminal(), quiet=True) as subscriber:
        assert subscriber is ignore_event


class Crowd:
    """A clock that counts who looks at it at once: it is asked where lines are made."""

    def __init__(self) -> None:
        self.inside = self.most = 0

    def __call__(self) -> float:
        self.inside += 1
        self.most = max(self.most, self.inside)
        for _ in range(1000):
            pass
        self.inside -= 1
        return 0.0


def test_lines_of_many_threads_stay_whole() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    stream, crowd = io.StringIO(), Crowd()
    lines = LineProgress(stream, crowd)
    threads = [
        threading.Thread(target=lambda n=n: [*map(lines, [event(Stage.STARTED, task=f"task-{n}")] * 50)])
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    assert crowd.most == 1
    told = stream.getvalue().splitlines()
    assert len(told) == 8 * 50
    assert set(told) == {f"task-{n}: started" for n in range(8)}


def test_a_failure_is_printed_once(tmp_path: Path) -> None:
    make_raw(tmp_path / "disk.raw", seed=1)
    home, line = tmp_path / "home", f"disk create -g {GROUP} -l southcentralus --source {tmp_path}/disk.raw -n"

    def run(words: str) -> Result:
        return CliRunner().invoke(main, words.split(), prog_name="imgstore", env={"IMGSTORE_HOME": str(home)})

    with open_home(home) as installation:
        create_sample_gallery(installation)
    assert run(f"{line} one").exit_code == 0
    version = (
        f"sig image-version create -g {GROUP} -r {GALLERY} -i {DEFINITION} -e 1.0.0 --os-vhd-uri {tmp_path}/disk.raw"
    )
    checked = run(f"{version} --sha256 {'0' * 64}")
    assert checked.stderr.startswith("check disk.raw: 25.2 MB to do\ncheck disk.raw: failed\nERROR: ")
    (home / "regions").rename(home / "elsewhere")
    (home / "regions").mkdir()
    for options in ("", "--only-show-errors "):
        result = run(f"{options}{line} two")
        assert result.exit_code == 1
        assert "ERROR: (StoreMismatch)" in result.stderr
        assert result.stderr.count("what to do:") == 1
