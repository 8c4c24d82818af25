"""Decide which instances of a scale set a rolling update moves next.

The catalog has one step for each instance. A killed command leaves steps in progress, and the next call finishes them
first. A failed step ends the update, unless the caller continues on failures. A repeated update tries failed steps again.

https://learn.microsoft.com/azure/virtual-machine-scale-sets/virtual-machine-scale-sets-upgrade-policy
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from imgstore.domain.rolling_updates import BatchSize, InstanceStep, StepState, UpdateProgress, UpdateStatus


def next_batch(
    steps: Iterable[InstanceStep], batch_size: BatchSize, *, continues_on_failure: bool = False
) -> tuple[int, ...]:
    """Return the ids of the instances to update now. Empty if the update has ended.

    Steps in progress come first, because a killed command left these instances between two images.

    Args:
        steps: The recorded steps. No process works on the steps.
        batch_size: The largest number of instances.
        continues_on_failure: Whether the update continues after a failed step.
    """
    recorded = sorted(steps, key=lambda each: each.instance_id)
    if not continues_on_failure and any(each.state is StepState.FAILED for each in recorded):
        return ()
    left = [
        each.instance_id
        for state in (StepState.IN_PROGRESS, StepState.PENDING)
        for each in recorded
        if each.state is state
    ]
    return tuple(left[: batch_size.count(len(recorded))])


def status_of(steps: Sequence[InstanceStep], *, continues_on_failure: bool, is_cancelled: bool = False) -> UpdateStatus:
    """Return the status of an update."""
    states = {each.state for each in steps}
    has_work = bool(states & {StepState.IN_PROGRESS, StepState.PENDING})
    if StepState.FAILED in states and not (continues_on_failure and has_work):
        return UpdateStatus.FAULTED
    if not has_work:
        return UpdateStatus.COMPLETED
    return UpdateStatus.CANCELLED if is_cancelled else UpdateStatus.ROLLING_FORWARD


def progress_of(steps: Iterable[InstanceStep]) -> UpdateProgress:
    """Count the steps by state."""
    states = [each.state for each in steps]
    return UpdateProgress(
        succeeded=states.count(StepState.SUCCEEDED),
        failed=states.count(StepState.FAILED),
        in_progress=states.count(StepState.IN_PROGRESS),
        pending=states.count(StepState.PENDING),
    )


def plan_steps(instance_ids: Iterable[int], recorded: Iterable[InstanceStep]) -> list[InstanceStep]:
    """Return the steps of a started or repeated update.

    Failed steps become pending again. Steps of deleted instances disappear.

    Args:
        instance_ids: The instances that do not have the image of the model yet, and the instances of the update.
        recorded: The steps of the interrupted update. Empty for a new update.
    """
    known = {each.instance_id: each for each in recorded}
    steps = (known.get(each, InstanceStep(instance_id=each)) for each in sorted(set(instance_ids)))
    return [
        replace(each, state=StepState.PENDING, reason=None) if each.state is StepState.FAILED else each
        for each in steps
    ]
