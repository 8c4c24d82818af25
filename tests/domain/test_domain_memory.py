"""Tests of the free memory of a machine and of control groups, with the files of the kernel."""

from pathlib import Path

import pytest

from imgstore.domain.host.memory import available_memory_bytes


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 4_096_000),
        ({".": "max", "a": "max", "a/b": "max"}, 4_096_000),
        ({"a/b": "3000000"}, 2_100_000),
        ({"a": "1500000", "a/b": "3000000"}, 600_000),
        ({".": "500000"}, 0),
    ],
)
def test_the_smallest_limit_counts(tmp_path: Path, limits: dict[str, str], expected: int) -> None:
    write(tmp_path / "proc/meminfo", "MemTotal: 8000 kB\nMemFree: 1000 kB\nMemAvailable: 4000 kB\n")
    write(tmp_path / "proc/self/cgroup", "4:memory:/c\n0::/a/b\n")
    for name, limit in limits.items():
        folder = tmp_path / "sys/fs/cgroup" / name
        write(folder / "memory.max", f"{limit}\n")
        write(folder / "memory.current", "1000000\n")
        write(folder / "memory.stat", "anon 900000\ninactive_file 100000\n")
    assert available_memory_bytes(tmp_path) == expected


def test_an_unknown_system_has_no_limit(tmp_path: Path) -> None:
    assert available_memory_bytes(tmp_path) is None
    assert available_memory_bytes() != 0
