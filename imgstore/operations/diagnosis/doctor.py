"""Check an installation: its catalog, home, regions and processes, side by side and in bounded time."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from imgstore.domain.diagnosis import Finding, Level
from imgstore.domain.errors import ImgstoreError
from imgstore.domain.identity.access import INSTALLATION, Action, Principal, authorize
from imgstore.operations.diagnosis.catalog_facts import read_catalog_facts
from imgstore.operations.diagnosis.home_facts import read_home_facts
from imgstore.operations.installation import Installation
from imgstore.policy.diagnosis import judge_catalog, judge_error, judge_home, judge_zones
from imgstore.regions import Region, Zone, ZoneReport
from imgstore.stores.threads import start_future
from imgstore.stores.wrappers.hedging import LATE_SECONDS

_T = TypeVar("_T")

SECONDS_MAX: Final = 10.0
"""The default time limit of all checks of stores and files together."""


def diagnose(
    installation: Installation,
    principal: Principal,
    *,
    seconds_max: float = SECONDS_MAX,
    certificates: Sequence[Path] = (),
) -> list[Finding]:
    """Check the installation, and return a finding for each part.

    Each zone is checked in a thread of its own, with a small object unless the home can be read only. A check that does
    not end within the time limit is a finding, and its thread is abandoned.

    Args:
        installation: the installation.
        principal: the caller.
        seconds_max: the time limit of all checks of stores and files, and again of the catalog.
        certificates: certificate files outside of the home.
    """
    authorize(principal, Action.READ, INSTALLATION)
    regions = list(installation.regions.regions.values())
    every = {(region.name, zone.name): (region, zone) for region in regions for zone in region.zones}
    with installation.catalog.discarding_writes():
        zones = {name: start_future(partial(_check_zone, installation, *each)) for name, each in every.items()}
        home = start_future(partial(read_home_facts, installation, certificates))
        comparison = start_future(partial(installation.locator.refresh_checkpoints, also_unrecorded=True))
        named = {"/".join(name): check for name, check in zones.items()}
        _wait(installation, {**named, "home": home, "checkpoints": comparison}, seconds_max)
        catalog = start_future(
            partial(read_catalog_facts, installation, principal)
        )  # The comparison may have changed rows.
        _wait(installation, {"catalog": catalog}, seconds_max)
        reports = {name: check.result() if check.done() else None for name, check in zones.items()}
        for name in (name for name, report in reports.items() if report is None and catalog.done()):
            installation.locator.health.count_late(name, seconds_max)  # Other commands then avoid the zone.
    is_read = catalog.done() and catalog.exception() is None
    used: Collection[tuple[str, str]] = catalog.result().used_zones if is_read else every
    return [
        *_judge("catalog", catalog, partial(judge_catalog, settings=installation.maintenance), seconds_max),
        *_judge("home", home, judge_home, seconds_max),
        *judge_zones(regions, reports, used=used, seconds_max=seconds_max),
    ]


def _judge(
    check: str, facts: "Future[_T]", judge: Callable[[_T], Iterable[Finding]], seconds_max: float
) -> Iterable[Finding]:
    if not facts.done():
        return [_late_finding(check, seconds_max)]
    error = facts.exception()
    return [judge_error(error, check)] if isinstance(error, ImgstoreError) else judge(facts.result())


def _late_finding(check: str, seconds_max: float) -> Finding:
    return Finding(
        check=check,
        level=Level.ERROR,
        found=f"no answer within {seconds_max:g} s",
        next_step="check the database, the network and the file system of the home",
    )


def _check_zone(installation: Installation, region: Region, zone: Zone) -> ZoneReport:
    may_write = installation.catalog.write_fault is None
    (report,) = installation.locator.check(region, probes=may_write, zone=zone)
    return report


def _wait(installation: Installation, jobs: "Mapping[str, Future[Any]]", seconds_max: float) -> None:
    """Wait until all checks have ended, for `seconds_max` at most. Report the checks that are late."""
    first = min(LATE_SECONDS, seconds_max)
    late = wait(jobs.values(), first).not_done
    if late and seconds_max > first:
        names = ", ".join(name for name, job in jobs.items() if job in late)
        installation.note("doctor", f"waiting for {names}, for {seconds_max - first:g} s at most")
        wait(late, seconds_max - first)
