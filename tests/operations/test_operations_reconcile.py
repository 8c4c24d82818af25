"""`bill reconcile` finds each difference between ledger, manifests and listings, and none where nothing is wrong."""

import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from imgstore.domain.errors import AccessDenied, ImgstoreError, InvalidInput, NotFound
from imgstore.domain.identity.access import Principal
from imgstore.domain.storage.digests import Digest
from imgstore.ledger.months import Month
from imgstore.ledger.reconciliation import DifferenceKind, OverheadKind, Reconciliation
from imgstore.ledger.traffic import compare_readings
from imgstore.operations.diagnosis.reconcile import reconcile
from imgstore.operations.diagnosis.traffic_readings import read_traffic
from imgstore.operations.disks import disks
from imgstore.operations.installation import Installation
from imgstore.stores.interface import Body, ObjectInfo
from imgstore.testing.engines import S3Engine
from imgstore.transfer.slot_access import SlotAccess
from imgstore.wire.responses.reconciliation import counters_json, read_counters
from tests.support.crash_scenes import create_minio_scene
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
    all_slots,
    charges,
    collect,
    delete,
    make_disk,
    open_home,
    publish,
)

pytest_plugins = ["tests.support.published_gallery"]

EXTRA = "ab" * 32


def check(installation: Installation) -> Reconciliation:
    report = reconcile(installation, ADMIN)
    for slot in report.slots:
        if report.agrees:
            assert slot.billed_bytes == slot.named_bytes == slot.billable_bytes
    return report


def overhead(report: Reconciliation, kind: OverheadKind) -> int:
    return sum(each.overhead.get(kind, 0) for each in report.slots)


def test_nothing_differs_through_a_life(published: Installation, samples: SampleImages) -> None:
    publish(published, samples.second, "1.0.1")
    make_disk(published, "d1", version="1.0.0")
    first = check(published)
    assert first.agrees, first.differences
    assert overhead(first, OverheadKind.FINGERPRINTS) > 0
    assert overhead(first, OverheadKind.REVISIONS) > 0
    assert first.installation_overhead["eastus"] > 0
    assert {each.region: sum(each.arrived.values()) > 0 for each in first.egress}["eastus"]
    delete(published, "1.0.1")
    deleted = check(published)
    assert deleted.agrees, deleted.differences
    assert overhead(deleted, OverheadKind.UNREFERENCED) > 0
    collect(published, grace_hours=1)
    marked = check(published)
    assert marked.agrees, marked.differences
    assert overhead(marked, OverheadKind.GRACE) == overhead(deleted, OverheadKind.UNREFERENCED)
    delete(published)
    assert check(published).agrees, "the manifest that the disk names stays"
    disks.delete_disk(published, ADMIN, group=GROUP, name="d1")
    collect(published)
    last = check(published)
    assert last.agrees, last.differences
    assert sum(each.billed_bytes for each in last.slots) == 0


def test_segments_of_an_abandoned_work_are_overhead(empty: Installation, samples: SampleImages) -> None:
    put, stored = SlotAccess.put_segment, list[Digest]()

    def interrupt(access: SlotAccess, name: Digest, body: Body) -> ObjectInfo:
        if stored:
            raise KeyboardInterrupt
        stored.append(name)
        return put(access, name, body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SlotAccess, "put_segment", interrupt)
        with pytest.raises(KeyboardInterrupt):
            publish(empty, samples.first, targets=["southcentralus"])
    at_work = check(empty)
    assert at_work.agrees, at_work.differences
    assert overhead(at_work, OverheadKind.WORKS) > 0
    delete(empty)
    deleted = check(empty)
    assert deleted.agrees, deleted.differences
    assert overhead(deleted, OverheadKind.UNREFERENCED) == overhead(at_work, OverheadKind.WORKS)
    collect(empty)
    assert check(empty).agrees


def eastus(installation: Installation) -> Path:
    (found,) = (installation.home / "regions").glob("*eastus/zone-*/pools/*/*/replica-0")
    return found


def any_segment(installation: Installation) -> Path:
    return min(eastus(installation).glob("segments/*/*"))


def add_segment(installation: Installation) -> None:
    path = eastus(installation) / "segments" / EXTRA[:2] / EXTRA
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"extra")


def add_file(installation: Installation) -> None:
    (eastus(installation) / "strange").write_bytes(b"12")


def add_manifest(installation: Installation) -> None:
    path = eastus(installation) / "manifests" / str(uuid.UUID(int=1)) / "os"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"none")


def remove_segment(installation: Installation) -> None:
    any_segment(installation).unlink()


def remove_manifest(installation: Installation) -> None:
    min(eastus(installation).glob("manifests/*/os")).unlink()


def truncate_segment(installation: Installation) -> None:
    os.truncate(any_segment(installation), 17)


def damage_manifest(installation: Installation) -> None:
    path = min(eastus(installation).glob("manifests/*/os"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def close_interval(installation: Installation) -> None:
    with installation.catalog.transaction() as transaction:
        slot = next(each for each in transaction.slots.list_all() if each.key.region == "eastus")
        (interval,) = transaction.ledger.open_intervals(slot.uid)
        transaction.ledger.close_interval(interval.uid, transaction.now())


def double_interval(installation: Installation) -> None:
    _copy_interval(installation, is_closed=False)


def double_past(installation: Installation) -> None:
    _copy_interval(installation, is_closed=True)


def _copy_interval(installation: Installation, *, is_closed: bool) -> None:
    with installation.catalog.transaction() as transaction:
        slot = next(each for each in transaction.slots.list_all() if each.key.region == "eastus")
        (interval,) = transaction.ledger.open_intervals(slot.uid)
        end = interval.opened_at + timedelta(microseconds=1) if is_closed else None
        transaction.ledger.open_interval(replace(interval, uid=str(uuid.UUID(int=2)), closed_at=end))


@pytest.mark.parametrize(
    ("plant", "kinds"),
    [
        (add_segment, {DifferenceKind.EXTRA}),
        (add_file, {DifferenceKind.EXTRA}),
        (add_manifest, {DifferenceKind.EXTRA}),
        (remove_segment, {DifferenceKind.MISSING}),
        (remove_manifest, {DifferenceKind.MISSING, DifferenceKind.MANIFEST}),
        (truncate_segment, {DifferenceKind.SIZE}),
        (damage_manifest, {DifferenceKind.MANIFEST}),
        (close_interval, {DifferenceKind.INTERVAL}),
        (double_interval, {DifferenceKind.INTERVAL, DifferenceKind.OVERLAP}),
        (double_past, {DifferenceKind.OVERLAP}),
    ],
)
def test_each_planted_difference_is_found(
    published: Installation, plant: Callable[[Installation], None], kinds: set[DifferenceKind]
) -> None:
    plant(published)
    report = check(published)
    assert {each.kind for each in report.differences} == kinds
    assert {each.region for each in report.differences} == {"eastus"}
    assert not report.agrees
    assert all(each.subject for each in report.differences)


def test_a_month_leaves_out_overlaps_of_other_months(published: Installation) -> None:
    double_past(published)
    present = Month.of(published.effects.now())
    assert not reconcile(published, ADMIN, present).agrees
    later = reconcile(published, ADMIN, present.next)
    assert later.agrees
    assert later.egress == []


def test_a_region_without_its_store_is_an_error(published: Installation) -> None:
    (region,) = (published.home / "regions").glob("*eastus")
    region.rename(region.with_name("gone"))
    with pytest.raises(ImgstoreError):
        check(published)


def test_only_administrators_reconcile(published: Installation) -> None:
    with pytest.raises((AccessDenied, NotFound)):
        reconcile(published, Principal(name="somebody", grants=()))


def run(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["bill", "reconcile", "--home", str(home), *words], prog_name="imgstore")


def test_exit_code(tmp_path: Path, samples: SampleImages) -> None:
    home = tmp_path / "home"
    shutil.copytree(samples.home, home)
    clean = run(home)
    assert clean.exit_code == 0, clean.output
    assert json.loads(clean.stdout)["agrees"] is True
    with open_home(home) as installation:
        before = files(home)
        add_segment(installation)
    dirty = run(home)
    assert dirty.exit_code == 1
    (only,) = json.loads(dirty.stdout)["differences"]
    assert (only["kind"], only["foundBytes"], only["expectedBytes"]) == ("extra", 5, 0)
    assert only["subject"].endswith(EXTRA)
    table = run(home, "-o", "table")
    assert table.exit_code == 1
    assert "extra" in table.stdout
    assert "DIFFERS" in table.stdout
    assert files(home) - before == {f"{EXTRA[:2]}/{EXTRA}"}, "the command writes nothing"


def files(home: Path) -> set[Any]:
    return {"/".join(each.parts[-2:]) for each in (home / "regions").rglob("*") if each.is_file()}


def test_minio(tmp_path: Path, minio_cluster: Callable[[int], tuple[S3Engine, ...]], samples: SampleImages) -> None:
    engines = minio_cluster(3)
    name = "reconcile"
    scene = create_minio_scene(tmp_path / "scene", engines, name)
    scene.prepare()
    client = engines[1].client()
    with scene.open() as installation:
        publish(installation, samples.first, targets=["southcentralus", "eastus", "westus2=1=Standard_ZRS"])
        report = check(installation)
        assert report.agrees, report.differences
        prefix = next(each.prefix for each in all_slots(installation) if each.key.region == "eastus")
        listed = client.list_objects_v2(Bucket=f"eastus-{name}", Prefix=f"{prefix}segments/")["Contents"]
        first, second = listed[0]["Key"], listed[1]["Key"]
        client.delete_object(Bucket=f"eastus-{name}", Key=first)
        client.put_object(Bucket=f"eastus-{name}", Key=second, Body=b"short")
        client.put_object(Bucket=f"eastus-{name}", Key=f"{prefix}strange", Body=b"12")
        found = {(each.kind, each.subject) for each in check(installation).differences}
        assert found == {
            (DifferenceKind.MISSING, first),
            (DifferenceKind.SIZE, second),
            (DifferenceKind.EXTRA, f"{prefix}strange"),
        }
    client.close()


def test_traffic_counters(
    tmp_path: Path, minio_cluster: Callable[[int], tuple[S3Engine, ...]], samples: SampleImages
) -> None:
    """The bytes that each store received have a name up to 0.5%, and bytes of others are found (invariant M15)."""
    engines = minio_cluster(3)
    scene = create_minio_scene(tmp_path / "scene", engines, "counted")
    scene.prepare()
    with scene.open() as installation:
        begin = read_traffic(installation, ADMIN, check(installation))
        publish(installation, samples.first, targets=["southcentralus=2", "eastus", "westus2=1=Standard_ZRS"])
        publish(installation, samples.second, "1.0.1", ["southcentralus", "eastus"])
        end = read_traffic(installation, ADMIN, check(installation))
        found = {endpoint: compare_readings(endpoint, begin[endpoint], end[endpoint]) for endpoint in begin}
        assert all(each.agrees for each in found.values()), found
        east = found[engines[1].endpoint]
        assert east.egress_bytes > 0.9 * samples_bytes(installation)
        client = engines[1].client()
        client.put_object(Bucket="eastus-counted", Key="foreign", Body=bytes(east.received_bytes // 100))
        client.close()
        later = read_traffic(installation, ADMIN, check(installation))
        assert not compare_readings("", begin[engines[1].endpoint], later[engines[1].endpoint]).agrees
        assert read_counters({"counters": counters_json(begin)}) == begin


def samples_bytes(installation: Installation) -> int:
    return sum(each.delivered_bytes for each in charges(installation) if each.target == "eastus")


def test_directories_have_no_counters(published: Installation) -> None:
    with pytest.raises(InvalidInput, match="no traffic was counted"):
        read_traffic(published, ADMIN, check(published))
