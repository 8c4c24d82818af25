"""Batches of a rolling update: sizes, order, failures, and resumed updates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.errors import InvalidInput
from imgstore.domain.rolling_updates import DEFAULT_BATCH_SIZE, BatchSize, InstanceStep, StepState, UpdateStatus
from imgstore.policy.rolling import next_batch, plan_steps, progress_of, status_of

_SIZES = st.one_of(
    st.builds(lambda number: BatchSize(number=number), st.integers(1, 1000)),
    st.builds(lambda percent: BatchSize(percent=percent), st.integers(1, 100)),
)
_STEPS = st.lists(
    st.builds(InstanceStep, instance_id=st.integers(0, 999), state=st.sampled_from(StepState)),
    unique_by=lambda each: each.instance_id,
    max_size=60,
)


@pytest.mark.parametrize(
    ("word", "instances", "count", "percent"),
    [
        ("1", 10, 1, 10), ("3", 10, 3, 30), ("30", 10, 10, 100), ("20%", 10, 2, 20), ("20%", 4, 1, 20),
        ("100%", 7, 7, 100), ("1%", 1000, 10, 1), ("007", 1000, 7, 1), ("5", 0, 1, 100), ("50%", 0, 1, 50),
    ],
)  # fmt: skip
def test_batch_sizes(word: str, instances: int, count: int, percent: int) -> None:
    size = BatchSize.parse(word)
    assert (size.count(instances), size.percent_of(instances)) == (count, percent)
    assert BatchSize.parse(str(size)) == size


@pytest.mark.parametrize("word", ["", "0", "0%", "101%", "1001", "-1", "2.5", "20 %", "%", "five", "1%%", "٣"])
def test_invalid_batch_sizes(word: str) -> None:
    with pytest.raises(InvalidInput, match="The batch size is invalid"):
        BatchSize.parse(word)


def test_the_default_is_a_fifth_of_the_set() -> None:
    assert DEFAULT_BATCH_SIZE.count(100) == 20


def test_interrupted_steps_come_first() -> None:
    steps = [
        InstanceStep(instance_id=5, state=StepState.IN_PROGRESS),
        InstanceStep(instance_id=1),
        InstanceStep(instance_id=0, state=StepState.SUCCEEDED),
        InstanceStep(instance_id=10),
        InstanceStep(instance_id=2),
    ]
    assert next_batch(steps, BatchSize(number=3)) == (5, 1, 2)


def test_a_failure_ends_the_update() -> None:
    steps = [InstanceStep(instance_id=0, state=StepState.FAILED, reason="no answer"), InstanceStep(instance_id=1)]
    assert next_batch(steps, BatchSize(number=1)) == ()
    assert status_of(steps, continues_on_failure=False) is UpdateStatus.FAULTED
    assert next_batch(steps, BatchSize(number=1), continues_on_failure=True) == (1,)
    assert status_of(steps, continues_on_failure=True) is UpdateStatus.ROLLING_FORWARD


def test_a_repeated_update_tries_failed_steps_again() -> None:
    steps = [
        InstanceStep(instance_id=0, state=StepState.SUCCEEDED),
        InstanceStep(instance_id=1, state=StepState.FAILED, reason="no answer"),
        InstanceStep(instance_id=2, state=StepState.IN_PROGRESS),
        InstanceStep(instance_id=3),
    ]
    assert plan_steps([0, 1, 2, 9], steps) == [
        InstanceStep(instance_id=0, state=StepState.SUCCEEDED),
        InstanceStep(instance_id=1),
        InstanceStep(instance_id=2, state=StepState.IN_PROGRESS),
        InstanceStep(instance_id=9),
    ]


@pytest.mark.parametrize(
    ("states", "is_cancelled", "status"),
    [
        ([], False, UpdateStatus.COMPLETED),
        ([StepState.SUCCEEDED], True, UpdateStatus.COMPLETED),
        ([StepState.SUCCEEDED, StepState.PENDING], True, UpdateStatus.CANCELLED),
        ([StepState.SUCCEEDED, StepState.PENDING], False, UpdateStatus.ROLLING_FORWARD),
        ([StepState.IN_PROGRESS], False, UpdateStatus.ROLLING_FORWARD),
        ([StepState.FAILED, StepState.SUCCEEDED], False, UpdateStatus.FAULTED),
    ],
)
def test_status_of_an_update(states: list[StepState], is_cancelled: bool, status: UpdateStatus) -> None:
    steps = [InstanceStep(instance_id=number, state=state) for number, state in enumerate(states)]
    assert status_of(steps, continues_on_failure=True, is_cancelled=is_cancelled) is status


@given(_STEPS, _SIZES, st.randoms(use_true_random=False), st.booleans())
def test_each_update_ends_with_every_step_done_once(
    steps: list[InstanceStep],
    size: BatchSize,
    chance: object,
    continues: bool,
) -> None:
    """Perform the batches, with random failures. No batch exceeds the size, and no finished step is done again."""
    rows = {each.instance_id: each for each in steps}
    while batch := next_batch(rows.values(), size, continues_on_failure=continues):
        assert len(batch) <= size.count(len(rows))
        assert len(set(batch)) == len(batch)
        for each in batch:
            assert rows[each].state in (StepState.PENDING, StepState.IN_PROGRESS)
            failed = chance.random() < 0.1  # type: ignore[attr-defined]
            rows[each] = InstanceStep(instance_id=each, state=StepState.FAILED if failed else StepState.SUCCEEDED)
    counts = progress_of(rows.values())
    status = UpdateStatus.FAULTED if counts.failed else UpdateStatus.COMPLETED
    assert status_of(list(rows.values()), continues_on_failure=continues) is status
    if continues or not counts.failed:
        assert counts.in_progress == counts.pending == 0
    assert counts.succeeded + counts.failed + counts.in_progress + counts.pending == len(rows)
