"""A pass of scrub that several processes go through in turn reads every object that was there when it began."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.storage.scrub_passes import ReadFront, ScrubPass, ScrubRunner

NOW = datetime(2026, 5, 1, tzinfo=UTC)
BEGUN = ScrubPass(
    uid="p",
    slot_uid="s",
    runner=ScrubRunner.COMMAND,
    percent=100.0,
    seed=7,
    began_at=NOW,
    saved_at=NOW,
    damaged={},
)
KEYS = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, unique=True)


@given(data=st.data(), keys=KEYS, later=KEYS)
def test_nothing_that_was_there_is_skipped(data: st.DataObject, keys: list[str], later: list[str]) -> None:
    """Threads read in any order, some of what they read is lost with the process, and objects come and go meanwhile."""
    there, scrub_pass, read = set(keys), BEGUN, set[str]()
    for _ in range(3):
        remaining = scrub_pass.remaining(there | set(later))
        front = ReadFront(remaining, scrub_pass.position)
        for key in data.draw(st.permutations(remaining))[: data.draw(st.integers(0, len(remaining)))]:
            read.add(key)
            front.add(key)
        assert all(key in read for key in there if key <= front.position)
        scrub_pass = replace(scrub_pass, position=front.position)
        later = data.draw(KEYS)
    assert there <= read | set(scrub_pass.remaining(there))


def test_what_was_damaged_is_read_again() -> None:
    found = replace(BEGUN, position="c", damaged={"a": False, "b": True})
    assert found.remaining(["d", "c", "b", "a"]) == ["a", "d"]
    assert found.remaining(["d", "c", "b", "a"], always=["c"]) == ["a", "c", "d"]


@pytest.mark.parametrize(
    ("begun", "percent", "seed", "hours", "resumes"),
    [
        (BEGUN, 100.0, 8, 0, True),
        (BEGUN, 10.0, 7, 0, False),
        (replace(BEGUN, percent=10.0), 10.0, 8, 0, False),
        (replace(BEGUN, percent=10.0), 10.0, 7, 0, True),
        (replace(BEGUN, percent=10.0), 10.0, None, 0, True),
        (BEGUN, 100.0, None, 25, False),
        (replace(BEGUN, runner=ScrubRunner.WORKER), 100.0, None, 25, True),
    ],
)
def test_which_pass_a_request_resumes(
    begun: ScrubPass, percent: float, seed: int | None, hours: int, resumes: bool
) -> None:
    assert begun.can_resume(percent=percent, seed=seed, now=NOW + timedelta(hours=hours)) is resumes
