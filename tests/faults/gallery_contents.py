"""Small disks, block by block, for the gallery machine: families of patched images that share most of their blocks."""

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

BLOCK_BYTES: Final = 4096
PIECE_BYTES: Final = 4 * 1024 * 1024
VIRTUAL_BYTES: Final = 3 * PIECE_BYTES + 512
"""Not a multiple of a block."""
_PIECE_BLOCKS: Final = PIECE_BYTES // BLOCK_BYTES
FAMILIES: Final = 4
PATCHES_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Content:
    """A disk: the image number `patches` of a family."""

    family: int
    patches: int

    @property
    def patched(self) -> "Content":
        """The next image of the family."""
        return Content(self.family, min(self.patches + 1, PATCHES_MAX))

    def file(self, folder: Path) -> Path:
        """Return the disk as a sparse raw file, created at the first call."""
        path = folder / f"{self.family}-{self.patches}.raw"
        if not path.exists():
            with path.open("wb") as file:
                file.truncate(VIRTUAL_BYTES)
                for block, seed in blocks_of(self).items():
                    file.seek(block * BLOCK_BYTES)
                    file.write(block_bytes(seed))
        return path


@cache
def blocks_of(content: Content) -> dict[int, int]:
    """Return the seed of each block with data, by number. Two families share some blocks at other places."""
    if content.patches == 0:
        return dict(_first_blocks(content.family))
    blocks = dict(blocks_of(Content(content.family, content.patches - 1)))
    rng = random.Random(content.family * 1000 + content.patches)
    # More than a quarter: after some patches little of the first segment is left, and the reuse threshold packs it anew.
    for number in rng.sample(sorted(blocks), max(8, len(blocks) // 3)):
        blocks[number] = rng.randrange(10**6, 2 * 10**6)
    return blocks


def _first_blocks(family: int) -> list[tuple[int, int]]:
    rng = random.Random(family)
    if family == 0:  # More than one segment, and within one piece of the disk more than one run.
        return [(number, 3 * number) for number in range(100, 100 + _PIECE_BLOCKS + 80)]
    places = rng.sample(range(3 * _PIECE_BLOCKS), 40)
    return [(place, rng.randrange(10**6) if turn % 4 else turn) for turn, place in enumerate(places)]


@cache
def block_bytes(seed: int) -> bytes:
    """Return 4 KiB: text for every third seed, otherwise noise."""
    if seed % 3 == 0:
        return (b"%09d daemon\n" % seed * 241)[:BLOCK_BYTES]
    return random.Random(seed).randbytes(BLOCK_BYTES)
