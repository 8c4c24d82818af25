"""Files here become managed disks there: through the blob door, in parallel, what is not zero and has not arrived.

A disk that waits for its upload keeps what came, so the same command goes on after a break. Whether the parts are of one
file is told by the digest of the whole, which is compared at the end: if not, the upload begins anew, once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from imgstore.domain.disks.sources import DiskReader, Extent
from imgstore.domain.errors import ImgstoreError, ObjectCorrupt, PropertyChangeNotAllowed
from imgstore.domain.names import region_key
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.sizes import KIB, PIECE_BYTES
from imgstore.formats import fixed_footer
from imgstore.remote.arm_client import Server
from imgstore.remote.local_disk import LocalDisk, digest_pieces, report_progress
from imgstore.wire.blob_protocol import PUT_PAGE_BYTES_MAX, read_page_list
from imgstore.wire.json_text import Json
from imgstore.wire.requests.client import disk_body

_GRAIN_BYTES: Final = 64 * KIB
"""Zeros are looked for in so much at a time. A request costs about as much as sending this."""
_ZEROS: Final = bytes(_GRAIN_BYTES)
_FOOTER_BYTES: Final = 512
_GRANT_SECONDS: Final = 24 * 3600
"""For one attempt; the next gets a URL of its own."""
_WAITING: Final = ("ReadyToUpload", "ActiveUpload")
_OCTETS: Final = "application/octet-stream"

assert PIECE_BYTES <= PUT_PAGE_BYTES_MAX, "a piece is sent in one request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A managed disk that is to be made of a file here."""

    disk_id: str
    disk: LocalDisk
    location: str
    tags: Mapping[str, str] | None = None
    sku: str | None = None
    os_type: str | None = None
    hyper_v_generation: str | None = None
    is_temporary: bool = False
    """It has a name that we gave: whatever else is there may go."""

    def body(self, upload_bytes: int) -> Json:
        """As it is asked for."""
        return disk_body(
            location=self.location,
            creation={"createOption": "Upload", "uploadSizeBytes": upload_bytes},
            tags=self.tags,
            sku=self.sku,
            os_type=self.os_type,
            hyper_v_generation=self.hyper_v_generation,
        )


def upload(server: Server, wanted: Upload) -> Json:
    """Bring a file to a server as a managed disk; the disk. The same again goes on, or does nothing.

    Raises:
        InvalidInput, ImageRefused: the file can't be sent.
        PropertyChangeNotAllowed: the disk stands, and is another.
        StoreUnreachable: the server is gone; what arrived stays there.
        ObjectCorrupt: what the server took in is not what was sent.
    """
    with wanted.disk.open() as reader:
        upload_bytes = reader.virtual_bytes + _FOOTER_BYTES
        standing = server.find(wanted.disk_id)
        if standing is not None and not _is_resumable(standing, upload_bytes):
            if _is_same_disk(server, standing, wanted, reader):
                return standing if wanted.tags is None else server.patch(wanted.disk_id, {"tags": wanted.tags})
            discard(server, wanted.disk_id)
        elif standing is not None and wanted.tags is None:
            wanted = replace(wanted, tags=standing.get("tags"))  # A PUT that does not speak of them takes them away.
        made = _attempt(server, wanted, reader)
        if made is None:  # What had arrived before was of another file.
            discard(server, wanted.disk_id)
            made = _attempt(server, wanted, reader)
    if made is None:
        raise ObjectCorrupt(
            f"The server did not take in what was sent of {wanted.disk.path}.",
            found="another digest of the disk than the file has",
            expected="the same",
            hint="run the same command again; if it fails so again, something between here and there changes bytes",
            target=wanted.disk_id,
        )
    return made


def digest_of_file(server: Server, disk: LocalDisk) -> Digest:
    """What the disk in a file is known by."""
    with disk.open() as reader:
        return digest_pieces(server.subscriber, f"read {disk.path.name}", reader)


def discard(server: Server, disk_id: str) -> None:
    """Remove a disk that was made only to bring bytes, whatever has come; one that is gone is as good."""
    standing = server.find(disk_id)
    if standing is None:
        return
    if standing["properties"]["diskState"] == "ActiveUpload":
        with suppress(ImgstoreError):  # The URL goes first, then half a file is refused: as it should be.
            server.post_action(disk_id, "endGetAccess")
    server.delete(disk_id)


def _is_resumable(standing: Json, upload_bytes: int) -> bool:
    properties = standing["properties"]
    return properties["diskState"] in _WAITING and properties["creationData"].get("uploadSizeBytes") == upload_bytes


def _is_same_disk(server: Server, standing: Json, wanted: Upload, reader: DiskReader) -> bool:
    """Whether what stands is what was to be made; False lets it go.

    Raises:
        PropertyChangeNotAllowed: it is a person's, and another.
    """
    properties = standing["properties"]
    if properties["diskState"] not in _WAITING and region_key(standing["location"]) == region_key(wanted.location):
        digest = digest_pieces(server.subscriber, f"read {wanted.disk.path.name}", reader).hex()
        if properties["creationData"]["createOption"] == "Upload" and properties.get("diskDigest") == digest:
            return True
    if wanted.is_temporary:
        return False
    raise PropertyChangeNotAllowed(
        "properties.creationData",
        found=f"{wanted.disk.path}, {reader.virtual_bytes} bytes, in {wanted.location}",
        expected=f"what the disk was made of: {properties['creationData']}, {properties['diskSizeBytes']} bytes, "
        f"in {standing['location']}",
        hint="choose another name, or delete the disk first",
    )


def _attempt(server: Server, wanted: Upload, reader: DiskReader) -> Json:
    """The disk; None if it is not the file's."""
    upload_bytes = reader.virtual_bytes + _FOOTER_BYTES
    server.put(wanted.disk_id, wanted.body(upload_bytes))
    url = grant_access(server, wanted.disk_id, "Write")
    name = wanted.disk.path.name
    digest = _send(server, url, reader, f"upload {name}")
    with report_progress(server.subscriber, f"take in {name}", sum(each.length for each in reader.extents())):
        server.post_action(wanted.disk_id, "endGetAccess")
    made = server.show(wanted.disk_id)
    return made if made["properties"].get("diskDigest") == digest.hex() else None


def grant_access(server: Server, disk_id: str, level: str) -> str:
    """A signed URL to a disk's bytes."""
    asked = {"access": level, "durationInSeconds": _GRANT_SECONDS}
    return str(server.post_action(disk_id, "beginGetAccess", asked)["accessSAS"])


def page_list(server: Server, url: str) -> list[Extent]:
    """The ranges of a disk's file that hold data there, sorted and apart."""
    found: list[Extent] = []
    marker: str | None = ""
    while marker is not None:
        answer = server.connection.transfer("GET", f"{url}&comp=pagelist&marker={marker}", headers={})
        part, marker = read_page_list(answer.body.decode())
        found += part
    return found


def _send(server: Server, url: str, reader: DiskReader, task: str) -> Digest:
    """Send what has not arrived; the disk's digest."""
    arrived = page_list(server, url)

    def send(at: int, data: bytes) -> None:
        for begin, end in missing_ranges(nonzero_ranges(data), arrived, at):
            put(at + begin, data[begin:end])

    def put(at: int, data: bytes) -> None:
        headers = {
            "x-ms-page-write": "update",
            "x-ms-range": f"bytes={at}-{at + len(data) - 1}",
            "Content-Type": _OCTETS,
        }
        server.connection.transfer("PUT", f"{url}&comp=page", headers=headers, data=data)

    digest = digest_pieces(server.subscriber, task, reader, send)
    put(reader.virtual_bytes, fixed_footer(reader.virtual_bytes, reader.container_metadata, digest))
    return digest


def nonzero_ranges(data: bytes) -> Iterator[tuple[int, int]]:
    """The ranges of a piece that are not zero, as (begin, end), in grains."""
    begin: int | None = None
    for at in range(0, len(data), _GRAIN_BYTES):
        grain = data[at : at + _GRAIN_BYTES]
        is_zero = grain == _ZEROS[: len(grain)]
        if begin is not None and is_zero:
            yield begin, at
        if is_zero or begin is None:
            begin = None if is_zero else at
    if begin is not None:
        yield begin, len(data)


def missing_ranges(ranges: Iterable[tuple[int, int]], arrived: Sequence[Extent], at: int) -> Iterator[tuple[int, int]]:
    """The ranges, counted from `at`, of which not all has arrived."""
    holds: Callable[[int, int], bool] = lambda begin, end: any(  # noqa: E731 - one line of reckoning
        each.offset <= at + begin and at + end <= each.end for each in arrived
    )
    return ((begin, end) for begin, end in ranges if not holds(begin, end))
