"""Routes compared with all trees (up to six regions) and with the arborescences of networkx."""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import product

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstore.domain.resources import Replica, Slot, SlotKey, StorageAccountType
from imgstore.domain.states import ReplicaState
from imgstore.policy.copy_plan import ready_steps
from imgstore.policy.replication_routes import (
    TIME_FACTOR,
    UNMEASURED_BYTES_PER_SECOND,
    Pair,
    Route,
    RouteCosts,
    RouteReason,
    estimate_rate,
    plan_routes,
    rank_source_regions,
    read_route_state,
    source_routes,
)
from imgstore.regions.model import Bandwidth

SOURCE = "s"


def pairs(finished: list[str], waiting: list[str]) -> list[Pair]:
    return [(parent, region) for parent in [*finished, *waiting] for region in waiting if parent != region]


@st.composite
def worlds(draw: st.DrawFn, most: int = 6) -> tuple[list[str], list[str], RouteCosts]:
    """Draw one to three finished regions and up to `most` waiting regions, with few or many different prices."""
    waiting = [f"w{number}" for number in range(draw(st.integers(1, most)))]
    finished = draw(st.sampled_from([[SOURCE], [SOURCE, "f1"], ["f1", "f2"], [SOURCE, "f1", "f2"]]))
    highest = draw(st.sampled_from([2, 9, 10**6]))
    every = pairs(finished, waiting)
    prices = draw(st.lists(st.integers(0, highest), min_size=len(every), max_size=len(every)))
    times = draw(st.lists(st.integers(0, 4), min_size=len(every), max_size=len(every)))
    return (
        finished,
        waiting,
        RouteCosts(
            price={pair: Fraction(price, 10**12) for pair, price in zip(every, prices, strict=True)},
            seconds={pair: float(each) for pair, each in zip(every, times, strict=True)},
        ),
    )


def arrival(parents: Mapping[str, str], finished: list[str], costs: RouteCosts, region: str) -> float | None:
    """Return the seconds until a region is complete, None if the parents form a cycle."""
    seconds, seen = 0.0, {region}
    while True:
        seconds += costs.seconds[parents[region], region]
        region = parents[region]
        if region in finished:
            return seconds
        if region in seen:
            return None
        seen.add(region)


def limit(finished: list[str], costs: RouteCosts, region: str) -> float:
    direct = {parent: costs.seconds[parent, region] for parent in finished}
    return TIME_FACTOR * direct.get(SOURCE, min(direct.values()))


def cheapest_by_trial(finished: list[str], waiting: list[str], costs: RouteCosts, *, in_time: bool) -> Fraction:
    """Return the lowest price of all trees."""
    sums = []
    for chosen in product(*([parent for parent in [*finished, *waiting] if parent != each] for each in waiting)):
        parents = dict(zip(waiting, chosen, strict=True))
        arrivals = {each: arrival(parents, finished, costs, each) for each in waiting}
        if all(
            found is not None and (not in_time or found <= limit(finished, costs, each))
            for each, found in arrivals.items()
        ):
            sums.append(total(costs, parents))
    return min(sums)


def total(costs: RouteCosts, parents: Mapping[str, str]) -> Fraction:
    return sum((costs.price[parent, region] for region, parent in parents.items()), Fraction(0))


def parents_of(routes: Mapping[str, Route]) -> dict[str, str]:
    return {region: route.parent for region, route in routes.items()}


def check_tree(routes: Mapping[str, Route], finished: list[str], waiting: list[str], costs: RouteCosts) -> None:
    """Check that each region has one parent, and keeps the time rule."""
    assert list(routes) == sorted(waiting)
    for region, route in routes.items():
        assert route.price == costs.price[route.parent, region]
        found = arrival(parents_of(routes), finished, costs, region)
        assert found == pytest.approx(route.seconds)
        # Invariant R19.
        assert found is not None
        assert found <= limit(finished, costs, region) + 1e-6


def plan(finished: list[str], waiting: list[str], costs: RouteCosts, **kept: str) -> dict[str, Route]:
    return plan_routes(finished=finished, waiting=waiting, source_region=SOURCE, costs=costs, kept=kept)


def without_times(costs: RouteCosts) -> RouteCosts:
    return RouteCosts(price=costs.price, seconds=dict.fromkeys(costs.seconds, 0.0))


@settings(max_examples=40, deadline=None)
@given(worlds(most=4))
def test_price_equals_the_lowest_price_of_all_trees(world: tuple[list[str], list[str], RouteCosts]) -> None:
    finished, waiting, costs = world
    for each, in_time in ((without_times(costs), False), (costs, True)):
        routes = plan(finished, waiting, each)
        check_tree(routes, finished, waiting, each)
        assert total(each, parents_of(routes)) == cheapest_by_trial(finished, waiting, each, in_time=in_time)
        assert routes == plan(finished[::-1], waiting[::-1], each)


@settings(max_examples=3, deadline=None)
@given(worlds(most=6))
def test_six_regions_equal_all_trees(world: tuple[list[str], list[str], RouteCosts]) -> None:
    finished, waiting, costs = world
    routes = plan(finished, waiting, costs)
    assert total(costs, parents_of(routes)) == cheapest_by_trial(finished, waiting, costs, in_time=True)


@settings(max_examples=30, deadline=None)
@given(worlds(most=14))
def test_price_equals_the_arborescence_of_networkx(world: tuple[list[str], list[str], RouteCosts]) -> None:
    finished, waiting, costs = world
    graph = nx.DiGraph()
    for region in waiting:
        graph.add_edge("", region, weight=min(int(costs.price[each, region] * 10**12) for each in finished))
        for parent in waiting:
            if parent != region:
                graph.add_edge(parent, region, weight=int(costs.price[parent, region] * 10**12))
    lowest = sum(data["weight"] for _, _, data in nx.minimum_spanning_arborescence(graph).edges(data=True))
    routes = plan(finished, waiting, without_times(costs))
    assert total(costs, parents_of(routes)) * 10**12 == lowest
    timed = plan(finished, waiting, costs)
    check_tree(timed, finished, waiting, costs)
    direct = {each: cheapest_direct(finished, costs, each) for each in waiting}
    assert lowest <= total(costs, parents_of(timed)) * 10**12 <= total(costs, direct) * 10**12


def cheapest_direct(finished: list[str], costs: RouteCosts, region: str) -> str:
    in_time = [each for each in finished if costs.seconds[each, region] <= limit(finished, costs, region)]
    return min(in_time, key=lambda each: costs.price[each, region])


def flat(waiting: list[str], default: str, cheap: Mapping[Pair, str]) -> RouteCosts:
    every = pairs([SOURCE], waiting)
    price = {pair: Fraction(cheap.get(pair, default)) for pair in every}
    return RouteCosts(price=price, seconds=dict.fromkeys(every, 1.0))


def test_detour_is_taken_for_a_lower_price_and_for_two_copies_at_most() -> None:
    costs = flat(["a", "b", "c"], "5", {(SOURCE, "a"): "2", ("a", "b"): "1", ("b", "c"): "1", ("a", "c"): "3"})
    routes = plan([SOURCE], ["a", "b", "c"], costs)
    assert parents_of(routes) == {"a": SOURCE, "b": "a", "c": "a"}
    assert [routes[each].reason for each in "abc"] == [RouteReason.DIRECT, RouteReason.CHEAPER, RouteReason.TIME]
    assert [routes[each].seconds for each in "abc"] == [1, 2, 2]
    assert parents_of(plan([SOURCE], ["a", "b", "c"], without_times(costs)))["c"] == "b"
    others = source_routes(finished=[SOURCE], waiting=["a", "b", "c"], source_region=SOURCE, costs=costs)
    assert parents_of(others) == dict.fromkeys("abc", SOURCE)
    assert sum(each.price for each in others.values()) == 12


def test_equal_prices_prefer_direct_copies_from_the_source() -> None:
    assert set(parents_of(plan([SOURCE], ["a", "b"], flat(["a", "b"], "1", {}))).values()) == {SOURCE}


def test_kept_parents_stay() -> None:
    costs = flat(["a", "b"], "5", {(SOURCE, "a"): "1"})
    routes = plan([SOURCE], ["a", "b"], costs, a="b")
    assert parents_of(routes) == {"a": "b", "b": SOURCE}
    assert routes["a"].reason is RouteReason.KEPT


def replica(region: str, state: ReplicaState = ReplicaState.PENDING, parent: str | None = None) -> Replica:
    key = SlotKey(pool_uid="pool", region=region, storage_account_type=StorageAccountType.STANDARD_LRS, ordinal=0)
    slot = Slot(uid=f"slot-{region}", key=key, zone="1", bucket="bucket")
    return Replica(uid=region, version_uid="version", slot=slot, state=state, parent_region=parent)


def test_parents_are_kept_until_they_fail_or_disappear() -> None:
    done = replica(SOURCE, ReplicaState.COMPLETED)
    parent, child = replica("a", ReplicaState.REPLICATING, SOURCE), replica("b", parent="a")
    state = read_route_state([done, parent, child], failed=())
    assert (set(state.finished), set(state.waiting)) == ({SOURCE}, {"a", "b"})
    assert state.kept == {"a": SOURCE, "b": "a"}
    assert not state.needs_plan
    for lost in (
        read_route_state([done, replica("a", ReplicaState.FAILED, SOURCE), child], failed={"a"}),
        read_route_state([done, replica("a", ReplicaState.DELETING, SOURCE), child], failed=()),
        read_route_state([done, child], failed=()),
    ):
        assert set(lost.waiting) == {"b"}
        assert lost.kept == {}
        assert lost.needs_plan
    silent = [done, replica("a", ReplicaState.COMPLETED), child]
    assert read_route_state(silent, failed=(), avoided={"slot-a"}).kept == {}
    assert read_route_state(silent, failed=(), avoided={"slot-a", f"slot-{SOURCE}"}).kept == {"b": "a"}


def test_recorded_cycle_after_a_loss_is_broken() -> None:
    done, first, second = replica(SOURCE, ReplicaState.COMPLETED), replica("a", parent="b"), replica("b", parent="a")
    assert read_route_state([done, first, second], failed=()).kept == {"a": "b"}


def test_rates_are_measured_or_limited_or_equal() -> None:
    limits = Bandwidth(pairs={("a", "b"): 10})
    assert estimate_rate("a", "b", {}, limits) == 10
    assert estimate_rate("a", "b", {("a", "b"): 4.0}, limits) == 4
    assert estimate_rate("a", "b", {("a", "b"): 40.0}, limits) == 10
    assert estimate_rate("b", "a", {("a", "b"): 4.0, ("a", "c"): 6.0}, limits) == 5
    assert estimate_rate("b", "a", {}, limits) == UNMEASURED_BYTES_PER_SECOND


@settings(max_examples=40, deadline=None)
@given(worlds(most=5), st.data())
def test_every_replica_completes_in_any_order_of_failures_and_losses(
    world: tuple[list[str], list[str], RouteCosts], data: st.DataObject
) -> None:
    """Simulate a version to the end: no replica waits for ever, and each copy begins at a finished region."""
    finished, waiting, _ = world
    every = pairs([], [*finished, *waiting])
    costs = RouteCosts(
        price={pair: Fraction(data.draw(st.integers(0, 3))) for pair in every},
        seconds={pair: float(data.draw(st.integers(0, 3))) for pair in every},
    )
    rows = {each: replica(each, ReplicaState.COMPLETED) for each in finished} | {
        each: replica(each) for each in waiting
    }
    broken = data.draw(st.sets(st.sampled_from(waiting)), label="broken")
    losses = data.draw(st.integers(0, 2), label="losses")
    busy: set[str] = set()
    failed: set[str] = set()
    while True:
        state = read_route_state(list(rows.values()), failed=failed)
        parents = dict(state.kept)
        if state.needs_plan:
            routes = plan_routes(
                finished=state.finished, waiting=state.waiting, source_region=SOURCE, costs=costs, kept=state.kept
            )
            parents = parents_of(routes)
        steps = ready_steps(list(rows.values()), source_region=SOURCE, busy=busy, failed=failed, parents=parents)
        for step in steps:
            region = step.replica.uid
            assert step.sources[0].slot.key.region == parents[region]
            assert parents[region] in state.finished
            rows[region] = replace(rows[region], state=ReplicaState.REPLICATING, parent_region=parents[region])
            busy.add(region)
        for region, parent in parents.items():
            if rows[region].state is ReplicaState.PENDING:
                rows[region] = replace(rows[region], parent_region=parent)
        if not busy:
            break
        complete = [each for each in rows.values() if each.state is ReplicaState.COMPLETED]
        if losses and len(complete) > 1 and data.draw(st.booleans(), label="lose"):
            losses -= 1
            lost = data.draw(st.sampled_from(sorted(each.uid for each in complete)), label="lost")
            rows[lost] = replace(rows[lost], state=ReplicaState.DEGRADED)
            continue
        region = data.draw(st.sampled_from(sorted(busy)), label="done")
        busy.remove(region)
        if region in broken:
            failed.add(region)
        ended = ReplicaState.FAILED if region in broken else ReplicaState.COMPLETED
        rows[region] = replace(rows[region], state=ended)
    assert {each.uid for each in rows.values() if each.state is not ReplicaState.COMPLETED} == broken


def test_sources_of_one_copy_are_ranked_by_price_then_time_then_name() -> None:
    # Invariant M32.
    measured = {"d": (1, 9.0), "c": (2, 1.0), "b": (2, 3.0), "a": (2, 3.0)}
    costs = RouteCosts(
        price={(source, "t"): Fraction(price) for source, (price, _) in measured.items()},
        seconds={(source, "t"): seconds for source, (_, seconds) in measured.items()},
    )
    assert rank_source_regions(costs, measured, "t") == ["d", "c", "a", "b"]
