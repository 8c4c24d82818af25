"""The transitions of replica states equal the table in the docstring of the module."""

import re

import pytest

from imgstore.domain import states
from imgstore.domain.states import (
    REPLICA_TRANSITIONS,
    ProvisioningState,
    ReplicaState,
    derive_provisioning_state,
    is_allowed_transition,
)

P, R, C, F, D, X = (
    ReplicaState.PENDING,
    ReplicaState.REPLICATING,
    ReplicaState.COMPLETED,
    ReplicaState.FAILED,
    ReplicaState.DEGRADED,
    ReplicaState.DELETING,
)


def documented_transitions() -> set[tuple[ReplicaState, ReplicaState]]:
    """Return the transitions in the docstring of the module."""
    moves: set[tuple[ReplicaState, ReplicaState]] = set()
    table = (states.__doc__ or "").split("=====\n")[2].split("\n===")[0]
    for row in table.splitlines():
        before, after, by = re.split(r" {2,}", row.strip())
        assert by, "each transition has a cause"
        if before == "any but Deleting":
            moves |= {(each, ReplicaState(after)) for each in ReplicaState if each is not X}
        elif before != "(none)":
            moves.add((ReplicaState(before), ReplicaState(after)))
    return moves


def test_transitions_equal_the_table_in_the_docstring() -> None:
    assert {
        (before, after) for before in ReplicaState for after in ReplicaState if is_allowed_transition(before, after)
    } == (documented_transitions())


def test_every_state_has_transitions() -> None:
    assert set(REPLICA_TRANSITIONS) == set(ReplicaState)


def test_only_replicating_becomes_completed() -> None:
    assert [before for before in ReplicaState if is_allowed_transition(before, C)] == [R]


def test_deleting_is_final() -> None:
    assert not any(is_allowed_transition(X, after) for after in ReplicaState)


@pytest.mark.parametrize(
    ("replicas", "creating", "expected"),
    [
        ([], True, ProvisioningState.SUCCEEDED),
        ([P], True, ProvisioningState.CREATING),
        ([C, R], True, ProvisioningState.CREATING),
        ([C, P], False, ProvisioningState.UPDATING),
        ([F, R], False, ProvisioningState.UPDATING),
        ([C, C], True, ProvisioningState.SUCCEEDED),
        ([C, F], True, ProvisioningState.FAILED),
        ([C, D], False, ProvisioningState.FAILED),
        ([C, X], False, ProvisioningState.SUCCEEDED),
        ([F, X], True, ProvisioningState.FAILED),
    ],
)
def test_version_state_follows_from_the_replica_states(
    replicas: list[ReplicaState], creating: bool, expected: ProvisioningState
) -> None:
    assert derive_provisioning_state(replicas, creating=creating) is expected
