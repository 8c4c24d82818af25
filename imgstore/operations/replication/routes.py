"""Choose the region that each region of a version is copied from (`replication.route`, policy/replication_routes.py).

The parents are chosen from the catalog in each round, and recorded in the transaction that leases the first copy. A
recorded parent stays while the parent is finished or can be made. So a crash loses no plan, and every process has the
same plan.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

import numpy as np

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import named_segments
from imgstore.domain.resources import Replica, Slot
from imgstore.domain.settings.replication import ReplicationRoute
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.sizes import GIGABYTE
from imgstore.ledger.forecast import RouteForecast, to_exact_decimal
from imgstore.ledger.months import Month
from imgstore.ledger.prices.price_list import Rate
from imgstore.ledger.prices.rating import rate_quantity
from imgstore.operations.billing.price_lists import current_prices
from imgstore.operations.installation import Installation
from imgstore.operations.lookup import definition_path_of
from imgstore.policy.copy_plan import CopyStep
from imgstore.policy.replication_routes import (
    Pair,
    Route,
    RouteCosts,
    RouteState,
    estimate_rate,
    plan_routes,
    rank_source_regions,
    read_route_state,
    source_routes,
)
from imgstore.policy.transfer_rates import measure_rates
from imgstore.policy.worker_queue import QueuedVersion
from imgstore.segments.fingerprint_index import Locations

_MEASURED_BYTES_MIN: Final = 4 << 20
"""Copies of fewer bytes measure the latency and not the rate."""


def choose_parents(
    installation: Installation,
    transaction: Transaction,
    *,
    source_region: str,
    replicas: Sequence[Replica],
    failed: Collection[str],
) -> Mapping[str, str] | None:
    """Return the parent of each region without a complete replica, by region. None if the route is `source`.

    Args:
        installation: the installation.
        transaction: the open transaction.
        source_region: the source region of the version.
        replicas: all replicas of the version.
        failed: the uids of replicas to leave alone.
    """
    if installation.replication.route is ReplicationRoute.SOURCE:
        return None
    state = _read_state(installation, replicas, failed)
    if not state.needs_plan:
        return state.kept
    costs = _read_costs(installation, transaction, replicas, state)
    routes = plan_routes(
        finished=state.finished, waiting=state.waiting, source_region=source_region, costs=costs.costs, kept=state.kept
    )
    return {region: route.parent for region, route in routes.items()}


def compare_routes(
    installation: Installation, transaction: Transaction, *, source_region: str, replicas: Sequence[Replica]
) -> tuple[RouteForecast, ...]:
    """Return the price and the time of each value of `replication.route`, for the regions without a complete replica.

    The time begins when the first region is complete. Without a waiting region, there is nothing to compare.
    """
    state = _read_state(installation, replicas, ())
    if not state.waiting:
        return ()
    costs = _read_costs(installation, transaction, replicas, state)
    chosen = installation.replication.route
    source = source_routes(
        finished=state.finished, waiting=state.waiting, source_region=source_region, costs=costs.costs
    )
    cheapest = plan_routes(
        finished=state.finished,
        waiting=state.waiting,
        source_region=source_region,
        costs=costs.costs,
        kept=state.kept if chosen is ReplicationRoute.CHEAPEST else {},
    )
    return tuple(
        RouteForecast(
            route=route,
            is_chosen=route is chosen,
            egress=to_exact_decimal(costs.rate_together(routes.values())),
            estimated_seconds=max(each.seconds for each in routes.values()),
            parents={region: each.parent for region, each in routes.items()},
        )
        for route, routes in ((ReplicationRoute.SOURCE, source), (ReplicationRoute.CHEAPEST, cheapest))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlannedCosts:
    """The costs of each pair, with their parts."""

    costs: RouteCosts
    rates: Mapping[Pair, Rate]
    planned_bytes: Mapping[str, int]
    """The bytes that are new in each waiting region."""
    month_bytes: Mapping[str, int]
    """The charged bytes of the subscription in this month, by meter."""

    def rate_together(self, routes: Iterable[Route]) -> Fraction:
        """Return the price of a whole plan. The copies with one meter are rated together, as in a statement."""
        moved = Counter[str]()
        rates: dict[str, Rate] = {}
        for each in routes:
            rate = self.rates[each.parent, each.region]
            rates[rate.meter] = rate
            moved[rate.meter] += self.planned_bytes[each.region]
        return sum(
            (self.rate_bytes(rates[meter], moved_bytes) for meter, moved_bytes in moved.items()), start=Fraction()
        )

    def rate_bytes(self, rate: Rate, moved_bytes: int) -> Fraction:
        """Return the price of bytes that are the next bytes of the month."""
        before = Fraction(self.month_bytes.get(rate.meter, 0), GIGABYTE)
        return rate_quantity(rate, before, Fraction(moved_bytes, GIGABYTE))


def _read_state(installation: Installation, replicas: Sequence[Replica], failed: Collection[str]) -> RouteState:
    complete = (each.slot for each in replicas if each.state is ReplicaState.COMPLETED)
    avoided = {slot.uid for slot in complete if installation.locator.is_avoided(slot)}
    return read_route_state(replicas, failed=failed, avoided=avoided)


def _read_costs(
    installation: Installation, transaction: Transaction, replicas: Sequence[Replica], state: RouteState
) -> _PlannedCosts:
    """Return the price and the estimated time of the bytes that are new in each waiting region, from each parent."""
    origin = next(each for each in replicas if each.state is ReplicaState.COMPLETED)
    parents = state.finished | state.waiting
    return _read_pair_costs(
        installation,
        transaction,
        subscription=definition_path_of(
            transaction, transaction.versions.by_uid(origin.version_uid)
        ).gallery.subscription,
        pool_uid=origin.slot.key.pool_uid,
        ids=named_segments(transaction.manifests.of_replica(origin.version_uid, origin.slot.uid)),
        pairs=[(parent, region) for region in state.waiting for parent in parents if parent != region],
    )


def _read_pair_costs(
    installation: Installation,
    transaction: Transaction,
    *,
    subscription: str,
    pool_uid: str,
    ids: Locations,
    pairs: Sequence[Pair],
) -> _PlannedCosts:
    """Return the price and the estimated time of the segments that are new in the target region of each pair.

    The price begins at the present sum of the month. Of several copies with one meter, each price begins there.
    """
    now = transaction.now()
    prices = current_prices(installation, transaction)
    timed = transaction.replicas.list_timed_transfers()
    rates = measure_rates(each for each in timed if each.moved_bytes >= _MEASURED_BYTES_MIN)
    crossings = {(key.source, key.target): rate for key, rate in rates.items() if key.source not in (None, key.target)}
    planned: dict[str, int] = {}
    for region in {region for _, region in pairs}:
        new_here = np.setdiff1d(ids, transaction.manifests.segment_ids_in_region(pool_uid, region))
        planned[region] = transaction.segments.stored_bytes(pool_uid, new_here)
    bandwidth = installation.regions.bandwidth
    found = _PlannedCosts(
        costs=RouteCosts(
            price={},
            seconds={pair: planned[pair[1]] / estimate_rate(*pair, crossings, bandwidth) for pair in pairs},
        ),
        rates={pair: prices.egress(*pair, now) for pair in pairs},
        planned_bytes=planned,
        month_bytes=transaction.ledger.meter_bytes(subscription, Month.of(now).begin),
    )
    price = {pair: found.rate_bytes(found.rates[pair], planned[pair[1]]) for pair in pairs}
    return replace(found, costs=replace(found.costs, price=price))


def rank_sources(
    installation: Installation,
    transaction: Transaction,
    *,
    subscription: str,
    slots: Sequence[Slot],
    ids: Locations,
    target: str,
) -> list[Slot]:
    """Return the slots in the order in which a copy into a region reads from them (invariant M32).

    Slots with a store that is known to be silent are last.

    Args:
        installation: the installation.
        transaction: the open transaction.
        subscription: the subscription that pays.
        slots: slots of one pool with the whole content, at least one.
        ids: the ids of the segments of the content.
        target: the region of the copy.
    """
    regions = {slot.key.region for slot in slots} - {target}
    costs = _read_pair_costs(
        installation,
        transaction,
        subscription=subscription,
        pool_uid=slots[0].key.pool_uid,
        ids=ids,
        pairs=[(region, target) for region in sorted(regions)],
    ).costs
    order = {region: place for place, region in enumerate(rank_source_regions(costs, regions, target))}
    return sorted(
        slots,
        key=lambda slot: (
            installation.locator.is_avoided(slot),
            order.get(slot.key.region, -1),  # A slot in the region of the copy costs nothing.
            slot.key.ordinal,
            slot.key.storage_account_type,
        ),
    )


def record_parents(transaction: Transaction, queued: QueuedVersion, step: CopyStep) -> None:
    """Record the parents of a plan with the lease of a step.

    The row of a begun replica names the region that the present or last copy reads from. Only the process that leases
    the replica changes the name. With the route `source` no row names a parent.
    """
    chosen = queued.parents or {}
    for each in queued.replicas:
        region = each.slot.key.region
        if each.uid == step.replica.uid:
            parent = chosen.get(region) if step.is_cross_region else None
        elif each.state is ReplicaState.PENDING and region in chosen:
            parent = chosen[region]
        else:
            continue
        if each.parent_region != parent:
            transaction.replicas.record_parent(each.uid, parent)
