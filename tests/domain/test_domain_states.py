"""The table of states: as written in its module for people, as code obeys it."""

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


def written_moves() -> set[tuple[ReplicaState, ReplicaState]]:
    """The rows of the module's table, read from its docstring."""
    moves: set[tuple[ReplicaState, ReplicaState]] = set()
    table = (states.__doc__ or "").split("=====\n")[2].split("\n===")[0]
    for row in table.splitlines():
        before, after, by = re.split(r" {2,}", row.strip())
        assert by, "every move says who makes it"
        if before == "any but Deleting":
            moves |= {(each, ReplicaState(after)) for each in ReplicaState if each is not X}
        elif before != "(none)":
            moves.add((ReplicaState(before), ReplicaState(after)))
    return moves


def test_the_code_obeys_the_written_table() -> None:
    assert {
        (before, after) for before in ReplicaState for after in ReplicaState if is_allowed_transition(before, after)
    } == (written_moves())


def test_every_state_has_a_row_and_an_explanation() -> None:
    assert set(REPLICA_TRANSITIONS) == set(ReplicaState)


def test_nothing_becomes_complete_but_from_replicating() -> None:
    assert [before for before in ReplicaState if is_allowed_transition(before, C)] == [R]


def test_deleting_is_the_end() -> None:
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
def test_a_version_stands_as_its_replicas_do(
    replicas: list[ReplicaState], creating: bool, expected: ProvisioningState
) -> None:
    assert derive_provisioning_state(replicas, creating=creating) is expected
