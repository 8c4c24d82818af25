"""Whether an installation can do its work now, in words that anybody may read: no names, no addresses, no errors."""

from dataclasses import dataclass
from enum import StrEnum

from imgstore.domain.errors import StoreError
from imgstore.operations.installation import Installation


class CheckResult(StrEnum):
    """How one part is."""

    OK = "ok"
    DEGRADED = "degraded"
    """Some of it does not work, and the rest does."""
    FAILED = "failed"
    MISSING = "missing"
    """There is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """The checks of one moment."""

    database: CheckResult
    """Whether the catalog answers."""
    stores: CheckResult
    """Degraded where a zone does not answer; Failed where no region has a store that does."""
    free_space: CheckResult
    """Failed where the data home has no more free space than its reserve."""
    worker: CheckResult
    """Missing where nobody copies replicas: whatever was asked for waits."""

    @property
    def ready(self) -> bool:
        """Whether requests can be served. Without a worker they can; with one region of several, too."""
        return CheckResult.FAILED not in {self.database, self.stores, self.free_space}


def check_readiness(installation: Installation) -> Readiness:
    """Look at every part. Zones that were not heard of lately are probed, for two seconds at most."""
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
