"""States of replicas, versions and works, and the permitted transitions. DESIGN.md has the same table.

======================  ==========================  ===================================================
from                    to                          changed by
======================  ==========================  ===================================================
(none)                  Pending                     create_version, or a change of target regions
Pending                 Replicating                 the process that leases the work of the replica
Replicating             Completed                   the same process, in the completing transaction
Replicating             Failed                      the same process, with the text of the error
Replicating             Replicating                 the process that takes the work over
Replicating             Degraded                    the same process, if the replica was Completed before
Failed                  Replicating                 a repeated command, or a worker
Completed               Degraded                    any process that finds a missing or wrong segment
Degraded                Replicating                 repair
any but Deleting        Deleting                    delete, or a change of target regions
======================  ==========================  ===================================================
"""

from enum import StrEnum
from typing import Final


class ReplicaState(StrEnum):
    """The state of a replica: a version in a slot."""

    PENDING = "Pending"
    """The replica is desired, and no process has started yet."""
    REPLICATING = "Replicating"
    """The replica has an open work. No operation may read the replica."""
    COMPLETED = "Completed"
    """The slot contains the manifests, and all segments are confirmed. Only this state permits reading."""
    FAILED = "Failed"
    """The last attempt failed, and `error` contains the reason. A retry does not send stored segments again."""
    DEGRADED = "Degraded"
    """The replica was Completed, and a segment is missing or wrong.

    A Degraded replica serves no disk, base or copy until the repair (invariant W15).
    """
    DELETING = "Deleting"
    """The replica is invisible and gets no new pins. The manifests stay until the last pin ends (invariant W8)."""


class ProvisioningState(StrEnum):
    """The provisioning states of Azure that imgstore uses."""

    CREATING = "Creating"
    UPDATING = "Updating"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    DELETING = "Deleting"


class WorkState(StrEnum):
    """The state of a work (invariants W1, W2 and W3)."""

    OPEN = "Open"
    """Crashes do not close a work. The same command resumes the work."""
    COMPLETED = "Completed"
    ABANDONED = "Abandoned"


REPLICA_TRANSITIONS: Final[dict[ReplicaState, frozenset[ReplicaState]]] = {
    ReplicaState.PENDING: frozenset({ReplicaState.REPLICATING, ReplicaState.DELETING}),
    ReplicaState.REPLICATING: frozenset(
        {
            ReplicaState.REPLICATING,
            ReplicaState.COMPLETED,
            ReplicaState.FAILED,
            ReplicaState.DEGRADED,
            ReplicaState.DELETING,
        }
    ),
    ReplicaState.COMPLETED: frozenset({ReplicaState.DEGRADED, ReplicaState.DELETING}),
    ReplicaState.FAILED: frozenset({ReplicaState.REPLICATING, ReplicaState.DELETING}),
    ReplicaState.DEGRADED: frozenset({ReplicaState.REPLICATING, ReplicaState.DELETING}),
    ReplicaState.DELETING: frozenset(),
}

RESTORABLE_STATES: Final = (ReplicaState.DEGRADED, ReplicaState.REPLICATING, ReplicaState.FAILED)
"""The states in which a formerly Completed replica can be restored from stored bytes.

Replicating counts if no process has the lease. Earlier releases wrote Failed for such replicas.
"""


def is_allowed_transition(before: ReplicaState, after: ReplicaState) -> bool:
    """Return whether `REPLICA_TRANSITIONS` contains this transition."""
    return after in REPLICA_TRANSITIONS[before]


def derive_provisioning_state(replicas: list[ReplicaState], *, creating: bool) -> ProvisioningState:
    """Derive the state of a version from the states of the replicas (invariant R8).

    The state is Creating or Updating until each replica is Completed or Failed. Then the state is Succeeded if all
    replicas are Completed, else Failed. Replicas in state Deleting do not count.
    """
    remaining = [state for state in replicas if state is not ReplicaState.DELETING]
    if any(state in (ReplicaState.PENDING, ReplicaState.REPLICATING) for state in remaining):
        return ProvisioningState.CREATING if creating else ProvisioningState.UPDATING
    if all(state is ReplicaState.COMPLETED for state in remaining):
        return ProvisioningState.SUCCEEDED
    return ProvisioningState.FAILED
