"""Overlays: writes, flushes, and the state after kills, power failures, full disks and failed syncs (D14, D15, D16)."""

import random
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from imgstore.domain.disks.sources import Extent
from imgstore.domain.effects import Effects
from imgstore.domain.errors import Conflict, HostFault, InvalidInput, NotFound, ObjectCorrupt, StoreFull, WorkHeld
from imgstore.domain.storage.sizes import BLOCK_BYTES, KIB, MIB, PIECE_BYTES
from imgstore.transfer.overlay import overlay as overlay_module
from imgstore.transfer.overlay.block_map import FIRST_SLOT
from imgstore.transfer.overlay.device import OverlayDevice
from imgstore.transfer.overlay.journal import (
    ENTRY,
    FrameKind,
    Header,
    OverlayBase,
    pack_frame,
    pack_header,
    unpack_header,
)
from imgstore.transfer.overlay.overlay import DATA_FILE, JOURNAL_FILE, Overlay, open_overlay, read_overlay_base
from tests.support.volatile_folder import BAD_MEDIUM, NO_SPACE, SECTOR_BYTES, Killed, VolatileFolder

SIZE = PIECE_BYTES + 24 * BLOCK_BYTES + 3 * SECTOR_BYTES
FIRST = PIECE_BYTES - 24 * BLOCK_BYTES
"""The tests write from here to the end, on both sides of the border of two pieces."""
BASE = OverlayBase(
    virtual_bytes=SIZE, disk_digest=bytes(range(32)), location="/subscriptions/s/d1", disk_key="os", region="eastus"
)


def noise(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def is_zero(data: bytes | bytearray) -> bool:
    return data.count(0) == len(data)


class SampleBase:
    """A read-only device with a hole."""

    virtual_bytes = SIZE
    is_read_only = True
    data = (Extent(offset=0, length=MIB), Extent(offset=FIRST + 16 * KIB, length=96 * KIB))

    def __init__(self) -> None:
        content = bytearray(SIZE)
        for each in self.data:
            content[each.offset : each.end] = noise(each.length, each.offset)
        self.content = bytes(content)
        self.reads: list[tuple[int, int]] = []

    def read_at(self, offset: int, length: int) -> bytes:
        assert length > 0
        assert offset + length <= SIZE
        self.reads.append((offset, length))
        return self.content[offset : offset + length]

    def extents(self, begin: int, end: int) -> Iterator[Extent]:
        for each in self.data:
            low, high = max(begin, each.offset), min(end, each.end)
            if low < high:
                yield Extent(offset=low, length=high - low)

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        raise AssertionError

    def write_zeroes(self, offset: int, length: int) -> None:
        raise AssertionError

    def flush(self) -> None:
        raise AssertionError

    def prefetch(self, offset: int, length: int) -> None:
        self.reads.append((offset, length))


BASE_DISK = SampleBase()


def open_device(path: Path) -> tuple[Overlay, OverlayDevice]:
    overlay = open_overlay(path, BASE)
    return overlay, OverlayDevice(BASE_DISK, overlay)


RANDOMS = st.integers(0, 1 << 32).map(random.Random)
"""Hypothesis's own generators prefer small numbers, and would nearly always keep or lose all sectors."""


class OverlayMachine(RuleBasedStateMachine):
    """An overlay compared with a bytearray, over kills and power failures at any step, full disks and failed syncs."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = VolatileFolder()
        self.now = bytearray(BASE_DISK.content)
        self.since_flush: dict[int, set[bytes]] = {}
        """The contents of each block that was written since the last flush, with the content of that flush."""
        self.open()

    def open(self) -> None:
        self.overlay = Overlay(self.folder, BASE, effects=Effects())
        self.device = OverlayDevice(BASE_DISK, self.overlay)

    def block(self, number: int) -> bytes:
        return bytes(self.now[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES])

    def change(self, offset: int, data: bytes, action: Callable[[], None]) -> None:
        """Apply a change to both sides."""
        blocks = range(offset // BLOCK_BYTES, -(-(offset + len(data)) // BLOCK_BYTES))
        before = {each: self.block(each) for each in blocks}
        self.now[offset : offset + len(data)] = data
        for each in blocks:
            self.since_flush.setdefault(each, {before[each]}).add(self.block(each))
        try:
            action()
        except (StoreFull, Killed):
            self.look(before)
            raise

    def look(self, before: dict[int, bytes]) -> None:
        """Read what an interrupted change left: each block is the old or the new one."""
        if self.folder._is_dead:
            return
        for number, old in before.items():
            begin = number * BLOCK_BYTES
            found = bytes(self.device.read_at(begin, min(BLOCK_BYTES, SIZE - begin)))
            assert found in (old, self.block(number))
            self.now[begin : begin + len(found)] = found

    def recover(self) -> None:
        """Open the overlay after a crash. Each block has a content since the last flush."""
        self.open()
        for number, contents in self.since_flush.items():
            begin = number * BLOCK_BYTES
            found = bytes(self.device.read_at(begin, min(BLOCK_BYTES, SIZE - begin)))
            assert found in contents
            self.now[begin : begin + len(found)] = found

    ranges = st.tuples(
        st.integers(0, (SIZE - FIRST) // SECTOR_BYTES - 1), st.sampled_from((1, 2, 7, 8, 9, 16, 40, 96))
    ).map(
        lambda drawn: (
            FIRST + drawn[0] * SECTOR_BYTES,
            min(drawn[1] * SECTOR_BYTES, SIZE - FIRST - drawn[0] * SECTOR_BYTES),
        )
    )

    @rule(where=ranges, seed=st.integers(0, 5))
    def write(self, where: tuple[int, int], seed: int) -> None:
        data = noise(where[1], seed)
        self.change(where[0], data, lambda: self.device.write_at(where[0], data))

    @rule(where=ranges)
    def zero(self, where: tuple[int, int]) -> None:
        self.change(where[0], bytes(where[1]), lambda: self.device.write_zeroes(*where))

    @rule()
    def flush(self) -> None:
        self.device.flush()
        self.since_flush.clear()

    @rule()
    def close_and_open(self) -> None:
        self.overlay.close()
        self.since_flush.clear()
        self.open()

    @rule()
    def kill(self) -> None:
        before = bytes(self.now)
        self.folder = self.folder.killed()
        self.recover()
        assert self.now == before, "a killed process loses nothing that was acknowledged"

    @rule(rng=RANDOMS)
    def power_off(self, rng: random.Random) -> None:
        self.folder = self.folder.powered_off(rng)
        self.recover()

    @rule(
        where=ranges,
        seed=st.integers(0, 5),
        steps=st.integers(0, 12),
        rng=st.none() | RANDOMS,
    )
    def die_in_a_write_and_flush(
        self, where: tuple[int, int], seed: int, steps: int, rng: random.Random | None
    ) -> None:
        self.folder.steps_left = steps
        try:
            self.write(where, seed)
            self.flush()
        except Killed:
            self.folder = self.folder.killed() if rng is None else self.folder.powered_off(rng)
            self.die_in_the_recovery(steps)
        self.folder.steps_left = None

    def die_in_the_recovery(self, steps: int) -> None:
        self.folder.steps_left = steps
        try:
            self.open()
        except Killed:
            self.folder = self.folder.killed()
        self.folder.steps_left = None
        self.recover()

    @rule(where=ranges, seed=st.integers(0, 5))
    def fill_the_disk(self, where: tuple[int, int], seed: int) -> None:
        self.folder.write_fault = NO_SPACE
        with pytest.raises(StoreFull):
            self.write(where, seed)
        self.folder.write_fault = None

    @rule()
    def flush_on_a_full_disk(self) -> None:
        self.folder.write_fault = NO_SPACE
        self.flush()
        self.folder.write_fault = None

    @rule(where=ranges, seed=st.integers(0, 5))
    def fail_a_sync(self, where: tuple[int, int], seed: int) -> None:
        self.write(where, seed)
        self.folder.sync_fault = BAD_MEDIUM
        with pytest.raises(HostFault):
            self.device.flush()
        self.folder.sync_fault = None
        with pytest.raises(HostFault, match="opened again"):
            self.device.flush()
        with pytest.raises(HostFault, match="opened again"):
            self.device.write_at(FIRST, b"x")
        self.overlay.abandon()
        self.recover()
        self.flush()

    @invariant()
    def equal(self) -> None:
        assert bytes(self.device.read_at(FIRST - 3, SIZE - FIRST + 3)) == self.now[FIRST - 3 :]
        at = 0
        for each in self.device.extents(0, SIZE):
            assert each.offset > at or not at
            assert is_zero(self.now[at : each.offset])
            at = each.end
        assert is_zero(self.now[at:])


def test_an_overlay_is_equal_to_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay_module, "_JOURNAL_BYTES_KEPT", 600)
    monkeypatch.setattr(overlay_module, "_PUNCHED_SLOTS_MIN", 1)
    run_state_machine_as_test(
        OverlayMachine,
        settings=settings(max_examples=30, stateful_step_count=20, suppress_health_check=list(HealthCheck)),
    )


@pytest.mark.parametrize("kept", ["journal", "data"])
def test_a_block_without_its_frame_or_its_bytes_is_the_flushed_block(kept: str) -> None:
    folder = VolatileFolder()
    overlay = Overlay(folder, BASE, effects=Effects())
    overlay.write(0, noise(BLOCK_BYTES, 1))
    overlay.flush()
    overlay.write(0, noise(BLOCK_BYTES, 2))
    overlay.write(1, noise(BLOCK_BYTES, 3))
    folder.nodes[kept].sync()
    folder = folder.powered_off(random.Random(1), keeps=0.0)
    for _ in range(2):
        overlay = Overlay(folder, BASE, effects=Effects())
        blocks = overlay.read(0, 2, lambda _first, count: bytes(count * BLOCK_BYTES))
        assert blocks == noise(BLOCK_BYTES, 1) + bytes(BLOCK_BYTES)
        overlay.write(2, noise(BLOCK_BYTES, 4))
        overlay.flush()
        folder = folder.killed()


@pytest.mark.long
def test_an_overlay_is_equal_to_its_model_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay_module, "_JOURNAL_BYTES_KEPT", 600)
    monkeypatch.setattr(overlay_module, "_PUNCHED_SLOTS_MIN", 1)
    run_state_machine_as_test(
        OverlayMachine,
        settings=settings(max_examples=800, stateful_step_count=50, suppress_health_check=list(HealthCheck)),
    )


_WRITER = """
import sys
from pathlib import Path
from tests.transfer.test_transfer_overlay import FIRST, noise, open_device
_, device = open_device(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    for block in range(8):
        device.write_at(FIRST + block * 8192, noise(4096, number) + noise(4096, number))
    device.flush()
    print(number, flush=True)
"""


def test_a_killed_process_keeps_every_flushed_write(tmp_path: Path) -> None:
    least = 0
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, tmp_path / "o"], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(5):
                least = int(writer.stdout.readline())
            with pytest.raises(WorkHeld):
                open_device(tmp_path / "o")
            writer.send_signal(signal.SIGKILL)
            least = max([least, *map(int, writer.stdout.read().split())])
        overlay, device = open_device(tmp_path / "o")
        known = {noise(4096, number): number for number in range(least, least + 2)}
        for block in range(16):
            assert known[bytes(device.read_at(FIRST + block * 4096, 4096))] >= least
        overlay.close()


def test_a_full_file_system_refuses_a_write_and_keeps_the_flushed_ones(tmp_path: Path) -> None:
    overlay, device = open_device(tmp_path / "o")
    device.write_at(FIRST, noise(64 * KIB))
    device.flush()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (80 * KIB, hard))
    try:
        with pytest.raises(StoreFull, match="cannot be used"):
            device.write_at(FIRST, noise(64 * KIB, 2))
        device.write_at(FIRST + BLOCK_BYTES, noise(BLOCK_BYTES, 3))
        device.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    expected = noise(64 * KIB)[:BLOCK_BYTES] + noise(BLOCK_BYTES, 3) + noise(64 * KIB)[2 * BLOCK_BYTES :]
    assert device.read_at(FIRST, 64 * KIB) == expected
    device.write_at(FIRST + 64 * KIB, noise(64 * KIB, 2))
    overlay.close()
    overlay, device = open_device(tmp_path / "o")
    assert device.read_at(FIRST, 128 * KIB) == expected + noise(64 * KIB, 2)
    overlay.close()


def test_an_overlay_belongs_to_one_base(tmp_path: Path) -> None:
    overlay, device = open_device(tmp_path / "o")
    device.write_at(FIRST, noise(512))
    overlay.close()
    overlay.close()
    assert read_overlay_base(tmp_path / "o") == BASE
    for other in ({"disk_digest": bytes(32)}, {"virtual_bytes": SIZE + 512}):
        fields = {name: getattr(BASE, name) for name in BASE.__slots__} | other
        with pytest.raises(Conflict, match="another base"):
            open_overlay(tmp_path / "o", OverlayBase(**fields))
    with pytest.raises(NotFound):
        read_overlay_base(tmp_path)
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(InvalidInput, match="not an overlay"):
        open_overlay(tmp_path, BASE)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["notes", "o"]
    (tmp_path / "o" / JOURNAL_FILE).write_bytes(b"IMGSTOVL" + bytes(200))
    for opens in (lambda: open_overlay(tmp_path / "o", BASE), lambda: read_overlay_base(tmp_path / "o")):
        with pytest.raises(InvalidInput, match="not an overlay"):
            opens()


def test_a_journal_of_another_program_is_refused(tmp_path: Path) -> None:
    header = Header(base=BASE, generation=bytes(8))
    outside = np.array([(SIZE // BLOCK_BYTES + 1, FIRST_SLOT, 0)], dtype=ENTRY)
    reserved = np.array([(0, 1, 0)], dtype=ENTRY)
    for name, frame in (
        ("block", pack_frame(0, FrameKind.DATA, count=1, entries=outside)),
        ("slot", pack_frame(0, FrameKind.DATA, count=1, entries=reserved)),
        ("zeros", pack_frame(0, FrameKind.ZEROS, count=1, value=1 << 60)),
    ):
        open_overlay(tmp_path / name, BASE).close()
        (tmp_path / name / JOURNAL_FILE).write_bytes(pack_header(header) + frame)
        with pytest.raises(InvalidInput, match="not an overlay"):
            open_overlay(tmp_path / name, BASE)
    for description in (b"{}", b"[1]", b"\xff"):
        fields = struct.pack("<8sIIQ32s8s", b"IMGSTOVL", 1, len(description), SIZE, bytes(32), bytes(8))
        check = struct.pack("<Q", xxhash.xxh3_64_intdigest(fields + description))
        assert unpack_header(fields + check + description) is None


def test_damaged_bytes_of_an_overlay_are_never_served(tmp_path: Path) -> None:
    overlay, device = open_device(tmp_path / "o")
    device.write_at(FIRST, noise(64 * KIB))
    overlay.close()
    with (tmp_path / "o" / DATA_FILE).open("r+b") as file:
        file.seek(5 * BLOCK_BYTES + 77)
        file.write(b"rot")
    overlay, device = open_device(tmp_path / "o")
    with pytest.raises(ObjectCorrupt, match="damaged"):
        device.read_at(FIRST, 64 * KIB)
    assert device.read_at(FIRST, 5 * BLOCK_BYTES) == noise(64 * KIB)[: 5 * BLOCK_BYTES]
    overlay.close()


def test_threads_read_whole_blocks_and_lose_no_part_of_a_block(tmp_path: Path) -> None:
    overlay, device = open_device(tmp_path / "o")
    done = threading.Event()

    def write_sector(sector: int) -> None:
        for number in range(150):
            device.write_at(FIRST + sector * SECTOR_BYTES, bytes([number]) * SECTOR_BYTES)
            if number % 20 == 0:
                device.flush()

    def write_whole() -> None:
        for number in range(300):
            device.write_at(FIRST + 8 * BLOCK_BYTES, bytes([1 + number % 250]) * 4 * BLOCK_BYTES)

    def read() -> None:
        while not done.is_set():
            data = bytes(device.read_at(FIRST + 8 * BLOCK_BYTES, 4 * BLOCK_BYTES))
            for at in range(0, len(data), BLOCK_BYTES):
                assert data[at : at + BLOCK_BYTES] in (
                    data[at : at + 1] * BLOCK_BYTES,
                    BASE_DISK.content[FIRST + 8 * BLOCK_BYTES + at :][:BLOCK_BYTES],
                )

    with ThreadPoolExecutor(11) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        writers = [*(pool.submit(write_sector, each) for each in range(8)), pool.submit(write_whole)]
        for writer in writers:
            writer.result()
        done.set()
        for reader in readers:
            reader.result()
    overlay.close()
    overlay, device = open_device(tmp_path / "o")
    assert device.read_at(FIRST, BLOCK_BYTES) == bytes([149]) * BLOCK_BYTES
    overlay.close()


def test_a_discard_of_a_whole_disk_marks_the_data_of_the_base_only(tmp_path: Path) -> None:
    overlay, device = open_device(tmp_path / "o")
    device.write_at(FIRST, noise(64 * KIB))
    device.write_zeroes(0, SIZE)
    overlay.close()
    assert (tmp_path / "o" / DATA_FILE).stat().st_blocks == 0, "the space of discarded blocks is free"
    overlay, device = open_device(tmp_path / "o")
    assert list(device.extents(0, SIZE)) == []
    assert device.read_at(0, SIZE) == bytes(SIZE)
    assert overlay.changed_bytes == 0
    assert overlay.has_changes
    device.prefetch(0, MIB)
    overlay.close()


def test_equal_changes_have_equal_digests(tmp_path: Path) -> None:
    digests = set[bytes]()
    for name, order in (("a", (0, 1, 2)), ("b", (2, 1, 0, 1))):
        overlay, device = open_device(tmp_path / name)
        empty = overlay.content_digest()
        for number in order:
            device.write_at(FIRST + number * 8192, noise(8192, number))
        device.write_zeroes(FIRST + 16 * KIB + 8192, BLOCK_BYTES)
        assert overlay.content_digest() != empty
        digests.add(overlay.content_digest())
        overlay.close()
        overlay, _ = open_device(tmp_path / name)
        digests.add(overlay.content_digest())
        overlay.close()
    assert len(digests) == 1
