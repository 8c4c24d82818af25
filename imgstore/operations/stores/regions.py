"""Regions: listed, looked at, and their buckets made."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from imgstore.domain.errors import InvalidInput
from imgstore.domain.identity.access import Action, Principal, authorize
from imgstore.domain.storage.circuits import ZoneHealth
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation
from imgstore.regions import Consent, Region, ZoneReport


def list_regions(installation: Installation, principal: Principal) -> list[Region]:
    """The regions of the installation, in the order of regions.yaml."""
    authorize(principal, Action.READ, f"/subscriptions/{installation.subscription}")
    return list(installation.regions.regions.values())


def check_regions(installation: Installation, principal: Principal, *, names: Sequence[str] = ()) -> list[ZoneReport]:
    """Look at every zone of the named regions, or of all: reachable, bucket there, whose it is. Changes nothing."""
    authorize(principal, Action.READ, "/")
    chosen = _choose_regions(installation, names)
    with ThreadPoolExecutor(len(chosen)) as pool:  # so that regions that do not answer are waited for together
        return [report for reports in pool.map(installation.locator.check, chosen) for report in reports]


def list_circuits(installation: Installation, principal: Principal) -> dict[tuple[str, str], list[ZoneHealth]]:
    """What each observer saw last of the zones that ever failed, by region and zone."""
    authorize(principal, Action.READ, "/")
    found: defaultdict[tuple[str, str], list[ZoneHealth]] = defaultdict(list)
    with installation.catalog.reading() as transaction:
        for health in transaction.zone_health.list():
            found[health.region, health.zone].append(health)
    return dict(found)


def count_missed_objects(installation: Installation, principal: Principal) -> dict[tuple[str, str], int]:
    """Return how many objects zones are known to miss, by region and zone: counted by workers and scrub."""
    authorize(principal, Action.READ, "/")
    with installation.catalog.reading() as transaction:
        return transaction.zone_gaps.count_by_zone()


def init_regions(
    installation: Installation,
    principal: Principal,
    *,
    names: Sequence[str] = (),
    zone: str | None = None,
    replaced: bool = False,
) -> list[ZoneReport]:
    """Make the buckets of the named regions, or of all, and mark them as this installation's. May be repeated.

    Args:
        installation: where.
        principal: who.
        names: the regions; none is all.
        zone: one zone only, "REGION/ZONE", or the zone's name where one region is named. Its marks are mended.
        replaced: the store of that zone was replaced: what lay in the former one alone counts as lost.

    Raises:
        InvalidInput: no such region or zone, or `replaced` without a zone.
    """
    if zone is None and replaced:
        raise _zone_missing_error()
    chosen: list[tuple[Region, Sequence[str] | None]]
    if zone is None:
        chosen = [(region, None) for region in _choose_regions(installation, names)]
    else:
        region, name = _choose_zone(installation, names, zone)
        chosen = [(region, (name,))]
    about = "" if zone is None else f"zone {zone}{', replaced' if replaced else ''}"
    consent = Consent.NONE if zone is None else Consent.REPLACED if replaced else Consent.REPAIR
    with record_activity(installation, principal, Action.ADMINISTER, "/", "imgstore/regions/init", about=about):
        return [
            report
            for region, zones in chosen
            for report in installation.locator.init(region, zones=zones, consent=consent)
        ]


def _choose_zone(installation: Installation, names: Sequence[str], zone: str) -> tuple[Region, str]:
    above, slash, name = zone.rpartition("/")
    if bool(slash) == bool(names) or len(names) > 1:
        raise InvalidInput(
            f"The zone '{zone}' is not named clearly.",
            found=f"--zone {zone} {' '.join(names)}".rstrip(),
            expected="REGION/ZONE, or one region and the name of its zone",
            hint="for example: imgstore regions init --zone westus2/1",
            target="zone",
        )
    region = installation.regions.get(above or names[0], target="region")
    known = [each.name for each in region.zones]
    if name not in known:
        raise InvalidInput(
            f"The zone '{name}' of {region.name} is not known.",
            found=repr(name),
            expected=f"one of {', '.join(known)}",
            hint="`imgstore regions check` shows the zones of each region",
            target="zone",
        )
    return region, name


def _zone_missing_error() -> InvalidInput:
    return InvalidInput(
        "Which zone was replaced?",
        found="--replaced without --zone",
        expected="the one zone whose store was replaced",
        hint="for example: imgstore regions init --zone westus2/1 --replaced",
        target="zone",
    )


def _choose_regions(installation: Installation, names: Sequence[str]) -> list[Region]:
    if not names:
        return list(installation.regions.regions.values())
    return [installation.regions.get(name, target="region") for name in names]
