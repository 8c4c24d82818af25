"""A segment cache whose files a person, a program or a broken disk changes between and during reads (D12).

Any read returns the right bytes. A fault costs a fetch, and no error.
"""

import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgstore.domain.names import ImageReference
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.disks.lazy import open_lazy_image
from imgstore.operations.installation import Installation
from imgstore.transfer.segment_cache import SegmentCache
from tests.support.cache_process import SEGMENTS, segment_content, segment_name
from tests.support.sample_gallery import ADMIN, DEFINITION, GALLERY, GROUP, SampleImages

pytest_plugins = ["tests.support.published_gallery"]

REFERENCE = ImageReference.parse(f"{GROUP}/{GALLERY}/{DEFINITION}/1.0.0")
CONTENTS = [segment_content(number) for number in range(SEGMENTS)]
LIMITS = (MIB, 2 * MIB)
Damage = Callable[[Path, random.Random], None]


def flip(file: Path, draw: random.Random) -> None:
    """Change a bit in place."""
    data = bytearray(file.read_bytes())
    if data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        with file.open("r+b") as stream:
            stream.write(data)


def truncate(file: Path, draw: random.Random) -> None:
    os.truncate(file, draw.randrange(file.stat().st_size + 1))


def lengthen(file: Path, draw: random.Random) -> None:
    with file.open("ab") as stream:
        stream.write(draw.randbytes(draw.choice((1, 56, 4096))))


def overwrite(file: Path, draw: random.Random) -> None:
    file.write_bytes(draw.randbytes(file.stat().st_size))


def punch(file: Path, draw: random.Random) -> None:
    """Replace blocks by zeros, as a torn write does."""
    with file.open("r+b") as stream:
        stream.seek(draw.randrange(max(1, file.stat().st_size)) // 4096 * 4096)
        stream.write(bytes(4096))


def link(file: Path, _draw: random.Random) -> None:
    """Replace the file by a link to another segment."""
    others = sorted(each for each in file.parent.iterdir() if each.name not in {"usage", "flights", file.name})
    file.unlink()
    file.symlink_to(others[0] if others else "/etc/passwd")


def swap(file: Path, _draw: random.Random) -> None:
    """Give the file the bytes of another segment."""
    others = sorted(each for each in file.parent.glob("*-*") if each != file and each.is_file())
    if others:
        shutil.copyfile(others[0], file.with_name("copy"))
        file.with_name("copy").replace(file)


def make_folder(file: Path, _draw: random.Random) -> None:
    file.unlink()
    file.mkdir()


def deny(file: Path, _draw: random.Random) -> None:
    file.chmod(0)


def give_away(file: Path, _draw: random.Random) -> None:
    with suppress(PermissionError):
        os.chown(file, 1, 1)


def remove(file: Path, _draw: random.Random) -> None:
    file.unlink()


def damage_count(file: Path, draw: random.Random) -> None:
    """Claim a wrong sum of bytes."""
    (file.parent / "usage").write_bytes(draw.randbytes(draw.choice((0, 5, 24))))


DAMAGES: list[Damage] = [
    flip,
    truncate,
    lengthen,
    overwrite,
    punch,
    link,
    swap,
    make_folder,
    deny,
    give_away,
    remove,
    damage_count,
]


def files_of(folder: Path) -> list[Path]:
    return sorted(each for each in folder.glob("segments-1/shared-*") if each.is_file() and not each.is_symlink())


class Clocks:
    """Clocks that jump in both directions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now_ns(self) -> int:
        return int(self.seconds * 1_000_000_000)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), damages=st.lists(st.sampled_from(DAMAGES), max_size=12))
def test_any_damage_between_reads_gives_no_wrong_byte(
    tmp_path_factory: pytest.TempPathFactory, seed: int, damages: list[Damage]
) -> None:
    folder, draw, clocks = tmp_path_factory.mktemp("cache"), random.Random(seed), Clocks()
    caches = [
        SegmentCache(folder, limit, monotonic=clocks.monotonic, now_ns=clocks.now_ns, pause=lambda _seconds: None)
        for limit in LIMITS
    ]
    for step in range(3 * len(damages) + 6):
        number = draw.randrange(SEGMENTS)
        whole, cache = CONTENTS[number], draw.choice(caches)
        offset = draw.randrange(len(whole))
        length = draw.randint(1, len(whole) - offset)
        found = cache.read(segment_name(number), offset, length, lambda number=number: memoryview(CONTENTS[number]))  # type: ignore[misc]
        assert found == whole[offset : offset + length], f"segment {number} from {offset}"
        part = cache.find(segment_name(number), offset, length)
        assert part is None or part == whole[offset : offset + length]
        clocks.seconds += draw.choice((0, 2, 1e9, -1e8))
        if step % 3 == 2 and damages and (files := files_of(folder)):
            damages.pop()(draw.choice(files), draw)
    for cache in caches:
        cache.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)])
def test_damage_during_reads_of_processes_with_other_limits(tmp_path: Path, seed: int) -> None:
    """Each process compares each byte. Another thread damages files meanwhile, and one process is killed."""
    folder, draw = tmp_path / "cache", random.Random(seed)
    line = [sys.executable, "-m", "tests.support.cache_process", "hammer", str(folder)]
    with ExitStack() as stack:
        readers = [
            stack.enter_context(
                subprocess.Popen(
                    [*line, str(number), str(limit), "600", "0"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for number, limit in enumerate((MIB, 2 * MIB, 3 * MIB // 2))
        ]
        damage_during_reads(readers, folder, draw)


def damage_during_reads(readers: list[subprocess.Popen[str]], folder: Path, draw: random.Random) -> None:
    """Let the readers read, kill the first reader, and damage files until the others end without an error."""
    for each in readers:
        assert each.stdout is not None
        assert each.stdin is not None
        assert each.stdout.readline() == "ready\n"
        each.stdin.write("go\n")
        each.stdin.flush()
    done = threading.Event()

    def damage() -> None:
        gentle = [each for each in DAMAGES if each not in {deny, give_away, make_folder}]
        while not done.is_set():
            for file in files_of(folder):
                with suppress(OSError):
                    draw.choice(gentle)(file, draw)

    thread = threading.Thread(target=damage)
    thread.start()
    readers[0].kill()
    for each in readers:
        each.wait(timeout=120)
    done.set()
    thread.join()
    for each in readers[1:]:
        assert each.stderr is not None
        assert each.returncode == 0, each.stderr.read()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda each: each.__name__)
def test_an_attached_disk_serves_right_bytes_from_a_damaged_cache(
    published: Installation, samples: SampleImages, damage: Damage
) -> None:
    source, draw = samples.first.read_bytes(), random.Random(5)
    with open_lazy_image(published, ADMIN, reference=REFERENCE) as opened:
        assert bytes(opened.read_at(0, len(source))) == source
        for file in sorted((published.home / "cache" / "segments-1").iterdir()):
            if file.is_file() and file.name not in {"usage", "flights"}:
                damage(file, draw)
        assert bytes(opened.read_at(0, len(source))) == source
