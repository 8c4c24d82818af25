"""Advice on replicas: one replica for each group of machines, rounded up."""

from hypothesis import given
from hypothesis import strategies as st

from imgstore.policy.replica_advice import advise_replica_count, scaling_advice


@given(st.integers(1, 10_000), st.integers(1, 1_000))
def test_smallest_sufficient_replica_count(machines: int, each: int) -> None:
    wanted = advise_replica_count(machines, each)
    assert wanted * each >= machines > (wanted - 1) * each


def test_no_advice_while_replicas_suffice() -> None:
    for machines, replicas in ((1, 1), (20, 1), (21, 2), (40, 2), (600, 30)):
        assert scaling_advice(machines, replicas, 20, where="West US 2") is None
    assert scaling_advice(50, 1, 50, where="West US 2") is None, "Azure's current ratio"


def test_advice_names_the_sufficient_count() -> None:
    assert scaling_advice(21, 1, 20, where="West US 2") == (
        "21 disks within a minute from 1 replica in West US 2: 2 replicas are advised, one for each 20 "
        "disks (machines_per_replica)"
    )
    assert "601 disks within a minute from 30 replicas" in (scaling_advice(601, 30, 20, where="x") or "")
