"""Export a managed disk of a server into a local file, a pipe, or a block device. A signed URL grants access.

Ranges with data are fetched in parallel. The digest of the result is compared with the digest of the disk.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from imgstore.domain.disks.sources import ContainerMetadata, DiskFormat, DiskWriter, Extent
from imgstore.domain.errors import InvalidInput, ObjectCorrupt
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.storage.digests import Digest, digest_of, disk_digest
from imgstore.domain.storage.sizes import PIECE_BYTES, SECTOR_BYTES
from imgstore.domain.views import Export
from imgstore.formats import create_writer, describe_rest, export_warnings, padded_bytes, write_in_order
from imgstore.formats.files.read_ahead import results_in_order
from imgstore.remote.arm_client import Server
from imgstore.remote.local_disk import WORKERS, report_progress
from imgstore.remote.upload import grant_access, page_list
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
    """Export a managed disk into a local file.

    Args:
        server: The server.
        disk: The disk as JSON.
        path: The file in an existing folder, or a link to a file, standard output, a pipe, or a block device.
        format: vhd, vhd-dynamic, raw or qcow2.
        overwrite: Replace an existing file.
        pad: Round a size that the format cannot represent up to the next valid size.

    Raises:
        OutputError: The file cannot be written. No partial file remains.
        ObjectCorrupt: The received bytes are not those of the disk. A file is removed; a pipe or device keeps the bytes.
        StoreUnreachable: The server does not answer.
    """
    virtual_bytes, digest = int(disk["properties"]["diskSizeBytes"]), _digest(disk)
    with readable_url(server, disk) as url:
        extents = [cut_extent(each, virtual_bytes) for each in page_list(server, url) if each.offset < virtual_bytes]
        footer = b""
        if virtual_bytes % SECTOR_BYTES == 0:
            footer = read_range(server, url, virtual_bytes, _FOOTER_BYTES)
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
            container_bytes = padded_bytes(virtual_bytes, format) if pad else virtual_bytes
            for warning in export_warnings(format, container_bytes):
                _note(server, path, warning)
            found = _fetch(server, url, extents, virtual_bytes, writer, f"export {path.name}")
            if found != digest:
                raise ObjectCorrupt(
                    f"The received bytes differ from the disk '{disk['name']}'.",
                    found=found.hex(),
                    expected=digest.hex(),
                    hint="do not use the written bytes, and run the same command again"
                    if writer.in_order
                    else "run the same command again; no file was written",
                    target=disk["id"],
                )
            file_bytes = writer.publish()
        finally:
            writer.abandon()
    return _report(server, disk, path, format, virtual_bytes, file_bytes)


def export_range(server: Server, disk: Json, *, path: Path, offset: int, length: int, overwrite: bool) -> Export:
    """Export some bytes of a managed disk into a local raw file.

    Raises:
        InvalidInput: The range is not inside the disk.
        OutputError: The file cannot be written. No partial file remains.
        StoreUnreachable: The server does not answer.
    """
    virtual_bytes = int(disk["properties"]["diskSizeBytes"])
    if offset + length > virtual_bytes:
        raise InvalidInput(
            "The range is not inside the disk.",
            found=f"bytes {offset} to {offset + length}",
            expected=f"a range inside 0 to {virtual_bytes}",
            hint="choose --offset and --length inside the disk",
            target="length",
        )
    with readable_url(server, disk) as url:
        writer = create_writer(
            path, format=DiskFormat.RAW, virtual_bytes=length, extents=(), disk_digest=b"", overwrite=overwrite
        )
        try:
            with report_progress(server.subscriber, f"export {path.name}", length) as task:
                for at in range(0, length, PIECE_BYTES):
                    part = min(PIECE_BYTES, length - at)
                    writer.write_at(at, read_range(server, url, offset + at, part))
                    task.advance(part)
            file_bytes = writer.publish()
        finally:
            writer.abandon()
    return _report(server, disk, path, DiskFormat.RAW, length, file_bytes)


def _digest(disk: Json) -> Digest:
    """Return the digest of a complete disk. For an incomplete disk, the server refuses access afterwards."""
    return bytes.fromhex(disk["properties"].get("diskDigest") or "")


def _report(server: Server, disk: Json, path: Path, form: DiskFormat, virtual_bytes: int, file_bytes: int) -> Export:
    rest = describe_rest(path, file_bytes)
    if rest is not None:
        _note(server, path, rest)
    return Export(
        path=path,
        format=form,
        virtual_bytes=virtual_bytes,
        file_bytes=file_bytes,
        disk_digest=_digest(disk),
        source=disk["id"],
        replica=disk["replica"],
    )


def _note(server: Server, path: Path, detail: str) -> None:
    server.subscriber(ProgressEvent(task=path.name, stage=Stage.NOTE, detail=detail))


@contextmanager
def readable_url(server: Server, disk: Json) -> Iterator[str]:
    """Yield a signed URL. Revoke access at the end, unless the disk had a signed URL before."""
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
    """Fetch the ranges with data, and return the digest of the received bytes.

    A target in order gets the pieces in the order of the disk.
    """
    digests: dict[int, Digest] = {}

    def fetch(index: int, parts: Sequence[Extent]) -> tuple[int, memoryview]:
        at = index * PIECE_BYTES
        piece = bytearray(min(PIECE_BYTES, virtual_bytes - at))
        for part in parts:
            data = read_range(server, url, part.offset, part.length)
            if not writer.in_order:
                writer.write_at(part.offset, data)
            piece[part.offset - at : part.end - at] = data
        if piece != _ZEROS[: len(piece)]:
            digests[index] = digest_of(piece)
        if not writer.in_order:
            counted.advance(sum(part.length for part in parts))
        return at, memoryview(piece)

    total = virtual_bytes if writer.in_order else sum(each.length for each in extents)
    with (
        report_progress(server.subscriber, task, total) as counted,
        ThreadPoolExecutor(WORKERS, thread_name_prefix="fetch") as threads,
    ):
        fetches = (threads.submit(fetch, *each) for each in sorted(_by_piece(extents).items()))
        with closing(results_in_order(fetches, _AHEAD)) as pieces:
            if writer.in_order:
                write_in_order(writer, pieces, virtual_bytes, counted.advance)
            for _ in pieces:  # Each fetch writes its own ranges.
                pass
    return disk_digest(virtual_bytes, sorted(digests.items()))


def _by_piece(extents: Sequence[Extent]) -> dict[int, list[Extent]]:
    """Split extents at the boundaries of pieces."""
    found: dict[int, list[Extent]] = {}
    for extent in extents:
        at = extent.offset
        while at < extent.end:
            end = min(extent.end, (at // PIECE_BYTES + 1) * PIECE_BYTES)
            found.setdefault(at // PIECE_BYTES, []).append(Extent(offset=at, length=end - at))
            at = end
    return found


def cut_extent(extent: Extent, end: int) -> Extent:
    """Cut an extent at an offset."""
    return Extent(offset=extent.offset, length=min(extent.end, end) - extent.offset)


def read_range(server: Server, url: str, offset: int, length: int) -> bytes:
    """Read bytes of a disk's file.

    Raises:
        ObjectCorrupt: The answer has another length.
    """
    answer = server.connection.transfer("GET", url, headers={"Range": f"bytes={offset}-{offset + length - 1}"})
    if answer.status != 206 or len(answer.body) != length:
        raise ObjectCorrupt(
            "The server sent another range than requested.",
            found=f"HTTP {answer.status} and {len(answer.body)} bytes",
            expected=f"206 and {length} bytes",
            hint="check proxies between client and server",
            target="Range",
        )
    return answer.body
