"""Boot packs under faults: killed builders, silent stores, and many boots of one host."""

import json
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from imgstore.domain.storage import object_keys
from imgstore.domain.storage.sizes import BLOCK_BYTES, MIB
from imgstore.operations.disks.boot_traces import publish_trace
from imgstore.operations.disks.lazy import LazyDisk, open_lazy_image
from imgstore.operations.installation import Installation
from imgstore.operations.replication.boot_packs import read_pack_key
from imgstore.transfer.pack_reader import PackReader
from imgstore.transfer.segment_cache import SegmentCache
from tests.support.sample_gallery import ADMIN, SampleImages, audit, collect, open_home, reference

pytest_plugins = ["tests.support.published_gallery"]
ROOT = Path(__file__).parent.parent.parent


@contextmanager
def open_version(installation: Installation) -> Iterator[LazyDisk]:
    with open_lazy_image(installation, ADMIN, reference=reference("1.0.0")) as opened:
        yield opened


def choose_blocks(path: Path, count: int) -> list[int]:
    """Return blocks with data in a random order."""
    content = path.read_bytes()
    used = [at for at in range(len(content) // BLOCK_BYTES) if any(content[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES])]
    return random.Random(5).sample(used, count)


def record(installation: Installation, blocks: Sequence[int]) -> int:
    """Build the packs of a trace, and return the size of a pack."""
    with open_version(installation) as opened:
        reports = publish_trace(installation, ADMIN, opened=opened, virtual_bytes=opened.virtual_bytes, blocks=blocks)
    return reports[0].stored_bytes


def read_blocks(opened: LazyDisk, blocks: Sequence[int]) -> bytes:
    return b"".join(bytes(opened.read_at(block * BLOCK_BYTES, BLOCK_BYTES)) for block in blocks)


def expect_blocks(path: Path, blocks: Sequence[int]) -> bytes:
    content = path.read_bytes()
    return b"".join(content[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] for block in blocks)


def test_a_killed_builder_leaves_whole_packs_or_none(tmp_path: Path, samples: SampleImages) -> None:
    """Invariant D18."""
    shutil.copytree(samples.home, tmp_path / "home")
    blocks = choose_blocks(samples.first, 200)

    def run(fatal: int) -> subprocess.CompletedProcess[str]:
        orders = {"home": str(tmp_path / "home"), "fatal": fatal, "blocks": blocks}
        words = [sys.executable, "-m", "tests.support.trace_process", json.dumps(orders)]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)

    whole = run(0)
    assert whole.returncode == 0, whole.stderr
    steps = int(whole.stdout)
    assert steps > 20
    for fatal in random.Random(steps).sample(range(1, steps), 2):
        for pack in (tmp_path / "home" / "regions").glob("*/*/pools/*/*/*/packs/*"):
            pack.unlink()
        assert run(fatal).returncode == -signal.SIGKILL
        with open_home(tmp_path / "home") as installation:
            installation.host_cache.open().clear()
            with open_version(installation) as opened:
                assert read_blocks(opened, blocks) == expect_blocks(samples.first, blocks)
            collect(installation)
            audit(installation, quiet=False)
    assert run(0).returncode == 0


def test_boots_of_one_host_fetch_a_pack_once(published: Installation, samples: SampleImages) -> None:
    """Invariant D13."""
    blocks = choose_blocks(samples.first, 1500)
    pack_bytes = record(published, blocks)
    published.host_cache.open().clear()
    expected = expect_blocks(samples.first, blocks)
    begin = threading.Barrier(4)

    def boot(_number: int) -> int:
        with open_home(published.home) as own:  # A process of its own has a cache object of its own.
            begin.wait()
            with open_version(own) as opened:
                assert read_blocks(opened, blocks) == expected
                assert opened.pack is not None
                assert opened.pack.wait_until_read()
                return opened.fetched_bytes

    with ThreadPoolExecutor(4) as pool:
        fetched = list(pool.map(boot, range(4)))
    heads_bytes = 4 * 32 * 1024
    assert sum(fetched) <= pack_bytes + heads_bytes


class _Silent:
    """A store that does not answer requests for the frames of a pack until it is released."""

    def __init__(self, store: object) -> None:
        self._store = store
        self.released = threading.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        if offset:
            self.released.wait(60)
        found: bytes = self._store.get_range(key, offset, length)  # type: ignore[attr-defined]
        return found


def test_a_read_does_not_wait_for_a_silent_store(
    published: Installation, samples: SampleImages, tmp_path: Path
) -> None:
    """A guest reads the segments, perhaps of another replica, and the late pack is not used any more."""
    blocks = choose_blocks(samples.first, 1500)
    record(published, blocks)
    late: list[float] = []
    faults: list[str] = []
    with open_version(published) as opened:
        access = published.access(opened.pinned.slot)
        silent = _Silent(access.store)
        pack = PackReader(
            [replace(access, store=silent, on_late=late.append)],  # type: ignore[arg-type]
            object_keys.pack_key(opened.pinned.manifest.digest),
            opened.manifest,
            opened.pinned.manifest.digest,
            pack_key=read_pack_key(published, opened.pinned.slot),
            cache=SegmentCache(tmp_path / "cache", 100 * MIB),
            on_fetched=lambda _length: None,
            on_fault=faults.append,
            check_cancelled=lambda: None,
            patience_seconds=0.01,
        )
        try:
            pack.start()
            runs = opened.manifest.runs
            last = blocks[-1]
            row = int(np.searchsorted(runs.block, last, side="right")) - 1
            at = int(runs.at[row]) + last - int(runs.block[row])
            while not late:  # The first read may be earlier than the head.
                assert pack.read(int(runs.segment[row]), at * BLOCK_BYTES, BLOCK_BYTES) is None
            assert faults == ["the store is too slow"]
            assert not pack.holds(int(runs.segment[row]), at * BLOCK_BYTES, BLOCK_BYTES)
        finally:
            silent.released.set()
            pack.close()
