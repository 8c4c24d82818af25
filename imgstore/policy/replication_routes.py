"""Plan the cheapest routes of a version to its regions: a tree of copies with the lowest sum of prices (invariant R19).

A region has a parent: the region from which the first replica is copied. A copy from a finished region starts at once.
A copy from another target region waits until that region is finished. The tree is a minimum-cost arborescence, and its
root represents all finished regions. The algorithm is that of Edmonds, Chu and Liu in the dense form of Gabow, Galil,
Spencer and Tarjan (Combinatorica 6, 1986): O(n^2) for n regions. The function of networkx gives trees of the same price,
but needs up to 0.36 s of CPU time for 50 regions, and this module 0.01 s.

The time rule: no region may be complete later than twice the time of its direct copy. If the cheapest tree breaks the
rule, all trees of at most `EXACT_REGIONS_MAX` regions are compared, and larger trees are corrected step by step.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final, NamedTuple, TypeAlias

from imgstore.domain.resources import Replica
from imgstore.domain.states import ReplicaState
from imgstore.regions.model import Bandwidth

Pair: TypeAlias = tuple[str, str]
"""A source region and a target region, by key."""

EXACT_REGIONS_MAX: Final = 6
"""Up to this number of waiting regions the plan is the cheapest plan within the time rule."""
TIME_FACTOR: Final = 2
"""The maximum time of a route, in times of the direct copy."""
UNMEASURED_BYTES_PER_SECOND: Final = 50_000_000.0
"""The assumed rate of a pair without a limit, while no pair is measured. All copies then have the same rate, so the time
rule counts the copies of equal bytes: at most two, one after the other."""

_ROOT: Final = -1
_SLACK: Final = 1 + 1e-9
"""Sums of seconds are rounded."""
_SWEEPS_MAX: Final = 4


class RouteReason(StrEnum):
    """The reason for the parent of a region."""

    DIRECT = "direct"
    """No other region offers a lower price."""
    CHEAPER = "cheaper"
    """The copy from the parent is cheaper than each direct copy, and waits for the parent."""
    TIME = "time"
    """A cheaper copy would take too long."""
    KEPT = "kept"
    """An earlier plan chose the parent, and the parent is finished or will be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The way of the bytes to a region."""

    region: str
    parent: str
    """The region to copy from."""
    price: Fraction
    """Of the copy from the parent to the region."""
    seconds: float
    """The estimated time until the region is complete, from the start of the plan. Includes the copy to the parent."""
    reason: RouteReason


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteCosts:
    """The price and the time of the planned bytes, from each finished or waiting region to each waiting region."""

    price: Mapping[Pair, Fraction]
    seconds: Mapping[Pair, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteState:
    """The regions of a version, as far as routes are concerned."""

    finished: frozenset[str]
    """The regions with a complete replica whose store is not known to be silent. If all are silent: all of them."""
    waiting: frozenset[str]
    """The regions without a complete replica, and with a replica that can be made."""
    kept: Mapping[str, str]
    """The recorded parent by region, if the parent is finished or waiting."""

    @property
    def needs_plan(self) -> bool:
        """Whether a waiting region has no usable parent."""
        return not self.waiting <= self.kept.keys()


def read_route_state(
    replicas: Sequence[Replica], *, failed: Collection[str], avoided: Collection[str] = ()
) -> RouteState:
    """Read the finished regions, the waiting regions and the recorded parents from the replicas of a version.

    A parent that failed, was removed or lost its replica is not kept, so its children get another parent.

    Args:
        replicas: All replicas of the version.
        failed: The uids of replicas to leave alone, as in `ready_steps`.
        avoided: The uids of slots with a silent store.
    """
    leaving = {each.slot.uid for each in replicas if each.state is ReplicaState.DELETING}
    complete = [each for each in replicas if each.state is ReplicaState.COMPLETED]
    heard = [each for each in complete if each.slot.uid not in avoided] or complete
    done = {each.slot.key.region for each in complete}
    finished = frozenset(each.slot.key.region for each in heard)
    makeable = [
        each
        for each in replicas
        if each.state not in (ReplicaState.COMPLETED, ReplicaState.DELETING)
        and each.slot.key.region not in done
        and each.slot.uid not in leaving
        and each.uid not in failed
    ]
    waiting = frozenset(each.slot.key.region for each in makeable) if finished else frozenset()
    parents: dict[str, str] = {}
    for each in makeable:
        if each.parent_region is not None and each.parent_region in finished | waiting:
            parents.setdefault(each.slot.key.region, each.parent_region)
    return RouteState(finished=finished, waiting=waiting, kept=_without_cycles(parents))


def _without_cycles(parents: Mapping[str, str]) -> dict[str, str]:
    """Leave out regions that wait for themselves. A recorded tree has no cycle until a finished region is lost."""
    kept: dict[str, str] = {}
    for region in sorted(parents):
        above = parents[region]
        while above in kept:
            above = kept[above]
        if above != region:
            kept[region] = parents[region]
    return kept


def estimate_rate(source: str, target: str, measured: Mapping[Pair, float], bandwidth: Bandwidth) -> float:
    """Return the bytes per second between two regions.

    The measured rate of the pair counts, at most the bandwidth limit of the pair. Without a measurement the rate is the
    limit, or else the mean of all measured rates, or else `UNMEASURED_BYTES_PER_SECOND`.
    """
    limit = bandwidth.of(source, target) or math.inf
    found = measured.get((source, target))
    if found is None and limit == math.inf:
        found = sum(measured.values()) / len(measured) if measured else UNMEASURED_BYTES_PER_SECOND
    return min(limit, math.inf if found is None else found)


def plan_routes(
    *,
    finished: Collection[str],
    waiting: Collection[str],
    source_region: str,
    costs: RouteCosts,
    kept: Mapping[str, str] | None = None,
) -> dict[str, Route]:
    """Return the cheapest route of each waiting region within the time rule, by region.

    The direct way is the copy from the source region, or from the fastest finished region if the source region is not
    finished. Equal prices prefer a copy that waits for no other, then the faster copy, the source region, and the
    alphabetical order. So equal inputs give equal routes.

    Without the time rule, the sum of the prices is the lowest possible. With a broken time rule, the sum is the lowest
    possible for at most `EXACT_REGIONS_MAX` waiting regions, and never higher than the sum of the cheapest direct copies.

    Args:
        finished: The regions with the bytes, at least one.
        waiting: The regions to deliver to.
        source_region: The source region of the version.
        costs: The price and the time of each pair.
        kept: Parents that stay, finished or waiting, without cycles. The time rule was applied when they were chosen.
    """
    graph = _Graph(sorted(finished), sorted(waiting), source_region, costs, kept or {})
    unlimited = graph.find_cheapest()
    chosen = unlimited if graph.is_in_time(unlimited) else graph.find_cheapest_in_time(unlimited)
    arrivals = graph.arrivals(chosen)
    routes: dict[str, Route] = {}
    for number, region in enumerate(graph.regions):
        edge = chosen[number]
        routes[region] = Route(
            region=region,
            parent=edge.name,
            price=costs.price[edge.name, region],
            seconds=arrivals[number],
            reason=graph.reason(number, edge, unlimited[number]),
        )
    return routes


def source_routes(
    *, finished: Collection[str], waiting: Collection[str], source_region: str, costs: RouteCosts
) -> dict[str, Route]:
    """Return the routes of `replication.route = "source"`, by region, for a comparison with `plan_routes`."""
    parent = source_region if source_region in finished else min(finished)
    return {
        region: Route(
            region=region,
            parent=parent,
            price=costs.price[parent, region],
            seconds=costs.seconds[parent, region],
            reason=RouteReason.DIRECT,
        )
        for region in sorted(waiting)
    }


class _Edge(NamedTuple):
    """A copy to a region. Edges compare by price, then by the preferences of `plan_routes`."""

    weight: int
    seconds: float
    rank: tuple[bool, str]
    parent: int
    """The number of a waiting region, or `_ROOT` for a finished region."""
    name: str
    """The key of the parent."""


class _Offer(NamedTuple):
    """A copy to a node of the contracted graph: a region, or a cycle of regions."""

    weight: int
    """The weight of the edge, less the weights of the copies inside the cycle that the edge replaces."""
    edge: _Edge
    target: int
    """The number of the region that the edge leads to."""


class _Graph:
    """Regions as numbers, with the possible copies to each waiting region."""

    def __init__(
        self, finished: list[str], waiting: list[str], source: str, costs: RouteCosts, kept: Mapping[str, str]
    ) -> None:
        self.regions = waiting
        self._kept = kept
        numbers = {region: number for number, region in enumerate(waiting)}
        # Whole numbers are exact. The last digits count the copies that wait, and so prefer direct copies.
        unit = math.lcm(*(each.denominator for each in costs.price.values())) * (len(waiting) + 1)

        def edge(parent: str, region: str) -> _Edge:
            number = numbers.get(parent, _ROOT)
            weight = int(costs.price[parent, region] * unit) + (number != _ROOT)
            return _Edge(weight, costs.seconds[parent, region], (parent != source, parent), number, parent)

        self.edges: list[list[_Edge]] = []
        self.limits: list[float] = []
        for region in waiting:
            direct = [edge(parent, region) for parent in finished]
            way = [each.seconds for each in direct if each.name == source] or [min(each.seconds for each in direct)]
            self.limits.append(math.inf if region in kept else way[0] * TIME_FACTOR * _SLACK)
            indirect = [edge(parent, region) for parent in waiting if parent != region]
            possible = sorted([*_best_by_time(direct), *indirect])
            self.edges.append([edge(kept[region], region)] if region in kept else possible)

    def reason(self, number: int, edge: _Edge, unlimited: _Edge) -> RouteReason:
        """Return why a region has its parent."""
        if self.regions[number] in self._kept:
            return RouteReason.KEPT
        if edge.weight > unlimited.weight:
            return RouteReason.TIME
        return RouteReason.DIRECT if edge.parent == _ROOT else RouteReason.CHEAPER

    def arrivals(self, chosen: Sequence[_Edge]) -> list[float]:
        """Return the seconds until each region of a tree is complete."""
        seconds: dict[int, float] = {_ROOT: 0.0}
        for number in range(len(chosen)):
            above = [number]
            while above[-1] not in seconds:
                above.append(chosen[above[-1]].parent)
            for each in reversed(above[:-1]):
                seconds[each] = seconds[chosen[each].parent] + chosen[each].seconds
        return [seconds[number] for number in range(len(chosen))]

    def is_in_time(self, chosen: Sequence[_Edge]) -> bool:
        """Return whether a tree keeps the time rule."""
        return all(map(float.__le__, self.arrivals(chosen), self.limits))

    def find_cheapest(self) -> list[_Edge]:
        """Return the edge of each region in the cheapest tree, without the time rule.

        A path grows against the direction of the copies, each time by the cheapest copy to its last node. A cycle
        becomes one node, in which other copies to the cycle cost their price less the price of the copy that they replace.
        """
        size = len(self.regions)
        rows = [_cheapest_by_parent(number, edges) for number, edges in enumerate(self.edges)]
        top = list(range(size))
        members = [[number] for number in range(size)]
        children: list[list[int]] = [[] for _ in range(size)]
        chosen = [min(row.values()) for row in rows]
        done: set[int] = set()
        for start in range(size):
            path: list[int] = [] if top[start] in done else [top[start]]
            while path:
                node = path[-1]
                chosen[node] = min(rows[node].values())
                parent = chosen[node].edge.parent
                above = top[parent] if parent != _ROOT else _ROOT
                if above == _ROOT or above in done:
                    done.update(path)
                    path = []
                elif above not in path:
                    path.append(above)
                else:
                    first = path.index(above)
                    cycle = path[first:]
                    del path[first:]
                    inside = [each for node in cycle for each in members[node]]
                    merged = len(rows)
                    rows.append(_merge(cycle, set(inside), rows, chosen))
                    members.append(inside)
                    children.append(cycle)
                    chosen.append(chosen[cycle[0]])
                    for each in inside:
                        top[each] = merged
                    path.append(merged)
        return _expand(sorted(set(top)), members, children, chosen, size)

    def find_cheapest_in_time(self, unlimited: Sequence[_Edge]) -> list[_Edge]:
        """Return a cheap tree within the time rule: the cheapest tree for at most `EXACT_REGIONS_MAX` regions."""
        direct = [next(each for each in edges if each.parent == _ROOT or len(edges) == 1) for edges in self.edges]
        found = min(
            (self._improve(start) for start in (self._repair(unlimited), self._repair(direct))), key=_total_weight
        )
        return self._search(found) if len(self.regions) <= EXACT_REGIONS_MAX else found

    def _repair(self, start: Sequence[_Edge]) -> list[_Edge]:
        """Give each late region the cheapest parent that is in time.

        Each step makes regions earlier and none later, so each region changes at most once.
        """
        chosen = list(start)
        while True:
            arrivals = self.arrivals(chosen)
            late = [number for number, limit in enumerate(self.limits) if arrivals[number] > limit]
            if not late:
                return chosen
            number = min(late, key=arrivals.__getitem__)
            below = _descendants(chosen, number)
            chosen[number] = next(
                each
                for each in self.edges[number]
                if each.parent not in below and _begin(arrivals, each) + each.seconds <= self.limits[number]
            )

    def _improve(self, start: Sequence[_Edge]) -> list[_Edge]:
        """Take cheaper parents while every region stays in time."""
        chosen = list(start)
        for _ in range(_SWEEPS_MAX):
            changed = False
            for number, edges in enumerate(self.edges):
                arrivals = self.arrivals(chosen)
                below = _descendants(chosen, number)
                room = min(self.limits[each] - arrivals[each] for each in below)
                for each in edges:
                    if each.weight >= chosen[number].weight:
                        break
                    later = _begin(arrivals, each) + each.seconds - arrivals[number]
                    if each.parent not in below and later <= room:
                        chosen[number] = each
                        changed = True
                        break
            if not changed:
                break
        return chosen

    def _search(self, best: list[_Edge]) -> list[_Edge]:
        """Compare all trees that are cheaper than `best`."""
        size = len(self.regions)
        lowest = [min(each.weight for each in edges) for edges in self.edges]
        rest = [sum(lowest[number:]) for number in range(size + 1)]
        chosen: list[_Edge] = []

        def search(weight: int) -> None:
            nonlocal best
            number = len(chosen)
            if weight + rest[number] >= _total_weight(best):
                return
            if number == size:
                if _is_tree(chosen) and self.is_in_time(chosen):
                    best = list(chosen)
                return
            for each in self.edges[number]:
                chosen.append(each)
                search(weight + each.weight)
                chosen.pop()

        search(0)
        return best


def _best_by_time(edges: Iterable[_Edge]) -> list[_Edge]:
    """Return the direct copies that no other direct copy beats in both price and time, the cheapest first."""
    best: list[_Edge] = []
    for each in sorted(edges):
        if not best or each.seconds < best[-1].seconds:
            best.append(each)
    return best


def _cheapest_by_parent(number: int, edges: Sequence[_Edge]) -> dict[int, _Offer]:
    """Return the cheapest copy from each region to a region. `edges` are sorted."""
    row: dict[int, _Offer] = {}
    for each in edges:
        row.setdefault(each.parent, _Offer(each.weight, each, number))
    return row


def _merge(
    cycle: Sequence[int],
    inside: Collection[int],
    rows: Sequence[Mapping[int, _Offer]],
    chosen: Sequence[_Offer],
) -> dict[int, _Offer]:
    """Return the cheapest copy from each region outside to a node that replaces a cycle."""
    found: defaultdict[int, list[_Offer]] = defaultdict(list)
    for node in cycle:
        for parent, offer in rows[node].items():
            if parent not in inside:
                found[parent].append(offer._replace(weight=offer.weight - chosen[node].weight))
    return {parent: min(each) for parent, each in found.items()}


def _expand(
    nodes: list[int],
    members: Sequence[Collection[int]],
    children: Sequence[Sequence[int]],
    chosen: list[_Offer],
    size: int,
) -> list[_Edge]:
    """Return the edge of each region: the copy to a cycle replaces the copy inside the cycle to the same region."""
    edges: dict[int, _Edge] = {}
    while nodes:
        node = nodes.pop()
        if node < size:
            edges[node] = chosen[node].edge
        for child in children[node]:
            if chosen[node].target in members[child]:
                chosen[child] = chosen[node]
            nodes.append(child)
    return [edges[number] for number in range(size)]


def _descendants(chosen: Sequence[_Edge], number: int) -> set[int]:
    """Return a region of a tree and all regions that wait for the region."""
    below: defaultdict[int, list[int]] = defaultdict(list)
    for child, edge in enumerate(chosen):
        below[edge.parent].append(child)
    found, unseen = set[int](), [number]
    while unseen:
        found.add(unseen[-1])
        unseen.extend(below[unseen.pop()])
    return found


def _begin(arrivals: Sequence[float], edge: _Edge) -> float:
    return 0.0 if edge.parent == _ROOT else arrivals[edge.parent]


def _total_weight(chosen: Sequence[_Edge]) -> int:
    return sum(each.weight for each in chosen)


def _is_tree(chosen: Sequence[_Edge]) -> bool:
    """Return whether all regions are reached from the finished regions."""
    reached = {_ROOT}
    for number in range(len(chosen)):
        above: list[int] = []
        each = number
        while each not in reached:
            if each in above:
                return False
            above.append(each)
            each = chosen[each].parent
        reached.update(above)
    return True


def rank_source_regions(costs: RouteCosts, sources: Collection[str], target: str) -> list[str]:
    """Return the source regions of one copy: the cheapest first, then the fastest, then by name (invariant M32)."""
    return sorted(sources, key=lambda source: (costs.price[source, target], costs.seconds[source, target], source))
