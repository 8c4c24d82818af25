"""A forecast equals the bill of the change, and writes nothing (invariant M16)."""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from imgstore.domain.errors import ImageNotAvailable, ImgstoreError, NotFound, ReplicationFailed
from imgstore.domain.identity.access import Grant, Principal, Role
from imgstore.domain.requests import DiskOfImageRequest, DiskRequest
from imgstore.domain.resources import DiskKind, Slot
from imgstore.domain.settings.replication import ReplicationRoute, ReplicationSettings
from imgstore.domain.storage.sizes import GIGABYTE, KIB, MIB
from imgstore.ledger.forecast import Forecast
from imgstore.operations.disks.disks import create_disk, delete_disk
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.gallery import galleries
from imgstore.operations.installation import Installation
from imgstore.operations.what_if.collection import forecast_collection
from imgstore.operations.what_if.disks import forecast_disk_deletion, forecast_image_disk, forecast_source_disk
from imgstore.stores.interface import ObjectStore
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.forecast_check import (
    check_forecast,
    compare_with_bill,
    open_intervals,
    predict_create,
    predict_delete,
    predict_targets,
    reading_only,
)
from tests.support.sample_gallery import (
    ADMIN,
    GALLERY,
    GROUP,
    TARGETS,
    SampleImages,
    charges,
    collect,
    create_sample_gallery,
    create_version,
    delete,
    make_disk,
    open_home,
    publish,
    publish_disks,
    reference,
    request,
    retarget,
)

pytest_plugins = ["tests.support.published_gallery"]


def test_first_version(empty: Installation, samples: SampleImages) -> None:
    found = check_forecast(
        empty, lambda: predict_create(empty, samples.first, "1.0.0"), lambda: publish(empty, samples.first)
    )
    assert {each.region for each in found.regions} == {"southcentralus", "westus2", "eastus"}
    assert found.estimated_seconds is None
    assert any("No rate measured yet" in note for note in found.notes)


def test_life_of_a_version(published: Installation, samples: SampleImages) -> None:
    home = published
    wide = [*TARGETS, "northeurope=2"]
    new = check_forecast(
        home, lambda: predict_create(home, samples.second, "1.0.1"), lambda: publish(home, samples.second, "1.0.1")
    )
    assert new.estimated_seconds is not None, "the rates of version 1.0.0 are measured"
    repeated = check_forecast(
        home, lambda: predict_create(home, samples.second, "1.0.1"), lambda: publish(home, samples.second, "1.0.1")
    )
    assert repeated.regions == ()
    check_forecast(home, lambda: predict_targets(home, wide, "1.0.1"), lambda: retarget(home, wide, "1.0.1"))
    check_forecast(home, lambda: predict_targets(home, TARGETS, "1.0.1"), lambda: retarget(home, TARGETS, "1.0.1"))
    gone = check_forecast(home, lambda: predict_delete(home), lambda: delete(home))
    assert {each.party and each.party.version for each in gone.storage if each.is_takeover} == {"1.0.1"}
    assert any(note.startswith("Next payer: rg/g1/ubuntu/1.0.1 pays for ") for note in gone.notes)
    check_forecast(home, lambda: predict_delete(home, "1.0.1"), lambda: delete(home, "1.0.1"))
    with pytest.raises(NotFound):
        predict_delete(home, "1.0.1")


@pytest.mark.engine("postgresql")
def test_forecasts_on_postgresql(tmp_path: Path, postgresql: str) -> None:
    """A simulation is rolled back, and leaves no lock."""
    first, second, *_ = write_contents(tmp_path)
    with open_home(tmp_path / "home", database=postgresql) as home:
        create_sample_gallery(home)
        check_forecast(home, lambda: predict_create(home, first, "1.0.0"), lambda: publish(home, first, "1.0.0"))
        check_forecast(home, lambda: predict_create(home, second, "1.0.1"), lambda: publish(home, second, "1.0.1"))
        less = ["southcentralus", "northeurope"]
        check_forecast(home, lambda: predict_targets(home, less), lambda: retarget(home, less))
        check_forecast(home, lambda: predict_delete(home), lambda: delete(home))


def test_names_of_other_owners_are_for_their_readers(published: Installation) -> None:
    make_disk(published, "d1")
    gallery = f"/subscriptions/{published.subscription}/resourceGroups/{GROUP}/providers/Microsoft.Compute/galleries/{GALLERY}"
    caller = Principal(name="ann", uid="7", grants=(Grant(role=Role.OWNER, scope=gallery),))
    for principal, name in ((ADMIN, f"{GROUP}/d1"), (caller, "another owner")):
        found = predict_delete(published, principal=principal)
        heir = next(each for each in found.storage if each.is_takeover)
        assert (heir.party is None) == (principal is caller)
        assert any(note.startswith(f"Next payer: {name} pays") for note in found.notes)


def test_cheapest_route_is_predicted(tmp_path: Path) -> None:
    """The egress to northeurope is that of the parent of the region."""
    cheapest = ReplicationSettings(route=ReplicationRoute.CHEAPEST)
    (content, *_) = write_contents(tmp_path)
    targets = ["southcentralus", "eastus", "northeurope"]
    regions = write_tiers(tmp_path / "regions.yaml")
    with open_home(tmp_path / "home", regions=regions, replication=cheapest) as home:
        create_sample_gallery(home)
        found = check_forecast(
            home,
            lambda: predict_create(home, content, "1.0.0", targets),
            lambda: publish(home, content, "1.0.0", targets),
        )
    assert {(row.source, row.target) for row in found.charges} == {
        ("southcentralus", "eastus"),
        ("eastus", "northeurope"),
    }


def test_whole_copies_have_all_virtual_bytes(published: Installation) -> None:
    found = predict_targets(published, ["southcentralus=2", "northeurope=3"])
    virtual_bytes = 24 * MIB + KIB // 2
    europe = next(each for each in found.regions if each.region == "northeurope")
    assert europe.whole.delivered_bytes == virtual_bytes
    assert europe.whole.stored_bytes == 3 * virtual_bytes
    assert europe.whole.egress == virtual_bytes * Decimal("0.05") / GIGABYTE
    assert found.whole.stored_bytes == (3 - 2) * virtual_bytes


def test_data_disks(published: Installation, samples: SampleImages) -> None:
    data = {0: samples.second, 7: samples.rebuilt}
    check_forecast(
        published,
        lambda: predict_create(published, samples.first, "2.0.0", data=data),
        lambda: publish_disks(published, samples.first, data, "2.0.0"),
    )


@pytest.mark.parametrize(("location", "mode"), [("eastus", "Full"), ("eastus", "Shallow"), ("northeurope", "Full")])
def test_version_from_another_version(published: Installation, location: str, mode: str) -> None:
    """A source in another region is charged with all segments (invariant M8)."""
    words: dict[str, Any] = {"image_version": f"{GROUP}/{GALLERY}/ubuntu/1.0.0"}
    more: dict[str, Any] = {"location": location, "replication_mode": mode}
    asked = request("3.0.0", [location], **more)
    found = check_forecast(
        published,
        lambda: predict_create(published, None, "3.0.0", [location], words=words, **more),
        lambda: create_version(published, ADMIN, asked, **words),
    )
    assert bool(found.charges) == (location == "northeurope")


def test_soft_deletion_changes_nothing_yet(published: Installation) -> None:
    galleries.create_gallery(
        published, ADMIN, group=GROUP, name=GALLERY, location="southcentralus", soft_delete_enabled=True
    )
    found = check_forecast(published, lambda: predict_delete(published), lambda: delete(published))
    assert found.regions == ()
    assert "soft delete" in found.notes[0]
    check_forecast(
        published,
        lambda: predict_delete(published, bypass_soft_delete=True),
        lambda: delete(published, bypass_soft_delete=True),
    )


def test_unfinished_copy_does_not_prevent_a_forecast(empty: Installation, samples: SampleImages) -> None:
    """The open work of a failed region pins the manifest of its source, and ends with the replica or the version."""
    home = empty
    with failing_region(home, fails=True), pytest.raises(ReplicationFailed):
        publish(home, samples.first)
    other_source = ["southcentralus=1=Standard_ZRS", "northeurope"]
    check_forecast(home, lambda: predict_targets(home, other_source), lambda: retarget(home, other_source))
    with failing_region(home, fails=True), pytest.raises(ReplicationFailed):
        publish(home, samples.second, "1.0.1")
    check_forecast(home, lambda: predict_delete(home, "1.0.1"), lambda: delete(home, "1.0.1"))


def test_disks(published: Installation, samples: SampleImages) -> None:
    home = published
    of_image = DiskOfImageRequest(group=GROUP, name="d1", location="westus2", reference=reference())
    check_forecast(home, lambda: forecast_image_disk(home, ADMIN, of_image), lambda: create_disk(home, ADMIN, of_image))
    for asked in (
        DiskRequest(group=GROUP, name="d2", source="d1"),
        DiskRequest(group=GROUP, name="d3", source=str(samples.second), location="eastus"),
        DiskRequest(group=GROUP, name="d4", source=str(samples.first), location="eastus"),
        DiskRequest(group=GROUP, name="s1", source="d4", kind=DiskKind.SNAPSHOT),
        DiskRequest(group=GROUP, name="d4", source=str(samples.first), location="eastus"),
    ):
        check_source_disk(home, asked)
    check_forecast(home, lambda: predict_delete(home), lambda: delete(home))
    check_disk_deletion(home, "d1", DiskKind.DISK)
    check_disk_deletion(home, "d3", DiskKind.DISK)
    check_disk_deletion(home, "s1", DiskKind.SNAPSHOT)


def check_source_disk(home: Installation, asked: DiskRequest) -> None:
    check_forecast(
        home, lambda: forecast_source_disk(home, ADMIN, asked), lambda: create_from_source(home, ADMIN, asked)
    )


def check_disk_deletion(home: Installation, name: str, kind: DiskKind) -> None:
    place: dict[str, Any] = {"group": GROUP, "name": name, "kind": kind}
    check_forecast(
        home, lambda: forecast_disk_deletion(home, ADMIN, **place), lambda: delete_disk(home, ADMIN, **place)
    )


def test_disk_in_a_region_without_the_version_is_refused_as_the_creation(published: Installation) -> None:
    asked = DiskOfImageRequest(group=GROUP, name="d1", location="northeurope", reference=reference())
    with reading_only(published), pytest.raises(ImageNotAvailable):
        forecast_image_disk(published, ADMIN, asked)


def test_collection(published: Installation) -> None:
    delete(published)
    with reading_only(published):
        found = forecast_collection(published, ADMIN, grace=timedelta(0))
    done = collect(published, grace_hours=0)
    deleted: dict[tuple[str, str], int] = {}
    for each in done.slots:
        place = each.slot.key.region, each.slot.key.storage_account_type
        deleted[place] = deleted.get(place, 0) + sum(each.collected.values())
    assert {(each.region, each.storage_account_type): each.deleted_bytes for each in found} == deleted
    assert sum(each.deleted_bytes for each in found) > 0


# -- histories ---------------------------------------------------------------------------------------------------------

_CHUNK: Final = 64 * KIB
CHOICES: Final = (
    ["southcentralus"],
    ["southcentralus=2", "westus2"],
    ["southcentralus", "westus2=1=Standard_ZRS", "eastus"],
    ["southcentralus", "northeurope=2", "eastus=2"],
    ["southcentralus=1=Standard_ZRS", "northeurope"],
)
VERSIONS: Final = ("1.0.0", "1.0.1", "2.0.0")
_CONTENTS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of a history."""

    command: str
    version: str
    content: int
    targets: int
    fails: bool
    """Whether the store of eastus refuses all writes during the step."""


STEPS = st.lists(
    st.builds(
        Step,
        command=st.sampled_from(
            [
                "publish",
                "publish",
                "publish data",
                "targets",
                "targets",
                "delete",
                "disk",
                "remote disk",
                "remote copy",
                "file disk",
                "delete disk",
                "gc",
            ]
        ),
        version=st.sampled_from(VERSIONS),
        content=st.integers(0, _CONTENTS - 1),
        targets=st.integers(0, len(CHOICES) - 1),
        fails=st.integers(0, 5).map(lambda each: each == 0),
    ),
    min_size=3,
    max_size=9,
)


ROUTES = st.sampled_from(ReplicationRoute)


def write_contents(folder: Path) -> list[Path]:
    """Write small disks that share chunks of random bytes, some at other offsets."""
    source = random.Random(1)
    chunks = [source.randbytes(_CHUNK) for _ in range(24)]
    paths = []
    for number in range(_CONTENTS):
        chosen = source.choices(range(len(chunks)), k=16 + 4 * number)
        path = folder / f"content-{number}.raw"
        path.write_bytes(b"".join(chunks[each] for each in chosen))
        paths.append(path)
    return paths


def write_tiers(path: Path) -> Path:
    """Write the packaged regions.yaml with tiers that a history crosses."""
    text = (files("imgstore") / "regions.yaml").read_text(encoding="utf-8")
    tiers = {
        "default: 0.02": "default: [{up_to_gb: 0.002, price: 0}, {up_to_gb: 0.005, price: 0.03}, {price: 0.01}]",
        "eastus: {northeurope: 0.05}": "eastus: {northeurope: 0.01}",  # Cheapest routes lead through eastus.
        "Standard_LRS: 0.05": "Standard_LRS: [{up_to_gb: 0.004, price: 0.07}, {price: 0.02}]",
    }
    for flat, tiered in tiers.items():
        assert flat in text
        text = text.replace(flat, tiered)
    path.write_text(text, encoding="utf-8")
    return path


@contextmanager
def failing_region(installation: Installation, *, fails: bool) -> Iterator[None]:
    """Let the store of eastus refuse all writes in the block."""
    real = installation.locator.store

    def store(slot: Slot) -> ObjectStore:
        return FaultyStore(real(slot), [Fault(method="put")]) if slot.key.region == "eastus" else real(slot)

    if fails:
        installation.locator.store = store  # type: ignore[method-assign]
    try:
        yield
    finally:
        installation.locator.store = real  # type: ignore[method-assign]


def commands_of(
    home: Installation, step: Step, contents: list[Path]
) -> tuple[Callable[[], Forecast], Callable[[], object]]:
    """Return the prediction and the execution of a step."""
    source, targets, version = contents[step.content], CHOICES[step.targets], step.version
    name = f"d{step.content}"
    match step.command:
        case "publish":
            return lambda: predict_create(home, source, version, targets), lambda: publish(
                home, source, version, targets
            )
        case "publish data":
            data = {3: contents[step.content - 1]}
            return (
                lambda: predict_create(home, source, version, targets, data=data),
                lambda: publish_disks(home, source, data, version, targets),
            )
        case "targets":
            return lambda: predict_targets(home, targets, version), lambda: retarget(home, targets, version)
        case "delete":
            return lambda: predict_delete(home, version), lambda: delete(home, version)
        case "disk" | "remote disk":
            asked = DiskOfImageRequest(
                group=GROUP,
                name=name,
                location=targets[-1].partition("=")[0],
                reference=reference(version),
                allow_remote=step.command == "remote disk",
            )
            return lambda: forecast_image_disk(home, ADMIN, asked), lambda: create_disk(home, ADMIN, asked)
        case "file disk":
            file = DiskRequest(group=GROUP, name=name, source=str(source), location=targets[-1].partition("=")[0])
            return lambda: forecast_source_disk(home, ADMIN, file), lambda: create_from_source(home, ADMIN, file)
        case "remote copy":
            copied = f"d{(step.content + 1) % _CONTENTS}"
            file = DiskRequest(
                group=GROUP, name=copied, source=name, location=targets[-1].partition("=")[0], allow_remote=True
            )
            return lambda: forecast_source_disk(home, ADMIN, file), lambda: create_from_source(home, ADMIN, file)
        case _:
            return (
                lambda: forecast_disk_deletion(home, ADMIN, group=GROUP, name=name),
                lambda: delete_disk(home, ADMIN, group=GROUP, name=name),
            )


def error_of(run: Callable[[], object]) -> tuple[object, str | None]:
    """Return the result, or the code of the error."""
    try:
        return run(), None
    except ImgstoreError as error:
        return None, error.error_code


def run_history(folder: Path, steps: list[Step], route: ReplicationRoute) -> None:
    """Predict and run each step, and compare. A step that fails in a store is repeated by later steps."""
    shutil.rmtree(folder / "home", ignore_errors=True)
    contents = write_contents(folder)
    regions = write_tiers(folder / "regions.yaml")
    with open_home(folder / "home", regions=regions, replication=ReplicationSettings(route=route)) as home:
        create_sample_gallery(home)
        for step in steps:
            if step.command == "gc":
                collect(home)
                continue
            predict, change = commands_of(home, step, contents)
            with reading_only(home):
                found, refusal = error_of(predict)
            known, intervals = {row.key for row in charges(home)}, open_intervals(home)
            with failing_region(home, fails=step.fails):
                _, error = error_of(change)
            if not step.fails:
                assert error == refusal, step
            if error is None and isinstance(found, Forecast):
                compare_with_bill(home, found, known, intervals)


CROSSING: Final = [
    Step(command="publish", version="1.0.0", content=4, targets=2, fails=False),
    Step(command="publish data", version="1.0.1", content=3, targets=3, fails=True),
    Step(command="publish data", version="1.0.1", content=3, targets=3, fails=False),
    Step(command="disk", version="1.0.0", content=0, targets=2, fails=False),
    Step(command="targets", version="1.0.0", content=0, targets=4, fails=False),
    Step(command="delete", version="1.0.0", content=0, targets=0, fails=False),
]
"""Crosses the tiers of egress and of storage, and repeats a failed publication."""


REMOTE: Final = [
    Step(command="publish", version="1.0.0", content=4, targets=0, fails=False),
    Step(command="remote disk", version="1.0.0", content=0, targets=2, fails=True),
    Step(command="publish", version="1.0.1", content=3, targets=2, fails=False),
    Step(command="remote disk", version="1.0.0", content=0, targets=2, fails=False),
    Step(command="remote copy", version="1.0.0", content=0, targets=4, fails=False),
    Step(command="targets", version="1.0.0", content=0, targets=2, fails=False),
    Step(command="delete disk", version="1.0.0", content=0, targets=0, fails=False),
]
"""Resumes a disk from another region after another version has brought shared segments into the region."""


@settings(max_examples=1, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(steps=STEPS, route=ROUTES)
@example(steps=CROSSING, route=ReplicationRoute.SOURCE)
@example(steps=REMOTE, route=ReplicationRoute.SOURCE)
def test_forecasts_equal_the_bill_in_a_history(tmp_path: Path, steps: list[Step], route: ReplicationRoute) -> None:
    run_history(tmp_path, steps, route)


@pytest.mark.long
@pytest.mark.timeout(0)
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS, route=ROUTES)
def test_forecasts_equal_the_bill_in_many_histories(tmp_path: Path, steps: list[Step], route: ReplicationRoute) -> None:
    run_history(tmp_path, steps, route)
