"""A pass of scrub by several processes in sequence reads every object from the start of the pass."""

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
def test_no_object_from_the_start_of_a_pass_is_skipped(data: st.DataObject, keys: list[str], later: list[str]) -> None:
    """Threads read in any order, an ended process loses some of the reads, and objects arrive and leave at any time."""
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


def test_damaged_objects_are_read_again() -> None:
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
def test_request_resumes_a_matching_pass(
    begun: ScrubPass, percent: float, seed: int | None, hours: int, resumes: bool
) -> None:
    assert begun.can_resume(percent=percent, seed=seed, now=NOW + timedelta(hours=hours)) is resumes
