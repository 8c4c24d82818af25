"""The readiness of an installation, without names, addresses or error texts, so that any caller may read the result."""

from dataclasses import dataclass
from enum import StrEnum

from imgstore.domain.errors import StoreError
from imgstore.operations.installation import Installation


class CheckResult(StrEnum):
    """The result of one check."""

    OK = "ok"
    DEGRADED = "degraded"
    """Some parts do not work, and the others do."""
    FAILED = "failed"
    MISSING = "missing"
    """The part does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """The results of all checks."""

    database: CheckResult
    """Whether the catalog answers."""
    stores: CheckResult
    """Degraded if a zone does not answer. Failed if no region has a zone that answers."""
    free_space: CheckResult
    """Failed if the data home has less free space than the reserve."""
    worker: CheckResult
    """Missing if no worker is alive, so that replicas and deletions wait."""

    @property
    def ready(self) -> bool:
        """Whether requests can be served. A missing worker or a failed region does not prevent this."""
        return CheckResult.FAILED not in {self.database, self.stores, self.free_space}


def check_readiness(installation: Installation) -> Readiness:
    """Check all parts. Zones without recent answers are probed, for two seconds at most."""
    return Readiness(
        database=_database(installation),
        stores=_stores(installation),
        free_space=CheckResult.OK if installation.has_free_space(0) else CheckResult.FAILED,
        worker=_worker(installation),
    )


def _database(installation: Installation) -> CheckResult:
    try:
        with installation.catalog.reading() as transaction:
            transaction.now()
    except StoreError:
        return CheckResult.FAILED
    return CheckResult.OK


def _worker(installation: Installation) -> CheckResult:
    try:
        with installation.catalog.reading() as transaction:
            alive = any(transaction.workers.is_alive(each) for each in transaction.workers.list())
    except StoreError:
        return CheckResult.FAILED
    return CheckResult.OK if alive else CheckResult.MISSING


def _stores(installation: Installation) -> CheckResult:
    down = installation.locator.find_unavailable_zones()
    regions = installation.regions.regions.values()
    if not down:
        return CheckResult.OK
    usable = [region for region in regions if any((region.name, zone.name) not in down for zone in region.zones)]
    return CheckResult.DEGRADED if usable else CheckResult.FAILED
