"""Move the instances of a scale set to the model, batch by batch.

The row of the set has a step for each instance. A step is recorded before the work begins and after the work ended, under
the lease of the set (invariant V10). A killed command leaves the lease and the steps: the same call takes both over, and finishes interrupted
instances first. With a failed instance, no further batch begins, unless the caller continues on failures.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from imgstore.domain import names
from imgstore.domain.errors import Conflict, ErrorDetail, NotFound
from imgstore.domain.identity.access import Action, Principal
from imgstore.domain.machines import SCALE_SET, Machine
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.rolling_updates import (
    BatchSize,
    InstanceStep,
    RollingUpdate,
    StepState,
    UpdateStatus,
)
from imgstore.domain.scale_sets import ScaleSet, ScaleSetLease, UpgradeMode
from imgstore.operations import lookup
from imgstore.operations.activity_log import permit, record_activity
from imgstore.operations.installation import Installation
from imgstore.operations.machines.runs import find_run
from imgstore.operations.scale_sets.health_probes import HealthProbe
from imgstore.operations.scale_sets.power import select_instances
from imgstore.operations.scale_sets.reimage import ReimageRequest, reimage_instances
from imgstore.policy.rolling import next_batch, plan_steps, progress_of, status_of

_ALL_AT_ONCE: Final = BatchSize(percent=100)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRequest:
    """How instances get the model."""

    batch_size: BatchSize | None = None
    """None: the policy of the set, or all instances at once in the mode Automatic."""
    probe: HealthProbe | None = None
    """The condition of a healthy instance. None: an instance that started is healthy."""
    continues_on_failure: bool = False
    runs_as: str | None = None


def roll_out(
    installation: Installation,
    lease: ScaleSetLease,
    request: RolloutRequest,
    principal: Principal,
    *,
    instance_ids: Collection[int] | None = None,
    replaces_equal: bool = False,
) -> ScaleSet:
    """Give instances the model of their set.

    Args:
        installation: the installation.
        lease: the lease of the set.
        request: the batches and the probe.
        principal: the caller, who may read a managed image of the model.
        instance_ids: the instances. None: all instances without the model.
        replaces_equal: whether an instance with a disk of the model's image also gets a new disk.

    Returns:
        The set with the recorded steps. After a cancellation, steps are pending.

    Raises:
        Conflict: an instance failed. The error has a detail for each failed instance.
        NotFound: a named instance does not exist.
        LeaseLost: another process changes the set.
    """
    scale_set, update = _begin(installation, lease, request, instance_ids, replaces_equal=replaces_equal)
    task = f"scale set {scale_set.name}"
    _report(installation, task, Stage.STARTED, update)
    while not update.is_cancelled:
        batch = next_batch(update.steps, update.batch_size, continues_on_failure=update.continues_on_failure)
        if not batch:
            break
        installation.keeper.check_cancelled()
        instances, starts_again = _record_batch(installation, lease, batch)
        outcomes = reimage_instances(
            installation,
            lease,
            scale_set,
            ReimageRequest(
                instances=instances,
                starts_again=starts_again,
                replaces_equal=replaces_equal,
                probe=request.probe,
                runs_as=request.runs_as,
            ),
            principal,
        )
        scale_set, update = _record_outcomes(installation, lease, outcomes)
        _report(installation, task, Stage.MOVED, update)
        installation.note(task, f"{task}: {_describe(batch, outcomes, update)}")
        if scale_set.rolling.pause_seconds and _has_work(update):
            installation.effects.wait(scale_set.rolling.pause_seconds)
    failed = [each for each in update.steps if each.state is StepState.FAILED]
    _report(installation, task, Stage.FAILED if failed else Stage.COMPLETED, update)
    if failed:
        raise _failure(scale_set, failed)
    return scale_set


def cancel_rolling_update(installation: Installation, principal: Principal, *, group: str, name: str) -> ScaleSet:
    """Request that a rolling update begins no further batch. Updated instances keep their new disks.

    Raises:
        Conflict: no rolling update is in progress.
    """
    scope = names.compute_id(installation.subscription, group, SCALE_SET, name)
    with (
        record_activity(installation, principal, Action.CANCEL_ROLLING_UPGRADE, scope),
        installation.catalog.transaction() as transaction,
    ):
        found = lookup.find_scale_set(transaction, installation.subscription, group, name)
        held = transaction.scale_sets.get_for_update(found.uid)
        update = held.rolling_update
        if update is None or _status(update) is not UpdateStatus.ROLLING_FORWARD:
            raise Conflict(
                f"The scale set '{name}' has no rolling update in progress.",
                found="no rolling update" if update is None else f"status {_status(update)}",
                expected="a rolling update with status RollingForward",
                hint=f"`imgstore vmss rolling-upgrade get-latest -g {group} -n {name}` shows the last update",
                target=held.resource_id,
                code="OperationNotAllowed",
            )
        changed = replace(
            held, rolling_update=replace(update, is_cancelled=True, changed_at=installation.effects.now())
        )
        transaction.scale_sets.update(changed)
        return changed


def show_rolling_update(
    installation: Installation, principal: Principal, *, group: str, name: str
) -> tuple[ScaleSet, RollingUpdate]:
    """Return a scale set and its last rolling update.

    Raises:
        NotFound: the set was never updated.
    """
    scope = names.compute_id(installation.subscription, group, SCALE_SET, name)
    permit(installation, principal, Action.READ, scope)
    with installation.catalog.reading() as transaction:
        found = lookup.find_scale_set(transaction, installation.subscription, group, name)
    if found.rolling_update is None:
        raise NotFound(
            f"The scale set '{name}' was never updated.",
            found="no rolling update",
            expected="a rolling update",
            hint=f"`imgstore vmss update -g {group} -n {name} --image REFERENCE` starts an update",
            target=f"{found.resource_id}/rollingUpgrades/latest",
        )
    return found, found.rolling_update


def list_outdated(scale_set: ScaleSet, instances: Sequence[Machine]) -> list[int]:
    """Return the ids of the instances without the model."""
    return [
        each.instance_id
        for each in instances
        if each.instance_id is not None
        and (each.image_reference != scale_set.source_reference or each.size != scale_set.size)
    ]


def _begin(
    installation: Installation,
    lease: ScaleSetLease,
    request: RolloutRequest,
    instance_ids: Collection[int] | None,
    *,
    replaces_equal: bool,
) -> tuple[ScaleSet, RollingUpdate]:
    """Record the steps of a new update, or resume an interrupted update."""
    now = installation.effects.now()
    with installation.catalog.transaction() as transaction:
        scale_set = transaction.scale_sets.guard(lease)
        instances = select_instances(transaction, scale_set, None)
        there = {each.instance_id for each in instances if each.instance_id is not None}
        for each in instance_ids or ():
            if each not in there:
                lookup.find_instance(transaction, scale_set, each)
        last = scale_set.rolling_update
        same = (
            last is not None
            and _has_work_or_failure(last)
            and (last.source_reference, last.replaces_equal) == (scale_set.source_reference, replaces_equal)
        )
        recorded = [] if last is None else [_carry(each, same=same) for each in last.steps]
        # Instances that a killed command left between two disks belong to every update.
        interrupted = {each.instance_id for each in recorded if each.state is StepState.IN_PROGRESS}
        if instance_ids is not None:
            wanted = {*instance_ids, *interrupted}
        elif same:
            wanted = {*(each.instance_id for each in recorded), *list_outdated(scale_set, instances)}
        else:
            wanted = {*list_outdated(scale_set, instances), *interrupted}
        update = RollingUpdate(
            source_reference=scale_set.source_reference,
            batch_size=request.batch_size or _default_batch_size(scale_set),
            continues_on_failure=request.continues_on_failure,
            replaces_equal=replaces_equal,
            steps=tuple(plan_steps(wanted & there, recorded)),
            started_at=last.started_at if same and last is not None else now,
            changed_at=now,
        )
        changed = replace(scale_set, rolling_update=update)
        transaction.scale_sets.update(changed)
        return changed, update


def _carry(step: InstanceStep, *, same: bool) -> InstanceStep:
    """Return the step of an earlier update for the present update."""
    return step if same or step.state is not StepState.SUCCEEDED else InstanceStep(instance_id=step.instance_id)


def _default_batch_size(scale_set: ScaleSet) -> BatchSize:
    if scale_set.upgrade_mode is UpgradeMode.ROLLING:
        return BatchSize(percent=scale_set.rolling.batch_percent)
    return _ALL_AT_ONCE


def _record_batch(
    installation: Installation, lease: ScaleSetLease, batch: Collection[int]
) -> tuple[list[Machine], dict[int, bool]]:
    """Record that the steps of a batch are in progress. Return the instances, and whether each starts afterwards."""
    starts: dict[int, bool] = {}
    instances: list[Machine] = []

    def change(step: InstanceStep) -> InstanceStep:
        if step.instance_id not in starts:
            return step
        return replace(step, state=StepState.IN_PROGRESS, starts_again=starts[step.instance_id])

    with installation.catalog.transaction() as transaction:
        scale_set = transaction.scale_sets.guard(lease)
        steps = {each.instance_id: each for each in _update_of(scale_set).steps}
        for instance_id in batch:
            instance = lookup.find_instance(transaction, scale_set, instance_id)
            run = find_run(transaction, instance)
            instances.append(instance)
            starts[instance_id] = steps[instance_id].starts_again or (run is not None and run.state.is_active)
        transaction.scale_sets.update(_with_steps(scale_set, change))
    return instances, starts


def _record_outcomes(
    installation: Installation, lease: ScaleSetLease, outcomes: dict[int, str | None]
) -> tuple[ScaleSet, RollingUpdate]:
    def change(step: InstanceStep) -> InstanceStep:
        if step.instance_id not in outcomes:
            return step
        reason = outcomes[step.instance_id]
        return replace(step, state=StepState.SUCCEEDED if reason is None else StepState.FAILED, reason=reason)

    with installation.catalog.transaction() as transaction:
        changed = _with_steps(transaction.scale_sets.guard(lease), change)
        transaction.scale_sets.update(changed)
    return changed, _update_of(changed)


def _with_steps(scale_set: ScaleSet, change: Callable[[InstanceStep], InstanceStep]) -> ScaleSet:
    update = _update_of(scale_set)
    return replace(scale_set, rolling_update=replace(update, steps=tuple(map(change, update.steps))))


def _update_of(scale_set: ScaleSet) -> RollingUpdate:
    assert scale_set.rolling_update is not None, "`_begin` recorded the update"
    return scale_set.rolling_update


def _status(update: RollingUpdate) -> UpdateStatus:
    return status_of(update.steps, continues_on_failure=update.continues_on_failure, is_cancelled=update.is_cancelled)


def _has_work(update: RollingUpdate) -> bool:
    counts = progress_of(update.steps)
    return counts.pending + counts.in_progress > 0


def _has_work_or_failure(update: RollingUpdate) -> bool:
    return _has_work(update) or progress_of(update.steps).failed > 0


def _report(installation: Installation, task: str, stage: Stage, update: RollingUpdate) -> None:
    """Report the progress. The bytes of the event count instances."""
    counts = progress_of(update.steps)
    done = counts.succeeded + counts.failed
    installation.subscriber(ProgressEvent(task=task, stage=stage, bytes_done=done, bytes_total=len(update.steps)))


def _describe(batch: Sequence[int], outcomes: dict[int, str | None], update: RollingUpdate) -> str:
    counts = progress_of(update.steps)
    failed = [f"instance {each} failed: {reason}" for each, reason in outcomes.items() if reason is not None]
    text = f"{counts.succeeded} of {len(update.steps)} instances updated, last {', '.join(map(str, batch))}"
    return "; ".join([text, *failed])


def _failure(scale_set: ScaleSet, failed: Sequence[InstanceStep]) -> Conflict:
    error = Conflict(
        f"Instances of the scale set '{scale_set.name}' failed: {len(failed)}.",
        found="; ".join(f"instance {each.instance_id}: {each.reason}" for each in failed),
        expected="healthy instances",
        hint="correct the cause, and run the same command again: it continues with the failed instances",
        target=scale_set.resource_id,
        code="RollingUpgradeFailed",
    )
    error.details = tuple(
        ErrorDetail(code="InstanceUpgradeFailed", target=str(each.instance_id), message=each.reason or "")
        for each in failed
    )
    return error
