"""From facts to findings: each fault of an installation has a level and a next step."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from imgstore.domain.diagnosis import (
    CacheFacts,
    CatalogFacts,
    CertificateFacts,
    FileFacts,
    Finding,
    HomeFacts,
    Level,
    SlotScrubFacts,
    SpaceFacts,
    UploadFacts,
    find_worst_level,
)
from imgstore.domain.recovery import RecoveryCover
from imgstore.domain.resources import SlotKey, StorageAccountType
from imgstore.domain.scale_sets import ScaleSet
from imgstore.domain.settings.maintenance import MaintenanceRecord, MaintenanceSettings
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage.scrub_passes import SlotScrubRecord
from imgstore.domain.storage.works import Work, Worker, WorkKind
from imgstore.policy.diagnosis import judge_catalog, judge_home, judge_zones
from imgstore.regions import Policy, Region, ZoneReport
from imgstore.regions.model import Zone

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
KEY: Final = SlotKey(pool_uid="p", region="eastus", storage_account_type=StorageAccountType.STANDARD_LRS, ordinal=0)
WORKER: Final = Worker(
    uid="w1", holder="host/boot/7/1", started_at=NOW - DAY, seen_at=NOW, works=0, code_revision="0035"
)
WORK: Final = Work(
    uid="k1", kind=WorkKind.INGEST, slot_uid="s1", owner_uid="v1", plan={}, opened_at=NOW - HOUR,
    holder="host/boot/7/1", lease_expires_at=NOW + HOUR,
)  # fmt: skip
ZONE: Final = Zone(
    name="1", endpoint="http://s3.example", bucket="b", profile=None, signing_region=None, path_style=True
)
REPORT: Final = ZoneReport(
    region="eastus", zone="1", store="s3 http://s3.example/b", reachable=True, bucket_exists=True, marked=True,
    properties=None, answer_seconds=0.002,
)  # fmt: skip


def scrub(age: timedelta | None, *, lost: int = 0) -> SlotScrubFacts:
    at = NOW - (age or timedelta(0))
    last = SlotScrubRecord(slot_uid="s1", began_at=at, ended_at=at, percent=100, objects=1, complete_at=at)
    return SlotScrubFacts(key=KEY, last=None if age is None else last, lost_objects=lost)


def task(name: str, age: timedelta, outcome: str | None = None) -> MaintenanceRecord:
    return MaintenanceRecord(name=name, done_at=NOW - age, outcome=outcome)


SET: Final = ScaleSet(
    uid="u",
    subscription="s",
    group="rg",
    name="web",
    location="eastus",
    capacity=8,
    former_capacity=2,
    image_reference="i",
    source_reference="i",
    created_at=NOW,
    provisioning_state=ProvisioningState.UPDATING,
)
SOUND: Final = CatalogFacts(
    place="/home/catalog.sqlite",
    now=NOW,
    created_at=NOW - 100 * DAY,
    revision="0035",
    code_revision="0035",
    write_fault=None,
    outdated=None,
    recovery_cover=RecoveryCover(written_at=NOW, missing=[]),
    workers=[WORKER],
    living={"w1"},
    tasks=[task("deletions", timedelta(minutes=5), "done"), task("scrub/s1", DAY)],
    collected_at=NOW - HOUR,
    scrubs=[scrub(DAY)],
    missed_objects={},
    replicas={("eastus", ReplicaState.COMPLETED): 3},
    without_source=0,
    works=[WORK],
    abandoned_sets=[],
    used_zones={("eastus", "1")},
    revision_marks=0,
    unsealed_entries=0,
    unsealed_since=None,
)
HOME: Final = HomeFacts(
    now=NOW,
    files=[FileFacts(path=Path("/home"), mode=0o700, is_own=True, is_key=False)],
    certificates=[CertificateFacts(path=Path("/home/tls/server.pem"), ends_at=NOW + 300 * DAY, is_own=True)],
    spaces=[SpaceFacts(place=Path("/home"), free_bytes=10**12, reserve_bytes=10**9)],
    uploads=[UploadFacts(disk_uid="d1", stored_bytes=10, used_at=NOW - HOUR)],
    cache=CacheFacts(folder=Path("/home/cache"), bytes_max=10**10, segments=3, used_bytes=10**7),
)


def judged(**changes: Any) -> list[Finding]:
    return list(judge_catalog(replace(SOUND, **changes), MaintenanceSettings()))


def judged_home(**changes: Any) -> list[Finding]:
    return list(judge_home(replace(HOME, **changes)))


def wrong(findings: Sequence[Finding]) -> list[tuple[str, Level]]:
    """Return the findings that are not ok. Each of these has a next step, and no other finding has a step."""
    assert all((each.next_step is None) == (each.level is Level.OK) for each in findings)
    return [(each.check, each.level) for each in findings if each.level is not Level.OK]


def test_a_sound_installation_has_only_good_findings() -> None:
    assert wrong(judged()) == wrong(judged_home()) == []
    checks = {each.check for each in judged()}
    assert checks == {
        "recovery-file", "catalog", "catalog-age", "workers", "replicas", "scrub", "gc", "maintenance", "works",
        "scale-sets", "revisions", "ledger",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("state", "step"),
    [
        (ProvisioningState.CREATING, "repeat `imgstore vmss create`, or imgstore vmss delete -g rg -n web"),
        (ProvisioningState.UPDATING, "imgstore vmss scale -g rg -n web --new-capacity 8"),
        (ProvisioningState.DELETING, "imgstore worker, or imgstore vmss delete -g rg -n web"),
    ],
)
def test_an_interrupted_scale_set_names_the_command_that_continues(state: ProvisioningState, step: str) -> None:
    (found,) = [each for each in judged(abandoned_sets=[replace(SET, provisioning_state=state)]) if each.next_step]
    assert (found.check, found.subject, found.next_step) == ("scale-sets", "rg/web", step)


@pytest.mark.parametrize(
    ("changes", "check", "level"),
    [
        ({"recovery_cover": RecoveryCover(written_at=None, missing=["k"])}, "recovery-file", Level.WARNING),
        ({"recovery_cover": RecoveryCover(written_at=NOW, missing=["k"])}, "recovery-file", Level.WARNING),
        ({"revision": "0036"}, "catalog", Level.WARNING),
        ({"write_fault": "EROFS"}, "catalog", Level.WARNING),
        ({"abandoned_sets": [SET]}, "scale-sets", Level.WARNING),
        ({"outdated": "checkpoint 9"}, "catalog-age", Level.ERROR),
        ({"living": set[str]()}, "workers", Level.WARNING),
        ({"workers": [replace(WORKER, code_revision=None)]}, "workers", Level.WARNING),
        ({"replicas": {("eastus", ReplicaState.FAILED): 1}}, "replicas", Level.WARNING),
        ({"replicas": {("eastus", ReplicaState.DEGRADED): 1}}, "replicas", Level.WARNING),
        ({"without_source": 1}, "replicas", Level.WARNING),
        ({"missed_objects": {("westus2", "3"): 4}}, "repairs", Level.WARNING),
        ({"scrubs": [scrub(DAY, lost=2)]}, "repairs", Level.ERROR),
        ({"scrubs": [scrub(DAY), scrub(15 * DAY)]}, "scrub", Level.WARNING),
        ({"scrubs": [scrub(DAY), scrub(None)]}, "scrub", Level.WARNING),
        ({"collected_at": None}, "gc", Level.WARNING),
        ({"collected_at": NOW - 3 * DAY}, "gc", Level.WARNING),
        ({"tasks": [task("ledger", HOUR, "failed: the store is full")]}, "maintenance", Level.WARNING),
        ({"tasks": [task("deletions", 2 * HOUR, "done")]}, "maintenance", Level.WARNING),
        ({"unsealed_entries": 3, "unsealed_since": NOW - 3 * HOUR}, "ledger", Level.WARNING),
        ({"works": [replace(WORK, lease_expires_at=NOW - 2 * DAY)]}, "works", Level.WARNING),
        ({"works": [replace(WORK, opened_at=NOW - 2 * DAY, lease_expires_at=None)]}, "works", Level.WARNING),
    ],
)
def test_a_fault_in_the_catalog(changes: dict[str, Any], check: str, level: Level) -> None:
    found = wrong(judged(**changes))
    assert set(found) == {(check, level)}
    assert find_worst_level(judged(**changes)) is level


def test_a_new_installation_is_not_late() -> None:
    new = judged(created_at=NOW - DAY, collected_at=None, scrubs=[scrub(None)], tasks=[])
    assert wrong(new) == []


def test_maintenance_that_is_switched_off_is_never_late() -> None:
    settings = MaintenanceSettings(scrub_interval_seconds=0, gc_interval_seconds=0, deletions_interval_seconds=0)
    facts = replace(SOUND, collected_at=None, scrubs=[scrub(None)], tasks=[task("deletions", 99 * DAY)])
    assert wrong(list(judge_catalog(facts, settings))) == []


def test_entries_that_wait_for_a_seal_name_their_age_and_the_command() -> None:
    def found(interval_seconds: int = 3600, **changes: Any) -> str:
        facts = replace(SOUND, unsealed_entries=3, unsealed_since=NOW - HOUR, **changes)
        settings = MaintenanceSettings(ledger_interval_seconds=interval_seconds)
        (finding,) = (each for each in judge_catalog(facts, settings) if each.check == "ledger")
        assert (finding.level, finding.next_step) == (Level.OK, None)
        return finding.found

    waiting = f"3 entries wait to be sealed, the oldest since {NOW - HOUR:%Y-%m-%d %H:%M:%S} UTC"
    assert found() == f"{waiting}: a worker seals the entries"
    for command in (found(living=set()), found(0)):
        assert command == f"{waiting}: `imgstore bill seal` seals the entries"


def test_changes_without_a_revision_wait_for_a_living_worker() -> None:
    assert wrong(judged(revision_marks=3)) == []
    assert ("revisions", Level.WARNING) in wrong(judged(revision_marks=3, living=set()))


@pytest.mark.parametrize(
    ("changes", "check", "level"),
    [
        ({"files": [replace(HOME.files[0], mode=0o755)]}, "file-rights", Level.WARNING),
        ({"files": [replace(HOME.files[0], is_own=False)]}, "file-rights", Level.WARNING),
        ({"files": [replace(HOME.files[0], mode=0o640, is_key=True)]}, "file-rights", Level.ERROR),
        ({"certificates": [replace(HOME.certificates[0], ends_at=NOW + 29 * DAY)]}, "certificate", Level.WARNING),
        ({"certificates": [replace(HOME.certificates[0], ends_at=NOW)]}, "certificate", Level.ERROR),
        (
            {"certificates": [replace(HOME.certificates[0], ends_at=None, problem="ENOENT", is_own=False)]},
            "certificate",
            Level.ERROR,
        ),
        ({"spaces": [replace(HOME.spaces[0], free_bytes=1_999_999_999)]}, "disk-space", Level.WARNING),
        ({"spaces": [replace(HOME.spaces[0], free_bytes=999_999_999)]}, "disk-space", Level.ERROR),
        ({"uploads": [replace(HOME.uploads[0], used_at=NOW - 2 * DAY)]}, "uploads", Level.WARNING),
    ],
)
def test_a_fault_in_the_home(changes: dict[str, Any], check: str, level: Level) -> None:
    assert wrong(judged_home(**changes)) == [(check, level)]


LOST: Final = replace(REPORT, reachable=False, problem="no connection")


@pytest.mark.parametrize(
    ("policy", "zones", "levels"),
    [
        (Policy.LRS, [LOST], [Level.ERROR]),
        (Policy.LRS, [None], [Level.ERROR]),
        (Policy.ZRS, [REPORT, REPORT, None], [Level.OK, Level.OK, Level.WARNING]),
        (Policy.ZRS, [REPORT, LOST, None], [Level.OK, Level.ERROR, Level.ERROR]),
    ],
)
def test_one_lost_zone_of_three_is_a_warning(
    policy: Policy, zones: list[ZoneReport | None], levels: list[Level]
) -> None:
    names = [("eastus", str(number)) for number, _ in enumerate(zones, start=1)]
    found = judge(policy, dict(zip(names, zones, strict=True)), used=names)
    assert [each.level for each in found] == levels


def test_a_zone_that_was_never_used_is_a_warning_with_the_step_to_prepare() -> None:
    new = replace(REPORT, marked=False, bucket_exists=False, problem="the bucket is missing")
    (found,) = judge(Policy.LRS, {("eastus", "1"): new}, used=[])
    assert (found.level, found.next_step) == (Level.WARNING, "imgstore regions init eastus")


def judge(
    policy: Policy, reports: dict[tuple[str, str], ZoneReport | None], *, used: list[tuple[str, str]]
) -> list[Finding]:
    region = Region(
        name="eastus",
        display_name="East US",
        bucket="b",
        policy=policy,
        storage_account_types=(),
        zones=tuple(replace(ZONE, name=name) for _, name in reports),
    )
    findings = list(judge_zones([region], reports, used=used, seconds_max=10))
    wrong(findings)
    return findings


@pytest.mark.parametrize(
    ("levels", "code"),
    [((), 0), ((Level.OK,), 0), ((Level.OK, Level.WARNING), 1), ((Level.ERROR, Level.WARNING), 2)],
)
def test_the_exit_code_is_the_worst_level(levels: Sequence[Level], code: int) -> None:
    findings = [Finding(check="catalog", level=each, found="-") for each in levels]
    assert find_worst_level(findings).exit_code == code
