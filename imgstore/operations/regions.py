"""Regions: listed, looked at, and their buckets made."""

from collections.abc import Sequence

from imgstore.domain.access import Action, Principal, authorize
from imgstore.operations.installation import Installation
from imgstore.operations.recording import recorded
from imgstore.regions import Region, ZoneReport


def list_regions(installation: Installation, principal: Principal) -> list[Region]:
    """The regions of the installation, in the order of regions.yaml."""
    authorize(principal, Action.READ, f"/subscriptions/{installation.subscription}")
    return list(installation.regions.regions.values())


def check_regions(installation: Installation, principal: Principal, *, names: Sequence[str] = ()) -> list[ZoneReport]:
    """Look at every zone of the named regions, or of all: reachable, bucket there, whose it is. Changes nothing."""
    authorize(principal, Action.READ, "/")
    return [report for region in _named(installation, names) for report in installation.locator.check(region)]


def init_regions(installation: Installation, principal: Principal, *, names: Sequence[str] = ()) -> list[ZoneReport]:
    """Make the buckets of the named regions, or of all, and mark them as this installation's. May be repeated."""
    with recorded(installation, principal, Action.ADMINISTER, "/", "imgstore/regions/init"):
        return [report for region in _named(installation, names) for report in installation.locator.init(region)]


def _named(installation: Installation, names: Sequence[str]) -> list[Region]:
    if not names:
        return list(installation.regions.regions.values())
    return [installation.regions.get(name, target="region") for name in names]
