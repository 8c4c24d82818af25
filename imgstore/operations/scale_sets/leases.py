"""Give a scale set to one process at a time (invariant L10).

Commands on one set wait for each other. Each transaction of a change compares the token of the lease, so a process that
lost its lease changes nothing more.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from imgstore.domain.errors import Conflict, LeaseLost, StoreError, WorkLeased
from imgstore.domain.scale_sets import ScaleSet, ScaleSetLease
from imgstore.domain.states import ProvisioningState
from imgstore.operations import lookup
from imgstore.operations.installation import Installation

_BEAT_SECONDS: Final = 1.0
_FIRST_LOOK_SECONDS: Final = 0.05
_LOOK_SECONDS_MAX: Final = 1.0


@contextmanager
def hold_scale_set(installation: Installation, scale_set: ScaleSet) -> Iterator[ScaleSetLease]:
    """Lease a set for the block. Wait while another process changes the set.

    Raises:
        NotFound: another process has deleted the set.
        KeyboardInterrupt: this process must end, or the operation was canceled.
    """
    with _released(installation, _wait_for_lease(installation, scale_set)) as lease:
        yield lease


@contextmanager
def hold_ready_scale_set(installation: Installation, group: str, name: str) -> Iterator[ScaleSetLease]:
    """Lease a scale set that is ready, without a wait, and renew the lease while the block runs.

    Raises:
        Conflict: the creation or the change of the capacity is not finished.
        WorkLeased: another process changes the set.
    """
    with installation.catalog.reading() as transaction:
        found = lookup.find_scale_set(transaction, installation.subscription, group, name)
    with _released(installation, _lease(installation, found)) as lease:
        with installation.catalog.transaction() as transaction:
            check_ready(transaction.scale_sets.guard(lease))
        with _renewed(installation, lease):
            yield lease


def check_ready(scale_set: ScaleSet) -> None:
    """Check that no creation and no change of the capacity is unfinished.

    Raises:
        Conflict: the set is not ready.
    """
    state = scale_set.provisioning_state
    if scale_set.former_capacity is not None or state is not ProvisioningState.SUCCEEDED:
        raise Conflict(
            f"The scale set '{scale_set.name}' is not ready.",
            found=f"provisioning state {state}",
            expected="Succeeded",
            hint="repeat the interrupted creation, scale or deletion, which resumes",
            target=scale_set.resource_id,
            code="OperationNotAllowed",
        )


def renew(installation: Installation, lease: ScaleSetLease) -> None:
    """Renew the lease.

    Raises:
        LeaseLost: another process changes the set.
    """
    installation.keeper.check_cancelled()
    with installation.catalog.transaction() as transaction:
        transaction.scale_sets.renew(lease, lease_seconds=installation.keeper.lease_seconds)


def _wait_for_lease(installation: Installation, scale_set: ScaleSet) -> ScaleSetLease:
    keeper, seconds, is_noted = installation.keeper, _FIRST_LOOK_SECONDS, False
    while True:
        try:
            return _lease(installation, scale_set)
        except WorkLeased as held:
            if not is_noted:
                is_noted = True
                installation.note(scale_set.name, f"{held.message} This command waits")
        installation.effects.wait(seconds)
        keeper.check_cancelled()
        seconds = min(2 * seconds, _LOOK_SECONDS_MAX)


def _lease(installation: Installation, scale_set: ScaleSet) -> ScaleSetLease:
    """Lease a set that no living process changes.

    Raises:
        WorkLeased: another process changes the set.
    """
    keeper = installation.keeper
    with installation.catalog.transaction() as transaction:
        holder = transaction.scale_sets.find_holder(scale_set.uid)
        return transaction.scale_sets.lease(
            scale_set.uid,
            holder=keeper.holder,
            lease_seconds=keeper.lease_seconds,
            steal_from=holder if holder is not None and keeper.is_dead(holder) else None,
        )


@contextmanager
def _released(installation: Installation, lease: ScaleSetLease) -> Iterator[ScaleSetLease]:
    """Release the lease at the end of the block."""
    try:
        yield lease
    finally:
        with suppress(LeaseLost, StoreError), installation.catalog.transaction() as transaction:
            transaction.scale_sets.release(lease)


@contextmanager
def _renewed(installation: Installation, lease: ScaleSetLease) -> Iterator[None]:
    """Renew the lease while the block runs."""
    lease_seconds, ended = installation.keeper.lease_seconds, threading.Event()

    def beat() -> None:
        waited = 0.0
        while not ended.wait(_BEAT_SECONDS):
            waited += _BEAT_SECONDS
            if waited >= lease_seconds / 3:
                with suppress(LeaseLost, StoreError), installation.catalog.transaction() as transaction:
                    transaction.scale_sets.renew(lease, lease_seconds=lease_seconds)
                waited = 0.0

    thread = threading.Thread(target=beat, name="scale-set-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
