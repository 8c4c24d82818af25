"""Servers of a disk: the client of the benchmarks reads from each the bytes of the disk."""

import os
import shutil
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.block_servers import LOCAL, BlockServer, Origin, QemuNbd, RcloneMount, find_servers
from bench.engines import Bucket
from bench.installation import Gallery, Installation
from bench.nbd_client import NbdClient, NbdFailed
from bench.results import read_result
from imgstore.testing.engines import Found, S3Engine
from imgstore.testing.pytest_plugin import require

CONTENT = os.urandom(64 << 10) + bytes(64 << 10) + os.urandom(4096)


def origin(folder: Path) -> Origin:
    engine = S3Engine(found=Found(name="none", version="", how=""), endpoint="", access_key="", secret_key="")
    bucket = Bucket(engine=engine, name="none")
    (folder / "disk.raw").write_bytes(CONTENT)
    return Origin(
        file=folder / "disk.raw",
        bucket=bucket,
        blocks=bucket,
        gallery=Gallery(installation=Installation(environment={}), name="none"),
        version="1.0.0",
        cache=folder / "cache",
        folder=folder / "peer",
    )


@pytest.mark.timeout(60)
@pytest.mark.parametrize("server", LOCAL, ids=lambda server: server.name)
def test_a_server_of_the_local_file_serves_its_bytes(server: BlockServer, tmp_path: Path) -> None:
    if fault := server.missing():
        pytest.skip(fault)
    offsets = [4096 * number for number in (0, 31, 15, 16, 32)]
    with (
        server.serve(origin(tmp_path), tmp_path / "socket"),
        NbdClient(tmp_path / "socket", wait_seconds=30) as client,
    ):
        assert client.virtual_bytes == len(CONTENT)
        assert [client.read(at, 4096) for at in offsets] == [CONTENT[at : at + 4096] for at in offsets]
        assert len(client.seconds_each(offsets, 4096)) == len(offsets)
        assert client.read_at_depth(offsets, 4096, 2) > 0
        with pytest.raises(NbdFailed, match="refused"):
            client.read(len(CONTENT), 4096)
    assert not (tmp_path / "socket").exists()


def test_a_server_that_is_not_here_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found, faults = find_servers([QemuNbd(), RcloneMount()])
    assert found == []
    assert faults["qemu-nbd"] == "no qemu-nbd: apt install qemu-utils"
    assert "rclone" in faults["rclone-mount"] or "fusermount3" in faults["rclone-mount"]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", ["lazy", "boot"])
def test_lazy_disks_from_end_to_end(case: str, tmp_path: Path) -> None:
    for engine in ("minio", "nbdcopy", "nbdkit", "toxiproxy", "boot-disk", "qemu-system"):
        require(engine)
    assert main([case, "--quick", "--results", str(tmp_path / "results"), "--scratch", str(tmp_path)]) == 0
    made = read_result(tmp_path / f"results/{case}.json")
    for goal in made.goals:
        assert made.figures[goal.figure].value > 0
    shutil.rmtree(tmp_path / "results")
    assert list(tmp_path.iterdir()) == []
