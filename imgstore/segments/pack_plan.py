"""Plan a boot pack: its blocks, their order, and the frames that a new version takes from an older pack (invariant D20).

A version inherits the trace of an older version by content. A block that both versions contain is found by its segment and
place, also if the block moved on the disk. A changed block keeps its place in the order. Frames of the older pack stay as
they are, so that a host with the older pack fetches only the frames with changed blocks. A frame may then contain blocks
that the new version does not have. Frames with many such blocks are made again, because these blocks are stored and read
in vain.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from imgstore.domain.storage.sizes import SEGMENT_BLOCKS
from imgstore.segments.boot_pack import FRAME_BLOCKS, GONE, PackHead
from imgstore.segments.manifest import Column, Manifest, Runs

GONE_SHARE_MAX: Final = 0.03
"""The largest share of a pack's bytes for content that the version does not contain any more."""
_FRESH_WINDOW_FRAMES: Final = 32
"""New blocks follow their predecessors in the order after at most this number of frames: 8 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFrame:
    """A frame of a planned pack."""

    blocks: tuple[int, ...]
    """The blocks of the disk, and `GONE` for content of a kept frame that the disk does not contain."""
    kept: int | None = None
    """The frame of the older pack with the same bytes. None for a new frame."""


def locate_blocks(runs: Runs, blocks: Column) -> Column:
    """Return the content of blocks of a disk as segment x 1,024 + block in segment. -1 for zeros."""
    if not len(runs):
        return np.full(len(blocks), -1, dtype=np.int64)
    row = np.searchsorted(runs.block, blocks, side="right") - 1
    begin = runs.block[row]
    inside = (row >= 0) & (blocks >= begin) & (blocks < begin + runs.count[row])
    return np.where(inside, runs.segment[row] * SEGMENT_BLOCKS + runs.at[row] + blocks - begin, -1)


def plan_pack(blocks: Column, manifest: Manifest) -> list[PlannedFrame]:
    """Plan a pack of the blocks of a trace, in the order of their first use. Blocks of zeros need no pack."""
    content = locate_blocks(manifest.runs, blocks)
    _, first = np.unique(content, return_index=True)
    chosen = np.sort(first[content[first] >= 0])
    wanted = blocks[chosen].tolist()
    return [PlannedFrame(blocks=tuple(wanted[at : at + FRAME_BLOCKS])) for at in range(0, len(wanted), FRAME_BLOCKS)]


def follow_blocks(blocks: Column, old: Manifest, new: Manifest) -> Column:
    """Return the block of the new disk with the content of each block of the old disk. `GONE` if there is none.

    A block with the same content at the same place is preferred.
    """
    content = _translate(locate_blocks(old.runs, blocks), old, new)
    found = np.where((content >= 0) & (locate_blocks(new.runs, blocks) == content), blocks, GONE)
    moved = np.flatnonzero((content >= 0) & (found == GONE) & (blocks != GONE))
    if len(moved):
        at, where = _list_contents(new.runs, np.unique(content[moved] // SEGMENT_BLOCKS))
        place = np.minimum(np.searchsorted(at, content[moved]), max(0, len(at) - 1))
        is_there = at[place] == content[moved] if len(at) else np.zeros(len(moved), dtype=np.bool_)
        found[moved[is_there]] = where[place[is_there]]
    return found


def plan_inherited_pack(head: PackHead, old: Manifest, new: Manifest) -> list[PlannedFrame]:
    """Plan the pack of a new version from the pack of an older version, as the top of this module describes."""
    blocks = head.block
    followed = follow_blocks(blocks, old, new)
    followed[blocks == GONE] = GONE
    here = locate_blocks(new.runs, blocks)
    # Changed blocks keep their place in the order.
    changed = (followed == GONE) & (blocks != GONE) & (here >= 0)
    target = np.where(changed, blocks, followed)
    content = locate_blocks(new.runs, target)
    content[target == GONE] = -1
    kept = _choose_kept(head, followed)
    in_kept = np.repeat(kept, head.frame_blocks) & ~changed
    seen = set(content[in_kept & (content >= 0)].tolist())
    fresh = [not is_in_kept and each >= 0 for is_in_kept, each in zip(in_kept.tolist(), content.tolist(), strict=True)]
    return list(_order_frames(head, kept.tolist(), followed.tolist(), target.tolist(), content.tolist(), fresh, seen))


def _order_frames(
    head: PackHead,
    kept: list[bool],
    followed: list[int],
    target: list[int],
    content: list[int],
    fresh: list[bool],
    seen: set[int],
) -> Iterator[PlannedFrame]:
    """Yield the kept frames in their order, and frames of new blocks near the places of these blocks."""
    waiting: list[int] = []
    waited_frames = 0
    bounds = head.first_block.tolist()
    for frame, is_kept in enumerate(kept):
        for at in range(bounds[frame], bounds[frame + 1]):
            if fresh[at] and content[at] not in seen:
                seen.add(content[at])
                waiting.append(target[at])
        if is_kept:
            yield PlannedFrame(blocks=tuple(followed[bounds[frame] : bounds[frame + 1]]), kept=frame)
        waited_frames = waited_frames + 1 if waiting else 0
        while len(waiting) >= FRAME_BLOCKS or (waiting and waited_frames >= _FRESH_WINDOW_FRAMES):
            yield PlannedFrame(blocks=tuple(waiting[:FRAME_BLOCKS]))
            del waiting[:FRAME_BLOCKS]
            waited_frames = 0
    if waiting:
        yield PlannedFrame(blocks=tuple(waiting))


def _choose_kept(head: PackHead, followed: Column) -> "np.typing.NDArray[np.bool_]":
    """Return which frames stay: the frames with most lost content are made again until the share of it is small."""
    if not len(head):
        return np.zeros(0, dtype=np.bool_)
    gone = np.add.reduceat((followed == GONE).astype(np.int64), head.first_block[:-1])
    kept = gone < head.frame_blocks
    gone_bytes = head.stored_bytes * gone / head.frame_blocks
    for frame in np.argsort(-gone / head.frame_blocks, kind="stable").tolist():
        if gone_bytes[kept].sum() <= GONE_SHARE_MAX * head.stored_bytes[kept].sum():
            break
        kept[frame] = False
    return kept


def _translate(content: Column, old: Manifest, new: Manifest) -> Column:
    """Return contents of the old disk with the segment numbers of the new disk. -1 if the new disk has no such segment."""
    has_data = content >= 0
    used = np.unique(content[has_data] // SEGMENT_BLOCKS)
    number = {name: index for index, name in enumerate(new.segments.all_names())}
    known = np.array([number.get(old.segments.name(each), -1) for each in used.tolist()], dtype=np.int64)
    translated = np.full(len(content), -1, dtype=np.int64)
    if len(used):
        segment = known[np.searchsorted(used, content[has_data] // SEGMENT_BLOCKS)]
        translated[has_data] = np.where(segment >= 0, segment * SEGMENT_BLOCKS + content[has_data] % SEGMENT_BLOCKS, -1)
    return translated


def _list_contents(runs: Runs, segments: Column) -> tuple[Column, Column]:
    """Return the contents of a disk in some segments, sorted and each once, and a block of the disk for each."""
    own = runs.take(np.flatnonzero(np.isin(runs.segment, segments)))
    step = np.arange(int(own.count.sum())) - np.repeat(np.cumsum(own.count) - own.count, own.count)
    content = np.repeat(own.segment * SEGMENT_BLOCKS + own.at, own.count) + step
    distinct, first = np.unique(content, return_index=True)
    return distinct, (np.repeat(own.block, own.count) + step)[first]
