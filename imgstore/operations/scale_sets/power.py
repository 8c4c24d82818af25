"""Start, stop and restart instances of a scale set on this host, some at a time."""

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.errors import Conflict, ErrorDetail, ImgstoreError
from imgstore.domain.identity.access import Action, Principal
from imgstore.domain.machine_runs import MachineRun
from imgstore.domain.machines import SCALE_SET, Machine
from imgstore.domain.scale_sets import ScaleSet
from imgstore.domain.states import ProvisioningState
from imgstore.operations import lookup
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation
from imgstore.operations.machines.running import (
    STOP_SECONDS,
    StartRequest,
    restart_run,
    start_run,
)
from imgstore.operations.machines.runs import find_run, stop_run

_THREADS: Final = 8


def start_instances(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    instance_ids: Collection[int] | None,
    runs_as: str | None = None,
    is_permitted: bool = False,
) -> None:
    """Start instances on this host. An instance that runs stays unchanged.

    Args:
        installation: the installation.
        principal: the caller.
        group: the name of the resource group.
        name: the name of the scale set.
        instance_ids: the instances. None: all.
        runs_as: the user for QEMU by name or number. None chooses a user.
        is_permitted: whether the right to the action on these instances was checked before.

    Raises:
        Conflict: an instance does not start. The error has a detail for each such instance.
        NotFound: a named instance does not exist.
        ToolMissing: QEMU is not installed.
    """

    def start(instance: Machine) -> None:
        run = _find_run(installation, instance)
        request = StartRequest(forwards=() if run is None else run.forwards, runs_as=runs_as)
        start_run(installation, instance, request)

    _run_all(installation, principal, Action.START, group, name, instance_ids, start, is_permitted=is_permitted)


def stop_instances(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    instance_ids: Collection[int] | None,
    deallocate: bool = False,
    shutdown_seconds: float = STOP_SECONDS,
    is_permitted: bool = False,
) -> None:
    """Stop instances of this host. A stopped instance stays unchanged. The arguments are those of `start_instances`.

    Raises:
        Conflict: an instance runs on another host. The error has a detail for each such instance.
        NotFound: a named instance does not exist.
    """
    action = Action.DEALLOCATE if deallocate else Action.POWER_OFF

    def stop(instance: Machine) -> None:
        stop_run(installation, instance, shutdown_seconds=shutdown_seconds, deallocate=deallocate)

    _run_all(installation, principal, action, group, name, instance_ids, stop, is_permitted=is_permitted)


def restart_instances(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    instance_ids: Collection[int] | None,
    is_permitted: bool = False,
) -> None:
    """Stop instances, and start them with the options of the last start. Without ids, restart the running instances.

    Raises:
        Conflict: a named instance does not run, or an instance does not start.
        NotFound: a named instance does not exist.
    """

    def restart(instance: Machine) -> None:
        run = _find_run(installation, instance)
        if instance_ids is not None or (run is not None and run.state.is_active):
            restart_run(installation, instance)

    _run_all(installation, principal, Action.RESTART, group, name, instance_ids, restart, is_permitted=is_permitted)


def select_instances(
    transaction: Transaction, scale_set: ScaleSet, instance_ids: Collection[int] | None
) -> list[Machine]:
    """Return the named instances, or all instances.

    Raises:
        NotFound: a named instance does not exist.
    """
    if instance_ids is None:
        instances = transaction.machines.list_instances(scale_set.uid)
        return [each for each in instances if each.provisioning_state is not ProvisioningState.DELETING]
    return [lookup.find_instance(transaction, scale_set, each) for each in sorted(set(instance_ids))]


def _find_run(installation: Installation, instance: Machine) -> MachineRun | None:
    with installation.catalog.reading() as transaction:
        return find_run(transaction, instance)


def _run_all(
    installation: Installation,
    principal: Principal,
    action: Action,
    group: str,
    name: str,
    instance_ids: Collection[int] | None,
    act: Callable[[Machine], None],
    *,
    is_permitted: bool,
) -> None:
    """Run an action on instances in threads, and raise all failures together."""
    scope = names.compute_id(installation.subscription, group, SCALE_SET, name)
    with record_activity(installation, principal, action, scope, is_permitted=is_permitted):
        with installation.catalog.reading() as transaction:
            scale_set = lookup.find_scale_set(transaction, installation.subscription, group, name)
            instances = select_instances(transaction, scale_set, instance_ids)

        def run(instance: Machine) -> ErrorDetail | None:
            installation.keeper.check_cancelled()
            try:
                act(instance)
            except ImgstoreError as error:
                found = f" Found: {error.found}." if error.found else ""
                return ErrorDetail(
                    code=error.error_code, target=str(instance.instance_id), message=f"{error.message}{found}"
                )
            return None

        with ThreadPoolExecutor(max_workers=_THREADS) as threads:
            failed = [each for each in threads.map(run, instances) if each is not None]
        if failed:
            error = Conflict(
                f"{len(failed)} of {len(instances)} instances of the scale set '{name}' failed.",
                found="; ".join(f"instance {each.target}: {each.message}" for each in failed),
                expected="no failed instance",
                hint="correct the cause, and run the same command again",
                target=scope,
                code="OperationNotAllowed",
            )
            error.details = tuple(failed)
            raise error
