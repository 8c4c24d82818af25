"""Processes that share a segment cache, for tests: ``python -m tests.support.cache_process JOB FOLDER ARGUMENTS``.

Jobs:

- ``hammer SEED LIMIT READS [LOCATED]``: print a line, wait for a line, then read random parts of random segments. LOCATED
  percent of the reads use `locate`, 30 by default. Each fetched segment is a line of the file ``FOLDER-fetched``. A wrong
  byte ends the process with an error.
- ``hold NUMBER``: fetch a segment, print a line in the fetch, and wait for the end of the input.
- ``steps LIMIT``: fork a process for each step of adding segments, kill the process at this step, and check that the
  cache works and contains no wrong byte. Print the number of steps.
"""

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imgstore.domain.storage.digests import Digest, digest_of
from imgstore.transfer.segment_cache import SegmentCache

SEGMENTS = 12
KILLED_CODE = -signal.SIGKILL


def segment_name(number: int) -> Digest:
    return digest_of(number.to_bytes(8, "little"))


def segment_content(number: int, blocks: int = 0) -> bytes:
    """Blocks of 4 KiB that differ by segment and place. By default the number of blocks differs too."""
    return random.Random(number).randbytes((blocks or 3 + number * 7) * 4096)


class Source:
    """A source that records each fetch in a file of all processes."""

    def __init__(self, folder: Path) -> None:
        self.file = folder.with_name(f"{folder.name}-fetched")

    def fetch(self, number: int) -> Callable[[], memoryview]:
        def get() -> memoryview:
            with open(self.file, "a", encoding="ascii") as stream:
                stream.write(f"{number}\n")
            return memoryview(segment_content(number))

        return get

    def fetched(self) -> list[int]:
        return [int(line) for line in self.file.read_text(encoding="ascii").split()] if self.file.exists() else []


def hammer(folder: Path, seed: int, limit: int, reads: int, located: int = 30) -> None:
    draw = random.Random(seed)
    faults: list[str] = []
    cache, source = SegmentCache(folder, limit, on_fault=faults.append), Source(folder)
    contents = [segment_content(number) for number in range(SEGMENTS)]
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(reads):
        number = draw.randrange(SEGMENTS)
        whole = contents[number]
        offset = draw.randrange(len(whole))
        length = draw.randint(1, len(whole) - offset)
        fetch = source.fetch(number)
        if draw.random() < located / 100:
            with cache.locate(segment_name(number), offset, length, fetch) as part:
                found = os.pread(part.descriptor, part.length, part.position)
        else:
            found = bytes(cache.read(segment_name(number), offset, length, fetch))
        assert found == whole[offset : offset + length], f"segment {number} from {offset}"
    assert not faults


def hold(folder: Path, number: int) -> None:
    def fetch() -> memoryview:
        print("fetching", flush=True)
        sys.stdin.read()
        return memoryview(segment_content(number))

    SegmentCache(folder).blocks(segment_name(number), fetch)


def steps(folder: Path, limit: int) -> None:
    killed = 0
    while _fork_add(folder, limit, fatal=killed + 1) == KILLED_CODE:
        killed += 1
        fetched: list[int] = []
        cache = SegmentCache(folder, limit)

        def fetch(number: int, fetched: list[int] = fetched) -> memoryview:
            fetched.append(number)
            return memoryview(segment_content(number))

        for number in (0, 1, 2, 3, 3):
            found = cache.blocks(segment_name(number), lambda number=number: fetch(number))  # type: ignore[misc]
            assert found == segment_content(number), killed
        assert fetched.count(3) <= 1, f"segment 3 was not kept after a kill at step {killed}"
        assert cache.measure().used_bytes <= limit
        if killed % 3 == 0:
            cache.clear()
            assert sorted(os.listdir(folder / "segments-1")) == ["flights", "usage"]
    print(killed)


def _fork_add(folder: Path, limit: int, fatal: int) -> int:
    """Add segments in a process that is killed at the line `fatal` of the cache. Return the exit code."""
    child = os.fork()
    if not child:
        count = 0

        def trace(frame: Any, event: str, _argument: object) -> Any:
            nonlocal count
            if "segment_cache" not in frame.f_code.co_filename:
                return None
            if event == "line":
                count += 1
                if count == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        cache = SegmentCache(folder, limit)
        sys.settrace(trace)
        for number in (4, 5, 6):
            cache.blocks(segment_name(number), lambda number=number: memoryview(segment_content(number)))  # type: ignore[misc]
        sys.settrace(None)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    job, place, *numbers = sys.argv[1:]
    {"hammer": hammer, "hold": hold, "steps": steps}[job](Path(place), *map(int, numbers))  # type: ignore[operator]
