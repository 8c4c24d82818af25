"""The trace of a boot as JSON: the blocks that were read, in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imgstore.domain.errors import InvalidInput
from imgstore.domain.storage.sizes import BLOCK_BYTES, ceil_div
from imgstore.domain.text.strict_json import read_json
from imgstore.wire.json_text import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class BootTrace:
    """The blocks that a boot reads."""

    virtual_bytes: int
    """The size of the disk."""
    blocks: Sequence[int]
    """In the order of the first read, each once."""


def trace_json(trace: BootTrace) -> Json:
    """Return a trace as JSON, with ranges [first block, count] in order."""
    runs: list[list[int]] = []
    for at, block in enumerate(trace.blocks):
        if at and block == trace.blocks[at - 1] + 1:
            runs[-1][1] += 1
        else:
            runs.append([block, 1])
    return {"blockBytes": BLOCK_BYTES, "virtualBytes": trace.virtual_bytes, "runs": runs}


def parse_trace(text: str, blocks_max: int) -> BootTrace:
    """Parse a trace, with at most `blocks_max` blocks.

    Raises:
        InvalidInput: the text is no trace.
    """
    try:
        body = read_json(text)
        return _read_trace(body, blocks_max)
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput(
            "The file is no trace of a boot.",
            found=f"{type(error).__name__}: {error}",
            expected='{"blockBytes": 4096, "virtualBytes": BYTES, "runs": [[FIRST BLOCK, COUNT], ...]}',
            hint="use a file that `imgstore disk trace --trace-file` has written",
            target="from-file",
        ) from error


def _read_trace(body: Any, blocks_max: int) -> BootTrace:
    virtual_bytes = body["virtualBytes"]
    if body["blockBytes"] != BLOCK_BYTES or not _is_count(virtual_bytes):
        raise ValueError(f"blocks of {body['blockBytes']} bytes in a disk of {virtual_bytes} bytes")
    blocks: dict[int, None] = {}
    end = ceil_div(virtual_bytes, BLOCK_BYTES)
    for first, count in body["runs"]:
        if not (_is_count(first) or first == 0) or not _is_count(count) or first + count > end:
            raise ValueError(f"the range [{first}, {count}] in a disk of {end} blocks")
        if len(blocks) + count > 2 * blocks_max:
            raise ValueError(f"more than {blocks_max} blocks")
        blocks.update(dict.fromkeys(range(first, first + count)))
    if len(blocks) > blocks_max:
        raise ValueError(f"{len(blocks)} blocks, more than {blocks_max}")
    return BootTrace(virtual_bytes=virtual_bytes, blocks=list(blocks))


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0
