"""List and check regions, and create the buckets of regions."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from imgstore.domain.errors import InvalidInput
from imgstore.domain.identity.access import Action, Principal, authorize
from imgstore.domain.storage.circuits import ZoneHealth
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation
from imgstore.policy.bucket_policy import PolicyDocument, create_bucket_policy
from imgstore.regions import Consent, Region, Regions, ZoneReport


def list_regions(installation: Installation, principal: Principal) -> list[Region]:
    """List the regions of the installation, in the order of regions.yaml."""
    authorize(principal, Action.READ, installation.scope)
    return list(installation.regions.regions.values())


def check_regions(installation: Installation, principal: Principal, *, names: Sequence[str] = ()) -> list[ZoneReport]:
    """Check each zone of the named regions, or of all regions: access, bucket, owner, rights, locks and free space.

    Each used zone gets a small object under a key of its own, which is deleted at once.
    """
    authorize(principal, Action.READ, "/")
    chosen = choose_regions(installation.regions, names)
    with ThreadPoolExecutor(len(chosen)) as pool:  # one common wait for all regions that do not answer
        return [
            report
            for reports in pool.map(partial(installation.locator.check, probes=True), chosen)
            for report in reports
        ]


def list_circuits(installation: Installation, principal: Principal) -> dict[tuple[str, str], list[ZoneHealth]]:
    """List the last observations of zones that failed at least once, by region and zone."""
    authorize(principal, Action.READ, "/")
    found: defaultdict[tuple[str, str], list[ZoneHealth]] = defaultdict(list)
    with installation.catalog.reading() as transaction:
        for health in transaction.zone_health.list():
            found[health.region, health.zone].append(health)
    return dict(found)


def count_missed_objects(installation: Installation, principal: Principal) -> dict[tuple[str, str], int]:
    """Return the number of objects that zones missed, by region and zone. Workers and scrub record the numbers."""
    authorize(principal, Action.READ, "/")
    with installation.catalog.reading() as transaction:
        return transaction.zone_gaps.count_by_zone()


def create_regions_policy(regions: Regions, *, names: Sequence[str] = (), read_only: bool = False) -> PolicyDocument:
    """Create the least-privilege policy for the buckets of the named regions, or of all regions.

    Args:
        regions: the content of regions.yaml. No installation is needed.
        names: the regions. Empty means all regions.
        read_only: permit reading only.

    Raises:
        InvalidInput: a region does not exist, or no zone of the regions is a bucket.
    """
    zones = [zone for region in choose_regions(regions, names) for zone in region.zones]
    buckets = list(dict.fromkeys(zone.bucket for zone in zones if zone.endpoint is not None))
    if not buckets:
        raise InvalidInput(
            "No zone is an S3 bucket, so no policy is needed.",
            found=f"directories for {', '.join(names) or 'all regions'} in {regions.path}",
            expected="a zone with an endpoint",
            hint="set the endpoint of a zone in regions.yaml, or the variable IMGSTORE_S3_ENDPOINT",
            target="endpoint",
        )
    return create_bucket_policy(buckets, read_only=read_only)


def init_regions(
    installation: Installation,
    principal: Principal,
    *,
    names: Sequence[str] = (),
    zone: str | None = None,
    replaced: bool = False,
) -> list[ZoneReport]:
    """Create the buckets of the named regions, or of all regions, and mark the buckets. May be repeated.

    Args:
        installation: the installation.
        principal: the caller.
        names: the regions. Empty means all regions.
        zone: a single zone, as "REGION/ZONE", or as the name of the zone if one region is named. The marks are
            repaired.
        replaced: the store of the zone was replaced. Objects that only the former store had count as lost.

    Raises:
        InvalidInput: the region or zone does not exist, or `replaced` is used without a zone.
    """
    if zone is None and replaced:
        raise _zone_missing_error()
    chosen: list[tuple[Region, Sequence[str] | None]]
    if zone is None:
        chosen = [(region, None) for region in choose_regions(installation.regions, names)]
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
        expected="the zone with the replaced store",
        hint="for example: imgstore regions init --zone westus2/1 --replaced",
        target="zone",
    )


def choose_regions(regions: Regions, names: Sequence[str]) -> list[Region]:
    """Return the named regions, or all regions. Raises InvalidInput for an unknown region."""
    if not names:
        return list(regions.regions.values())
    return [regions.get(name, target="region") for name in names]
