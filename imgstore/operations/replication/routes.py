"""Choose the region that each region of a version is copied from (`replication.route`, policy/replication_routes.py).

The parents are chosen from the catalog in each round, and recorded in the transaction that leases the first copy. A
recorded parent stays while the parent is finished or can be made. So a crash loses no plan, and every process has the
same plan.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import Final

import numpy as np

from imgstore.catalog import Transaction
from imgstore.domain.resources import Replica
from imgstore.domain.settings.replication import ReplicationRoute
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.sizes import GIGABYTE
from imgstore.ledger.months import Month
from imgstore.ledger.rating import rate_quantity
from imgstore.operations.billing.price_lists import current_prices
from imgstore.operations.installation import Installation
from imgstore.operations.lookup import definition_path_of
from imgstore.operations.slots.attribution import named_segments
from imgstore.policy.copy_plan import CopyStep
from imgstore.policy.replication_routes import Pair, RouteCosts, estimate_rate, plan_routes, read_route_state
from imgstore.policy.worker_queue import QueuedVersion

_COPIES_MAX: Final = 200
"""The number of finished copies that the rates are measured from, the latest first."""


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
    complete = [each for each in replicas if each.state is ReplicaState.COMPLETED]
    avoided = {each.slot.uid for each in complete if installation.locator.is_avoided(each.slot)}
    state = read_route_state(replicas, failed=failed, avoided=avoided)
    if not state.needs_plan:
        return state.kept
    costs = read_route_costs(
        installation, transaction, complete[0], parents=state.finished | state.waiting, targets=state.waiting
    )
    routes = plan_routes(
        finished=state.finished, waiting=state.waiting, source_region=source_region, costs=costs, kept=state.kept
    )
    return {region: route.parent for region, route in routes.items()}


def read_route_costs(
    installation: Installation,
    transaction: Transaction,
    origin: Replica,
    *,
    parents: Collection[str],
    targets: Collection[str],
) -> RouteCosts:
    """Return the price and the estimated time of the bytes that are new in each target region, from each parent.

    The price begins at the present sum of the month. Of several copies with one meter, each price begins there.

    Args:
        installation: the installation.
        transaction: the open transaction.
        origin: a complete replica of the version.
        parents: the regions that may be copied from.
        targets: the regions to deliver to.
    """
    subscription = definition_path_of(transaction, transaction.versions.by_uid(origin.version_uid)).gallery.subscription
    now = transaction.now()
    prices = current_prices(installation, transaction)
    month_bytes = transaction.ledger.meter_bytes(subscription, Month.of(now).begin)
    pool_uid = origin.slot.key.pool_uid
    ids = named_segments(transaction.manifests.of_replica(origin.version_uid, origin.slot.uid))
    rates = measured_rates(transaction)
    price = {}
    seconds = {}
    for region in targets:
        new_here = np.setdiff1d(ids, transaction.manifests.segment_ids_in_region(pool_uid, region))
        planned_bytes = transaction.segments.stored_bytes(pool_uid, new_here)
        for parent in parents:
            if parent != region:
                rate = estimate_rate(parent, region, rates, installation.regions.bandwidth)
                tiers = prices.egress(parent, region, now)
                before = Fraction(month_bytes.get(tiers.meter, 0), GIGABYTE)
                price[parent, region] = rate_quantity(tiers, before, Fraction(planned_bytes, GIGABYTE))
                seconds[parent, region] = planned_bytes / rate
    return RouteCosts(price=price, seconds=seconds)


def measured_rates(transaction: Transaction) -> dict[Pair, float]:
    """Return the mean rate of the latest copies between two regions, in bytes per second."""
    moved: defaultdict[Pair, int] = defaultdict(int)
    spent: defaultdict[Pair, float] = defaultdict(float)
    for copy in transaction.replicas.latest_copies(_COPIES_MAX):
        moved[copy.source, copy.target] += copy.copied_bytes
        spent[copy.source, copy.target] += copy.seconds
    return {pair: moved[pair] / spent[pair] for pair in moved}


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
