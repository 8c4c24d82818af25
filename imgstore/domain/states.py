"""States, and who may move what from where to where. DESIGN.md carries the same table with its invariants.

======================  ==========================  ===================================================
from                    to                          moved by
======================  ==========================  ===================================================
(none)                  Pending                     create_version / change of target regions
Pending                 Replicating                 whoever leases the replica's work
Replicating             Completed                   the same, in the transaction that confirms and charges
Replicating             Failed                      the same, with the error's text
Replicating             Replicating                 whoever takes the work over
Replicating             Degraded                    the same, of a replica that was Completed before
Failed                  Replicating                 a repeat of the command, or reconcile
Completed               Degraded                    whoever finds a segment missing or wrong in its slot
Degraded                Replicating                 repair
any but Deleting        Deleting                    delete, or a change of target regions
======================  ==========================  ===================================================
"""

from enum import StrEnum
from typing import Final


class ReplicaState(StrEnum):
    """The state of one replica: one version in one slot."""

    PENDING = "Pending"
    """Desired; nothing was done yet."""
    REPLICATING = "Replicating"
    """A work is open on it. Nothing may be read from it."""
    COMPLETED = "Completed"
    """Manifest in the slot, every segment confirmed. The only state from which bytes are served."""
    FAILED = "Failed"
    """The last try failed; `error` says why. Segments already sent stay and are not sent again."""
    DEGRADED = "Degraded"
    """Was Completed; a segment was found missing or wrong. Not handed out, no base, no source, until repaired."""
    DELETING = "Deleting"
    """Invisible, takes no new pins; its manifest goes when the last pin has gone."""


class ProvisioningState(StrEnum):
    """Azure's provisioning states, as far as they are used here."""

    CREATING = "Creating"
    UPDATING = "Updating"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    DELETING = "Deleting"


class WorkState(StrEnum):
    """The life of a work (rules.md, rule 1)."""

    OPEN = "Open"
    """Through crashes; the same command adopts it."""
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
"""The states in which a replica that was Completed once can be restored from its own bytes.

Replicating counts where nobody is at work. Failed was written by earlier releases.
"""


def is_allowed_transition(before: ReplicaState, after: ReplicaState) -> bool:
    """Whether the table above has that row."""
    return after in REPLICA_TRANSITIONS[before]


def derive_provisioning_state(replicas: list[ReplicaState], *, creating: bool) -> ProvisioningState:
    """A version's state from those of its replicas (DESIGN.md, "Across").

    Creating or Updating until every replica is Completed or Failed; then Succeeded if all are Completed, else Failed.
    """
    standing = [state for state in replicas if state is not ReplicaState.DELETING]
    if any(state in (ReplicaState.PENDING, ReplicaState.REPLICATING) for state in standing):
        return ProvisioningState.CREATING if creating else ProvisioningState.UPDATING
    if all(state is ReplicaState.COMPLETED for state in standing):
        return ProvisioningState.SUCCEEDED
    return ProvisioningState.FAILED
