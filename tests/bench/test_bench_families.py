"""The disks of other file systems hold the files of those on ext4, made as root in a mount namespace of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.disks import DiskName, Family, ProgramMissing
from bench.families import PROGRAMS, OriginMissing, check_programs, differ, make_family

MAKER = Path(__file__).with_name("family_maker.py")


def test_what_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.disks.shutil.which", lambda *_, **__: None)
    for family in PROGRAMS:
        with pytest.raises(ProgramMissing, match=r"no mkfs\.\w+: apt install (xfsprogs|btrfs-progs|ntfs-3g)"):
            check_programs(family)


def test_the_disks_on_ext4_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bench.families.check_programs", lambda _: None)
    with pytest.raises(OriginMissing, match=r"no v1, v2, v3, r2 in .*bench disks"):
        make_family(tmp_path, Family.XFS, vhd=False)


def test_a_file_differs_by_kind_length_and_second(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("a")
    assert differ(one, other), "it is not there"
    other.write_text("b")
    os.utime(one, (5, 5.4))
    os.utime(other, (9, 5.9))
    assert not differ(one, other)
    os.utime(other, (9, 6))
    assert differ(one, other)
    os.utime(other, (9, 5))
    other.write_text("bb")
    os.utime(other, (9, 5))
    assert differ(one, other)
    other.unlink()
    other.mkdir()
    assert differ(one, other)


@pytest.mark.long
@pytest.mark.parametrize("family", PROGRAMS)
def test_each_disk_holds_the_files_of_the_one_on_ext4(family: Family, tmp_path: Path) -> None:
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        pytest.skip("root and loop devices are needed")
    try:
        check_programs(family)
    except ProgramMissing as missing:
        pytest.skip(str(missing))
    apart = "unshare", "--mount", "--propagation", "private", "--pid", "--mount-proc", "--fork", "--kill-child"
    done = subprocess.run(
        [*apart, sys.executable, MAKER, tmp_path, family], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if not line.startswith("making")]
    assert told == [f"{name}: the same files" for name in DiskName]
