"""A managed disk there becomes a file here, by signed URL: what holds data, in parallel, compared with its digest."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from imgstore.domain.disks.sources import ContainerMetadata, DiskFormat, DiskWriter, Extent
from imgstore.domain.errors import InvalidInput, ObjectCorrupt
from imgstore.domain.storage.digests import Digest, digest_of, disk_digest
from imgstore.domain.storage.sizes import PIECE_BYTES, SECTOR_BYTES
from imgstore.domain.views import Export
from imgstore.formats import create_writer
from imgstore.remote.arm_client import Server
from imgstore.remote.local_disk import WORKERS, piece_indexes, report_progress
from imgstore.remote.upload import grant_access, page_list
from imgstore.transfer.bounded_pool import BoundedPool
from imgstore.wire.json_text import Json

_FOOTER_BYTES: Final = 512
_AHEAD: Final = 8
_ZEROS: Final = bytes(PIECE_BYTES)


def export_disk(
    server: Server,
    disk: Json,
    *,
    path: Path,
    format: DiskFormat,  # noqa: A002 - az's word
    overwrite: bool,
    pad: bool,
) -> Export:
    """Write a managed disk into a file here.

    Args:
        server: where it is.
        disk: the disk as it is shown.
        path: the file; its folder must exist.
        format: vhd, vhd-dynamic, raw or qcow2.
        overwrite: replace a file that is there.
        pad: round a size that the format cannot hold up to the next that it can.

    Raises:
        OutputError: the file cannot be written; nothing of it is left.
        ObjectCorrupt: what came is not the disk.
        StoreUnreachable: the server is gone.
    """
    virtual_bytes, digest = int(disk["properties"]["diskSizeBytes"]), _digest(disk)
    with _readable(server, disk) as url:
        extents = [_cut(each, virtual_bytes) for each in page_list(server, url) if each.offset < virtual_bytes]
        footer = b""
        if virtual_bytes % SECTOR_BYTES == 0:
            footer = _read(server, url, virtual_bytes, _FOOTER_BYTES)
        writer = create_writer(
            path,
            format=format,
            virtual_bytes=virtual_bytes,
            extents=extents,
            disk_digest=digest,
            container_metadata=ContainerMetadata(format=DiskFormat.VHD_FIXED, footer=footer),
            overwrite=overwrite,
            pad=pad,
        )
        try:
            found = _fetch(server, url, extents, virtual_bytes, writer, f"export {path.name}")
            if found != digest:
                raise ObjectCorrupt(
                    f"What came of the disk '{disk['name']}' is not the disk.",
                    found=found.hex(),
                    expected=digest.hex(),
                    hint="run the same command again; nothing was written",
                    target=disk["id"],
                )
            writer.publish()
        finally:
            writer.abandon()
    return _export(disk, path, format, virtual_bytes)


def export_range(server: Server, disk: Json, *, path: Path, offset: int, length: int, overwrite: bool) -> Export:
    """Write some bytes of a managed disk into a raw file here.

    Raises:
        InvalidInput: the range is not inside the disk.
        OutputError: the file cannot be written; nothing of it is left.
        StoreUnreachable: the server is gone.
    """
    virtual_bytes = int(disk["properties"]["diskSizeBytes"])
    if offset + length > virtual_bytes:
        raise InvalidInput(
            "The range is not inside the disk.",
            found=f"bytes {offset} to {offset + length}",
            expected=f"a range inside 0 to {virtual_bytes}",
            hint="give --offset and --length that end before the disk does",
            target="length",
        )
    with _readable(server, disk) as url:
        writer = create_writer(
            path, format=DiskFormat.RAW, virtual_bytes=length, extents=(), disk_digest=b"", overwrite=overwrite
        )
        try:
            with report_progress(server.subscriber, f"export {path.name}", length) as task:
                for at in range(0, length, PIECE_BYTES):
                    part = min(PIECE_BYTES, length - at)
                    writer.write_at(at, _read(server, url, offset + at, part))
                    task.advance(part)
            writer.publish()
        finally:
            writer.abandon()
    return _export(disk, path, DiskFormat.RAW, length)


def _digest(disk: Json) -> Digest:
    """Of a disk that is whole: else the grant is refused, in the server's words."""
    return bytes.fromhex(disk["properties"].get("diskDigest") or "")


def _export(disk: Json, path: Path, form: DiskFormat, virtual_bytes: int) -> Export:
    return Export(
        path=path,
        format=form,
        virtual_bytes=virtual_bytes,
        file_bytes=path.stat().st_size,
        disk_digest=_digest(disk),
        source=disk["id"],
        replica=disk["replica"],
    )


@contextmanager
def _readable(server: Server, disk: Json) -> Iterator[str]:
    """A signed URL while the block runs; it goes again, unless somebody had one before us."""
    shared = disk["properties"]["diskState"] == "ActiveSAS"
    url = grant_access(server, disk["id"], "Read")
    try:
        yield url
    finally:
        if not shared:
            server.post_action(disk["id"], "endGetAccess")


def _fetch(
    server: Server, url: str, extents: Sequence[Extent], virtual_bytes: int, writer: DiskWriter, task: str
) -> Digest:
    """Fetch what holds data; the digest of all that came."""
    indexes = piece_indexes(iter(extents), virtual_bytes)
    digests: dict[int, Digest] = {}
    moved: Callable[[int], None]

    def fetch(index: int, parts: Sequence[Extent]) -> None:
        at = index * PIECE_BYTES
        piece = bytearray(min(PIECE_BYTES, virtual_bytes - at))
        for part in parts:
            data = _read(server, url, part.offset, part.length)
            writer.write_at(part.offset, data)
            piece[part.offset - at : part.end - at] = data
        if piece != _ZEROS[: len(piece)]:
            digests[index] = digest_of(piece)
        moved(sum(part.length for part in parts))

    by_piece = _by_piece(extents)
    total = sum(each.length for each in extents)
    with report_progress(server.subscriber, task, total) as counted, BoundedPool(WORKERS, _AHEAD, "fetch") as threads:
        moved = counted.advance
        for index in indexes:
            threads.submit(fetch, index, by_piece[index])
    return disk_digest(virtual_bytes, sorted(digests.items()))


def _by_piece(extents: Sequence[Extent]) -> dict[int, list[Extent]]:
    """The extents cut at the pieces' borders."""
    found: dict[int, list[Extent]] = {}
    for extent in extents:
        at = extent.offset
        while at < extent.end:
            end = min(extent.end, (at // PIECE_BYTES + 1) * PIECE_BYTES)
            found.setdefault(at // PIECE_BYTES, []).append(Extent(offset=at, length=end - at))
            at = end
    return found


def _cut(extent: Extent, end: int) -> Extent:
    return Extent(offset=extent.offset, length=min(extent.end, end) - extent.offset)


def _read(server: Server, url: str, offset: int, length: int) -> bytes:
    """Bytes of the disk's file.

    Raises:
        ObjectCorrupt: not so many came.
    """
    answer = server.connection.transfer("GET", url, headers={"Range": f"bytes={offset}-{offset + length - 1}"})
    if answer.status != 206 or len(answer.body) != length:
        raise ObjectCorrupt(
            "The server sent another range than was asked for.",
            found=f"HTTP {answer.status} and {len(answer.body)} bytes",
            expected=f"206 and {length} bytes",
            hint="look what stands between here and the server",
            target="Range",
        )
    return answer.body
