"""The other programs: each gives back what it was given, and one that is not there is named with what brings it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.engines import Bucket
from bench.peers import PEERS, WHOLE, Peer, PeerMissing, Place, call_roll
from bench.processes import ProgramFailed
from imgstore.testing.engines import Found, S3Engine, start_moto
from imgstore.testing.pytest_plugin import require

CONTENT = os.urandom(1 << 20) + bytes(1 << 20)


@pytest.fixture(scope="module")
def engine() -> Iterator[S3Engine]:
    require("moto")
    with start_moto() as started:
        yield started


def here(name: str) -> Peer:
    try:
        PEERS[name].make()
        PEERS[name].version()
    except PeerMissing as missing:
        pytest.skip(f"{missing}: {PEERS[name].get}")
    return PEERS[name]


@pytest.mark.parametrize("name", PEERS)
def test_a_disk_is_read_back_as_stored(name: str, engine: S3Engine, tmp_path: Path) -> None:
    peer = here(name)
    bucket = Bucket(engine=engine, name=engine.make_bucket(f"of-{name}"))
    place = Place(bucket=bucket, folder=tmp_path / "place")
    place.forget()
    peer.prepare(place)
    (tmp_path / "disk.raw").write_bytes(CONTENT)
    before = peer.stored_bytes(place)
    finished = peer.upload(tmp_path / "disk.raw", place, "disk")
    assert finished.seconds > 0
    grown = peer.stored_bytes(place) - before
    assert grown == len(CONTENT) if peer.whole else 1 << 20 <= grown < 1.2 * (1 << 20)
    (tmp_path / "out").mkdir()
    peer.download(place, "disk", tmp_path / "out" / "disk.raw")
    assert (tmp_path / "out" / "disk.raw").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["disk.raw"]
    place.forget()
    assert bucket.stored_bytes() == 0
    assert list(place.folder.iterdir()) == []


def test_a_peer_that_keeps_chunks_keeps_the_same_ones_once(tmp_path: Path) -> None:
    peer = here("borg")
    engine = S3Engine(found=Found(name="none", version="", how=""), endpoint="", access_key="", secret_key="")
    place = Place(bucket=Bucket(engine=engine, name="none"), folder=tmp_path / "place")
    place.folder.mkdir()
    peer.prepare(place)
    (tmp_path / "disk.raw").write_bytes(CONTENT)
    peer.upload(tmp_path / "disk.raw", place, "one")
    first = peer.stored_bytes(place)
    peer.upload(tmp_path / "disk.raw", place, "two")
    assert peer.stored_bytes(place) - first < first / 10


def test_a_failing_peer_gives_no_figure(engine: S3Engine, tmp_path: Path) -> None:
    place = Place(bucket=Bucket(engine=engine, name="no-such-bucket"), folder=tmp_path)
    (tmp_path / "disk.raw").write_bytes(CONTENT)
    with pytest.raises(ProgramFailed):
        here("boto3").upload(tmp_path / "disk.raw", place, "disk")


def test_who_is_not_here_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    roll = call_roll(["boto3", "restic", "borg"])
    assert list(roll.present) == ["boto3"]
    assert roll.missing == {
        "restic": "no restic on PATH: apt install restic",
        "borg": "no borg on PATH: apt install borgbackup",
    }
    assert [peer.name for peer in roll.peers()] == ["boto3"]
    assert roll.peers(whole=False) == ()


def test_the_list_of_engines_builds_nothing_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "not built" in call_roll(["mc"]).missing["mc"]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("PATH", "/nowhere")
    assert "no go to build mc with" in call_roll(["mc"], make=True).missing["mc"]


def test_requests_of_one_object_are_counted_apart() -> None:
    assert set(PEERS) - set(WHOLE) == {"restic", "borg"}
