"""Analyze the stores of zones: prove or disprove the properties that imgstore needs."""

import platform
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from imgstore.domain.errors import InvalidInput
from imgstore.domain.host.memory import available_memory_bytes
from imgstore.domain.identity.access import INSTALLATION, Action, Principal, authorize
from imgstore.domain.storage.digests import digest_of
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation
from imgstore.operations.progress import ProgressCounter
from imgstore.operations.stores.regions import choose_regions
from imgstore.regions import ZoneReport
from imgstore.stores.analysis import (
    PEAK_BODIES,
    AnalysisSettings,
    AnalyzedStore,
    RequestTotals,
    StoreAnalysis,
    analyze_store,
    plan_analysis,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedZone:
    """A checked zone and the plan of its analysis."""

    report: ZoneReport
    store: AnalyzedStore | None
    """None if the zone cannot be used; the report has the problem."""
    planned: RequestTotals | None

    @property
    def is_directory(self) -> bool:
        """Whether the zone is a directory, whose requests cost nothing."""
        return self.store is not None and self.store.unusual is None

    @property
    def name(self) -> str:
        """The zone for people: "westus2/1"."""
        return f"{self.report.region}/{self.report.zone}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyzedZone:
    """The analysis of a zone."""

    report: ZoneReport
    analysis: StoreAnalysis | None
    """None if the zone cannot be used."""


def plan_zone_analysis(
    installation: Installation,
    principal: Principal,
    *,
    names: Sequence[str] = (),
    settings: AnalysisSettings = AnalysisSettings(),  # noqa: B008 - frozen
) -> list[PlannedZone]:
    """Check each zone of the named regions, or of all regions, and plan the analyses.

    Each zone gets a small object, which is deleted at once.

    Raises:
        InvalidInput: a region does not exist, or the largest object needs more than the free memory.
    """
    authorize(principal, Action.ADMINISTER, INSTALLATION)
    _check_memory(settings.object_bytes_max, available_memory_bytes())
    chosen = choose_regions(installation.regions, names)
    with ThreadPoolExecutor(len(chosen)) as pool:  # One common wait for all regions that do not answer.
        opened = [each for zones in pool.map(installation.locator.open_for_analysis, chosen) for each in zones]
    return [
        PlannedZone(
            report=report,
            store=store,
            planned=None if store is None else plan_analysis(store, settings, installation.effects),
        )
        for report, store in opened
    ]


def _check_memory(object_bytes_max: int, free_bytes: int | None) -> None:
    if free_bytes is not None and object_bytes_max * PEAK_BODIES > free_bytes:
        raise InvalidInput(
            f"The test of an object of {object_bytes_max:,} bytes needs more memory than is free.",
            found=f"{free_bytes:,} bytes of free memory",
            expected=f"{object_bytes_max * PEAK_BODIES:,} bytes, {PEAK_BODIES} times the size of the object",
            hint=f"name at most {free_bytes // PEAK_BODIES} bytes with --max-object-bytes, or free some memory",
            target="max-object-bytes",
        )


def analyze_zones(
    installation: Installation,
    principal: Principal,
    planned: Sequence[PlannedZone],
    *,
    settings: AnalysisSettings = AnalysisSettings(),  # noqa: B008 - frozen
) -> list[AnalyzedZone]:
    """Analyze the zones of a plan, all at once, and the largest object of each zone one after another.

    Objects are removed afterwards, also after an interruption.
    """
    about = f"zones {', '.join(each.name for each in planned)}"
    with record_activity(
        installation, principal, Action.ADMINISTER, INSTALLATION, "imgstore/regions/analyze", about=about
    ):
        if not planned:
            return []
        stop, turn = threading.Event(), threading.Lock()
        with ThreadPoolExecutor(len(planned)) as pool:
            futures = [pool.submit(_analyze_zone, installation, each, settings, stop, turn) for each in planned]
            try:
                return [future.result() for future in futures]
            except BaseException:  # Each zone removes its objects before the pool ends.
                stop.set()
                raise


def _analyze_zone(
    installation: Installation,
    planned: PlannedZone,
    settings: AnalysisSettings,
    stop: threading.Event,
    turn: threading.Lock,
) -> AnalyzedZone:
    if planned.store is None or planned.planned is None:
        return AnalyzedZone(report=planned.report, analysis=None)
    counter = ProgressCounter(installation, planned.name, planned.planned.wire_bytes)
    counter.begin()
    analysis = analyze_store(
        planned.store,
        settings,
        installation.effects,
        name=_new_name(installation),
        is_alive=_liveness(installation),
        stop=stop,
        planned=planned.planned,
        turn=turn,
        moved=counter.add_bytes,
    )
    counter.end()
    return AnalyzedZone(report=planned.report, analysis=analysis)


def _new_name(installation: Installation) -> str:
    """Make the name of an analysis. The scratch folder of the process proves that the process lives."""
    return f"{_place(installation)}.{installation.scratch.name}.{installation.effects.new_uid()}"


def _place(installation: Installation) -> str:
    """Return a short name of the scratch folders of this home on this machine."""
    return digest_of(f"{platform.node()}\0{installation.scratch.parent}".encode())[:6].hex()


def _liveness(installation: Installation) -> Callable[[str], bool | None]:
    """Return a function that tells whether the analysis of a name runs; None for another machine or home.

    The start of each process removes the scratch folders of dead processes.
    """

    def is_alive(name: str) -> bool | None:
        place, _, rest = name.partition(".")
        folder = rest.rpartition(".")[0]
        return (installation.scratch.parent / folder).is_dir() if folder and place == _place(installation) else None

    return is_alive
