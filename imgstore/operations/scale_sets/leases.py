"""Give a scale set to one process at a time (invariant L10).

Commands on one set wait for each other. Each transaction of a change compares the token of the lease, so a process that
lost its lease changes nothing more.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from imgstore.domain.errors import LeaseLost, StoreError, WorkLeased
from imgstore.domain.scale_sets import ScaleSet, ScaleSetLease
from imgstore.operations.installation import Installation

_FIRST_LOOK_SECONDS: Final = 0.05
_LOOK_SECONDS_MAX: Final = 1.0


@contextmanager
def hold_scale_set(installation: Installation, scale_set: ScaleSet) -> Iterator[ScaleSetLease]:
    """Lease a set for the block. Wait while another process changes the set.

    Raises:
        NotFound: another process has deleted the set.
        KeyboardInterrupt: this process must end, or the operation was canceled.
    """
    lease = _wait_for_lease(installation, scale_set)
    try:
        yield lease
    finally:
        with suppress(LeaseLost, StoreError), installation.catalog.transaction() as transaction:
            transaction.scale_sets.release(lease)


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
            with installation.catalog.transaction() as transaction:
                holder = transaction.scale_sets.find_holder(scale_set.uid)
                return transaction.scale_sets.lease(
                    scale_set.uid,
                    holder=keeper.holder,
                    lease_seconds=keeper.lease_seconds,
                    steal_from=holder if holder is not None and keeper.is_dead(holder) else None,
                )
        except WorkLeased as held:
            if not is_noted:
                is_noted = True
                installation.note(scale_set.name, f"{held.message} This command waits")
        installation.effects.wait(seconds)
        keeper.check_cancelled()
        seconds = min(2 * seconds, _LOOK_SECONDS_MAX)
