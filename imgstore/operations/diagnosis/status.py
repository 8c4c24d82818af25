"""Read the state of all galleries, replicas, zones and workers at once, from the catalog and the home alone."""

from typing import Final

from imgstore.domain.identity.access import INSTALLATION, Action, Principal, authorize
from imgstore.domain.status import InstallationStatus
from imgstore.operations.diagnosis.catalog_facts import read_catalog_facts
from imgstore.operations.diagnosis.home_facts import read_home_facts
from imgstore.operations.installation import Installation
from imgstore.policy.diagnosis import judge_catalog, judge_home
from imgstore.policy.replica_status import judge_replicas
from imgstore.policy.zone_status import join_circuits

REPLICAS_MAX: Final = 50
"""The default limit of listed replicas."""


def read_status(
    installation: Installation, principal: Principal, *, replicas_max: int = REPLICAS_MAX
) -> InstallationStatus:
    """Return the state of the installation. No store is asked, so a dead store does not delay the answer.

    Args:
        installation: the installation.
        principal: the caller, a reader of the installation.
        replicas_max: the maximum number of listed replicas.

    Raises:
        AccessDenied: the principal may not read the installation.
        StoreError: the database does not answer.
    """
    authorize(principal, Action.READ, INSTALLATION)
    with installation.catalog.discarding_writes():
        facts = read_catalog_facts(installation, principal)
    with installation.catalog.reading() as transaction:
        overview, now = transaction.overview, transaction.now()
        queued, queued_since = overview.measure_queue()
        return InstallationStatus(
            now=now,
            place=installation.catalog.place,
            galleries=overview.list_galleries(),
            counts=overview.count_resources(),
            replicas=judge_replicas(overview.list_unfinished(replicas_max), now=now, living_workers=facts.living),
            unfinished=overview.count_unfinished(),
            queued=queued,
            queued_since=queued_since,
            zones=join_circuits(facts.used_zones, transaction.zone_health.list(), now),
            findings=[
                *judge_catalog(facts, installation.maintenance),
                *judge_home(read_home_facts(installation, ())),
            ],
        )
