"""Small disks by block, slots in memory that record requests, and a target in memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from blake3 import blake3

from imgstore.domain.disks.sources import ContainerMetadata, DiskFormat, Extent, SourceIdentity
from imgstore.segments.manifest import Manifest
from imgstore.stores import MemoryStore, ObjectInfo, ObjectStore
from imgstore.stores.interface import Accept, Body
from imgstore.transfer.ingest import IngestOrder, ingest
from imgstore.transfer.receipts import IngestReceipt
from imgstore.transfer.scatter import SegmentReader, scatter
from imgstore.transfer.slot_access import SlotAccess, never_cancelled

MIB = 1 << 20
PIECE = 4 * MIB
BLOCK = 4096
KEY = bytes(range(32))
PREFIX = "pools/pool/Standard_LRS/replica-0/"


@lru_cache(maxsize=20_000)
def content(number: int) -> bytes:
    """Return an incompressible block; 0 is zeros, and negative numbers are compressible."""
    if number <= 0:
        return (b"text %d " % -number * 600)[:BLOCK] if number else bytes(BLOCK)
    return blake3(number.to_bytes(8, "little")).digest(BLOCK)


def uid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


class Disk:
    """A `DiskReader` over blocks by number."""

    def __init__(self, virtual_bytes: int, blocks: Mapping[int, int]) -> None:
        self._virtual_bytes = virtual_bytes
        self.blocks = dict(blocks)
        self.stamp = "1"
        self.reads: list[tuple[int, int]] = []

    @property
    def virtual_bytes(self) -> int:
        return self._virtual_bytes

    @property
    def container_metadata(self) -> ContainerMetadata:
        return ContainerMetadata(format=DiskFormat.RAW)

    def extents(self) -> Iterator[Extent]:
        for block in sorted(self.blocks):
            offset = block * BLOCK
            yield Extent(offset=offset, length=min(BLOCK, self._virtual_bytes - offset))

    def read_at(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self.part(offset, length)

    def part(self, offset: int, length: int) -> bytes:
        """Return a range of the disk, computed in the simplest way."""
        first, end = offset // BLOCK, -(-(offset + length) // BLOCK)
        whole = bytearray((end - first) * BLOCK)
        for block in self.blocks if len(self.blocks) < end - first else range(first, end):
            if first <= block < end and self.blocks.get(block):
                at = (block - first) * BLOCK
                whole[at : at + BLOCK] = content(self.blocks[block])
        begin = offset - first * BLOCK
        return bytes(whole[begin : begin + length])

    def whole(self) -> bytes:
        return self.part(0, self._virtual_bytes)

    def identity(self) -> SourceIdentity:
        return SourceIdentity(location="/disk", file_bytes=self._virtual_bytes, stamp=self.stamp)

    def close(self) -> None:
        pass


def disk(*numbers: int, virtual_bytes: int | None = None, at: int = 0) -> Disk:
    """Make a disk with these blocks from `at` on."""
    return Disk(virtual_bytes or (at + len(numbers)) * BLOCK, {at + place: each for place, each in enumerate(numbers)})


class Store(MemoryStore):
    """A memory store that records its requests."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str]] = []

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        self.asked.append(("get", key))
        return super().get(key, accept)

    def head(self, key: str) -> ObjectInfo:
        self.asked.append(("head", key))
        return super().head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self.asked.append(("list", prefix))
        return super().list(prefix)

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        self.asked.append(("put", key))
        return super().put(key, body, only_if_absent=only_if_absent)

    def keys(self, method: str, part: str = "segments/") -> Sequence[str]:
        """Return the keys of the requests, in order."""
        return [key for asked, key in self.asked if asked == method and part in key]


def slot(store: ObjectStore, label: str = "westus2/Standard_LRS/0") -> SlotAccess:
    return SlotAccess(label=label, store=store, prefix=PREFIX)


def ingest_disk(
    source: Disk,
    target: SlotAccess,
    scratch: Path,
    *,
    bases: Iterable[Manifest] = (),
    work: int = 1,
    **changed: Any,
) -> IngestReceipt:
    order = IngestOrder(
        work_uid=uid(work),
        slot=target,
        reader=source,
        identity=source.identity(),
        bases=list(bases),
        listing=target.list_segments(),
        fingerprint_key=KEY,
        scratch=scratch,
        workers=3,
    )
    return ingest(replace(order, **changed))


class Target:
    """A target in memory."""

    def __init__(self, length: int) -> None:
        self.data = bytearray(length)

    def write_at(self, offset: int, data: bytes | memoryview, *, read_soon: bool = False) -> None:
        assert offset + len(data) <= len(self.data), "no byte is written after the end of the disk"
        self.data[offset : offset + len(data)] = data

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])


def assemble(manifest: Manifest, *slots: SlotAccess, workers: int = 2) -> bytes:
    target = Target(manifest.virtual_bytes)
    reader = SegmentReader(slots)
    scatter(manifest, reader, target, workers=workers, check_cancelled=never_cancelled, on_moved=lambda _bytes: None)
    assert not reader.damages
    return bytes(target.data)
