"""What the cases stand on: timing a program, and disks from a seed."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.disks import BLOCK_BYTES, MIB, DiskName, nonzero_blocks, raw_path
from bench.processes import ProgramFailed, run_timed
from bench.synthetic import make_dense, make_sparse_raw, make_sparse_vhd, make_stand_ins
from imgstore.testing.pytest_plugin import require


def test_a_program_is_run_with_its_output_and_its_memory() -> None:
    program = "import os; held = bytearray(200 << 20); print(os.environ['SAID'])"
    finished = run_timed([sys.executable, "-c", program], {"SAID": "this"})
    assert finished.output == "this\n"
    assert 200 * MIB <= finished.peak_bytes < 300 * MIB
    assert finished.seconds > 0


def test_a_program_that_holds_little_is_not_charged_with_what_the_bench_holds() -> None:
    held = bytearray(b"x") * (200 * MIB)
    finished = run_timed(["true"])
    assert finished.peak_bytes < 100 * MIB < len(held)


def test_processor_time_is_that_of_the_program_and_its_children() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    assert run_timed([sys.executable, "-c", program]).cpu_seconds >= 0.3


def test_a_program_runs_in_the_given_folder(tmp_path: Path) -> None:
    assert run_timed(["pwd"], folder=tmp_path).output == f"{tmp_path}\n"


def test_a_program_that_is_not_there_gives_no_figure() -> None:
    with pytest.raises(ProgramFailed, match="no-such-program"):
        run_timed(["no-such-program"])


def test_a_failed_program_gives_no_figure_but_the_reason() -> None:
    with pytest.raises(ProgramFailed, match=r"(?s)ended with 3.*no such disk") as caught:
        run_timed([sys.executable, "-c", "import sys; print('no such disk', file=sys.stderr); sys.exit(3)"])
    assert caught.value.code == 3


def test_dense_bytes_come_from_their_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_dense(tmp_path / name, 17 * MIB + 5, seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert len(a) == 17 * MIB + 5
    assert a != c


def test_a_sparse_disk_holds_a_few_islands_up_to_its_end(tmp_path: Path) -> None:
    make_sparse_raw(tmp_path / "disk.raw", 64 * MIB, islands=4)
    whole = (tmp_path / "disk.raw").read_bytes()
    assert len(whole) == 64 * MIB
    assert nonzero_blocks(whole) == 4 * MIB // BLOCK_BYTES
    assert any(whole[-BLOCK_BYTES:])
    assert os.stat(tmp_path / "disk.raw").st_blocks * 512 < 6 * MIB


def test_a_sparse_vhd_is_a_fixed_one_of_that_size(tmp_path: Path) -> None:
    require("qemu-img")
    make_sparse_vhd(tmp_path / "disk.vhd", 64 * MIB, islands=2)
    whole = (tmp_path / "disk.vhd").read_bytes()
    assert len(whole) == 64 * MIB + 512
    assert whole[-512:-504] == b"conectix"
    assert nonzero_blocks(whole[:-512]) == 2 * MIB // BLOCK_BYTES


def test_the_stand_ins_differ_as_the_real_disks_do(tmp_path: Path) -> None:
    make_stand_ins(tmp_path)
    blocks = {name: np.fromfile(raw_path(tmp_path, name), dtype=np.uint8).reshape(-1, BLOCK_BYTES) for name in DiskName}
    known = {name: {block.tobytes() for block in disk} for name, disk in blocks.items()}
    assert known[DiskName.V1] < known[DiskName.V2]
    assert len(known[DiskName.V3] - known[DiskName.V2]) == 10
    assert known[DiskName.R2] == known[DiskName.V2]
    assert not np.array_equal(blocks[DiskName.R2], blocks[DiskName.V2])
