"""The parts of the cases `storm` and `scale`: replayed traces, processes that begin at once, narrow links, the law."""

import math
import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.crowd import VERSION, Crowds
from bench.disks import BLOCK_BYTES, MIB, DiskName, raw_path
from bench.engines import SOURCE_REGION, Bucket
from bench.installation import Installation
from bench.narrow import NarrowMissing, check_narrow, start_narrow_engines
from bench.replay import guests, read_together, replay, run_guests
from bench.results import read_result
from bench.scalability import Law, fit
from bench.synthetic import make_dense, make_stand_ins
from bench.traces import RecordingDisk, Trace, serving
from bench.zoned import ZonedSite
from imgstore.testing.engines import S3Engine
from imgstore.testing.pytest_plugin import require


def test_the_law_is_found_in_its_own_throughputs() -> None:
    law = Law(alpha=0.03, beta=0.002, single=10e6)
    found = fit({count: law.throughput(count) for count in range(1, 11)})
    assert math.isclose(found.alpha, law.alpha, rel_tol=1e-6)
    assert math.isclose(found.beta, law.beta, rel_tol=1e-6)
    assert math.isclose(found.single, law.single, rel_tol=1e-6)


def test_throughputs_above_proportion_have_no_negative_parameters() -> None:
    found = fit({1: 10.0, 2: 20.4, 4: 41.0, 8: 81.0})
    assert (found.alpha, found.beta) == (0.0, 0.0)
    assert 10.0 < found.single < 10.3


def test_a_replay_reads_the_trace_in_order() -> None:
    trace = Trace(((0, 4096), (8192, 512), (4096, 100)))
    seen = list[tuple[int, int]]()

    def read(offset: int, length: int) -> bytes:
        seen.append((offset, length))
        return bytes(length)

    numbers = list[int]()
    done = replay(read, trace, numbers.append)
    assert tuple(seen) == trace.reads
    assert numbers == [0, 1, 2]
    assert done.read_bytes == 4096 + 512 + 100
    assert 0 < done.slowest_seconds <= done.seconds


def test_guests_begin_together_and_report(tmp_path: Path) -> None:
    make_stand_ins(tmp_path)
    disk, trace = raw_path(tmp_path, DiskName.V1), Trace(((0, 8192), (MIB, 4096)))
    trace.save(tmp_path / "trace.json")
    recorder = RecordingDisk(disk)
    with (
        serving(recorder, tmp_path / "nbd.sock"),
        guests([tmp_path / "nbd.sock", disk], tmp_path / "trace.json") as two,
    ):
        assert recorder.reads == [], "nobody begins before all are ready"
        found = run_guests(two)
        assert [each.read_bytes for each in found] == [8192 + 4096] * 2
        assert tuple(recorder.reads) == trace.reads
        latency = read_together(tmp_path / "nbd.sock", trace, count=5, seconds=0.05)
    assert 0 < latency.p50_seconds <= latency.p99_seconds
    assert 0 < latency.reader_p50_seconds <= latency.reader_p99_seconds
    assert latency.per_second > 0
    assert {offset // BLOCK_BYTES for offset, _ in recorder.reads} == set(trace.blocks())


@pytest.mark.long
def test_a_crowd_reads_disks_of_all_replicas(
    tmp_path: Path, minio_cluster: Callable[[int], tuple[S3Engine, ...]]
) -> None:
    """Ten readers get the disks of five replicas in turn, and each reads a whole disk."""
    site = ZonedSite(regions=tuple(Bucket(engine=engine, name=f"crowd-{os.getpid()}") for engine in minio_cluster(2)))
    gallery = Installation.make(tmp_path / "installation", site).make_gallery("crowd")
    make_dense(tmp_path / "disk.raw", MIB)
    gallery.publish(VERSION, tmp_path / "disk.raw", [f"{SOURCE_REGION}=5"])
    commands = [("read", "crowd", f"p{number}", "5", "5") for number in range(2)]
    with ExitStack() as stack:
        before = [bucket.engine.traffic()[1] for bucket in site.regions]
        found = Crowds(commands, gallery.installation.environment, stack).run()
        sent = [bucket.engine.traffic()[1] - was for bucket, was in zip(site.regions, before, strict=True)]
    assert found.read_bytes == 10 * MIB
    # A replica that answers late is passed over, so the counts may differ on a busy machine.
    assert sum(found.by_replica.values()) == 10
    assert set(found.by_replica) <= {str(ordinal) for ordinal in range(5)}
    assert sum(sent) > 10 * MIB, "no reader shares what another has fetched"


def test_a_narrow_engine_answers_from_its_own_network_and_leaves_nothing(tmp_path: Path) -> None:
    require("minio")
    try:
        check_narrow()
    except NarrowMissing as missing:
        pytest.skip(str(missing))
    with start_narrow_engines(tmp_path, 1, 10**8) as (engine,):
        assert not engine.endpoint.startswith("http://127.")
        engine.make_bucket("narrow")
        engine.client().put_object(Bucket="narrow", Key="a", Body=bytes(MIB))
        assert engine.client().get_object(Bucket="narrow", Key="a")["Body"].read() == bytes(MIB)
        assert f"imgbench-{os.getpid()}" in _namespaces()
    assert f"imgbench-{os.getpid()}" not in _namespaces()


def _namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout


@pytest.mark.long
def test_storm_from_end_to_end(tmp_path: Path) -> None:
    require("minio")
    assert main(["storm", "--quick", "--results", str(tmp_path / "results"), "--scratch", str(tmp_path)]) == 0
    figures = read_result(tmp_path / "results/storm.json").figures
    assert figures["storm_ratio"].value <= 1.05
    assert figures["frozen_slowest_seconds"].value > figures["refused_slowest_seconds"].value > 0
    assert figures["reads_p99_seconds"].value > 0
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.long
def test_scale_from_end_to_end(tmp_path: Path) -> None:
    require("minio")
    try:
        check_narrow()
    except NarrowMissing as missing:
        pytest.skip(str(missing))
    assert main(["scale", "--quick", "--results", str(tmp_path / "results"), "--scratch", str(tmp_path)]) == 0
    figures = read_result(tmp_path / "results/scale.json").figures
    assert 0 < figures["replicas_1_rate"].value < 10e6, "the link is the limit"
    assert {"efficiency", "alpha", "beta", "law_2_rate"} < set(figures)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]


@pytest.mark.long
def test_instances_from_end_to_end(tmp_path: Path) -> None:
    require("minio")
    require("postgresql")
    assert main(["instances", "--quick", "--results", str(tmp_path / "results"), "--scratch", str(tmp_path)]) == 0
    figures = read_result(tmp_path / "results/instances.json").figures
    for name in ("sqlite", "postgresql"):
        assert figures[f"{name}_create_seconds"].value > 0
        assert figures[f"{name}_create_spread"].value >= 0
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
