"""Upload local files as managed disks through the blob endpoint. Non-zero ranges are sent in parallel.

A disk that waits for an upload keeps the received ranges, so the same command resumes after an interruption. The digest
of the disk is compared at the end, because the received ranges may be of another file. After a mismatch the upload
starts again, once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from imgstore.domain.disks.sources import DiskReader, Extent
from imgstore.domain.disks.upload_tags import UPLOAD_DIGEST, UPLOAD_FOR
from imgstore.domain.errors import Conflict, ImgstoreError, NotFound, ObjectCorrupt, PropertyChangeNotAllowed
from imgstore.domain.names import region_key
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.sizes import KIB, PIECE_BYTES
from imgstore.domain.tags import VALUE_CHARACTERS_MAX
from imgstore.formats import fixed_footer
from imgstore.remote.arm_client import Server
from imgstore.remote.local_disk import LocalDisk, digest_pieces, report_progress
from imgstore.wire.blob_protocol import PUT_PAGE_BYTES_MAX, read_page_list
from imgstore.wire.json_text import Json
from imgstore.wire.requests.client import disk_body

_GRAIN_BYTES: Final = 64 * KIB
"""The unit of zero detection. A request costs about as much as sending this many bytes."""
_ZEROS: Final = bytes(_GRAIN_BYTES)
_FOOTER_BYTES: Final = 512
GRANT_SECONDS: Final = 24 * 3600
"""The validity of a signed URL for one attempt. The next attempt gets a new URL."""
_URL_REFUSED: Final = "AuthenticationFailed"
"""The error code of a signed URL that was revoked or has expired."""
_ENDED: Final = "ReadyToUpload"
"""The state of a disk that waits for an upload, and has no valid URL."""
_ACTIVE: Final = "ActiveUpload"
_WAITING: Final = (_ENDED, _ACTIVE)
_OCTETS: Final = "application/octet-stream"

assert PIECE_BYTES <= PUT_PAGE_BYTES_MAX, "a piece is sent in one request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A managed disk to create from a local file."""

    disk_id: str
    disk: LocalDisk
    location: str
    tags: Mapping[str, str] | None = None
    sku: str | None = None
    os_type: str | None = None
    hyper_v_generation: str | None = None
    version: str | None = None
    """The id of the version that the disk is for. The name of the disk is generated, so another disk of this name may be
    deleted. A server keeps the upload for the version. An older server ingests the upload as a disk."""

    @property
    def all_tags(self) -> Mapping[str, str] | None:
        """The tags of the disk, with the tag of an upload for a version."""
        if self.version is None:
            return self.tags
        is_short = len(self.version) <= VALUE_CHARACTERS_MAX
        return {**(self.tags or {}), UPLOAD_FOR: self.version if is_short else "version"}

    def body(self, upload_bytes: int) -> Json:
        """Return the body of the PUT."""
        return disk_body(
            location=self.location,
            creation={"createOption": "Upload", "uploadSizeBytes": upload_bytes},
            tags=self.all_tags,
            sku=self.sku,
            os_type=self.os_type,
            hyper_v_generation=self.hyper_v_generation,
        )


def upload(server: Server, wanted: Upload) -> Json:
    """Upload a file as a managed disk, and return the disk. A repeated call resumes, or does nothing.

    Raises:
        InvalidInput, ImageRefused: The file cannot be uploaded.
        PropertyChangeNotAllowed: Another disk of this name exists.
        StoreUnreachable: The server does not answer. Received ranges stay.
        Conflict: Another command ended the upload, or the upload took longer than its URL is valid.
        ObjectCorrupt: The server received other bytes.
    """
    with wanted.disk.open(server.subscriber) as reader:
        upload_bytes = reader.virtual_bytes + _FOOTER_BYTES
        existing = server.find(wanted.disk_id)
        if existing is not None and not _is_resumable(existing, upload_bytes):
            if _is_same_disk(server, existing, wanted, reader):
                return existing if wanted.tags is None else server.patch(wanted.disk_id, {"tags": wanted.tags})
            discard(server, wanted.disk_id)
        elif existing is not None and wanted.all_tags is None:
            wanted = replace(wanted, tags=existing.get("tags"))  # A PUT without tags removes the tags.
        made = _attempt(server, wanted, reader)
        if made is None:  # The ranges of an earlier run were of another file.
            discard(server, wanted.disk_id)
            made = _attempt(server, wanted, reader)
    if made is None:
        raise ObjectCorrupt(
            f"The server received other bytes than those of {wanted.disk.path}.",
            found="another disk digest than that of the file",
            expected="equal digests",
            hint="run the same command again; after another failure, check proxies between client and server",
            target=wanted.disk_id,
        )
    return made


def is_uploaded(server: Server, wanted: Upload) -> bool:
    """Return whether the server keeps the bytes of the file as an ended upload for the version.

    Another command for the same version may have sent the bytes. The file is read and compared with the digest that the
    other command named.
    """
    existing = server.find(wanted.disk_id)
    if existing is None or existing["properties"]["diskState"] != _ENDED:
        return False
    expected = (existing.get("tags") or {}).get(UPLOAD_DIGEST)
    return expected is not None and expected == digest_of_file(server, wanted.disk).hex()


def digest_of_file(server: Server, disk: LocalDisk) -> Digest:
    """Return the disk digest of a local file."""
    with disk.open(server.subscriber) as reader:
        return digest_pieces(server.subscriber, f"read {disk.path.name}", reader)


def discard(server: Server, disk_id: str) -> None:
    """Delete a temporary disk in any state. A missing disk is not an error."""
    existing = server.find(disk_id)
    if existing is None:
        return
    if existing["properties"]["diskState"] == _ACTIVE:
        with suppress(ImgstoreError):  # Revoke the URL. The server then refuses an incomplete upload, as expected.
            server.post_action(disk_id, "endGetAccess")
    with suppress(NotFound):  # Another command may delete the disk now.
        server.delete(disk_id)


def _is_resumable(existing: Json, upload_bytes: int) -> bool:
    properties = existing["properties"]
    return properties["diskState"] in _WAITING and properties["creationData"].get("uploadSizeBytes") == upload_bytes


def _is_same_disk(server: Server, existing: Json, wanted: Upload, reader: DiskReader) -> bool:
    """Return whether an existing disk has the bytes and the region of the upload.

    False permits the deletion of the disk.

    Raises:
        PropertyChangeNotAllowed: The disk differs, and the user chose the name.
    """
    properties = existing["properties"]
    if properties["diskState"] not in _WAITING and region_key(existing["location"]) == region_key(wanted.location):
        digest = digest_pieces(server.subscriber, f"read {wanted.disk.path.name}", reader).hex()
        if properties["creationData"]["createOption"] == "Upload" and properties.get("diskDigest") == digest:
            return True
    if wanted.version is not None:
        return False
    raise PropertyChangeNotAllowed(
        "properties.creationData",
        found=f"{wanted.disk.path}, {reader.virtual_bytes} bytes, in {wanted.location}",
        expected=f"the source of the disk: {properties['creationData']}, {properties['diskSizeBytes']} bytes, "
        f"in {existing['location']}",
        hint="choose another name, or delete the disk first",
    )


def _attempt(server: Server, wanted: Upload, reader: DiskReader) -> Json:
    """Create the disk and upload the file. Return the disk, or None if the digest differs."""
    upload_bytes = reader.virtual_bytes + _FOOTER_BYTES
    server.put(wanted.disk_id, wanted.body(upload_bytes))
    url = grant_access(server, wanted.disk_id, "Write")
    name = wanted.disk.path.name
    try:
        digest = _send(server, url, reader, f"upload {name}")
    except ImgstoreError as error:
        if error.error_code == _URL_REFUSED:
            raise _upload_ended(wanted, error) from error
        raise
    if wanted.version is not None:
        server.patch(wanted.disk_id, {"tags": {**(wanted.all_tags or {}), UPLOAD_DIGEST: digest.hex()}})
        server.post_action(wanted.disk_id, "endGetAccess")
        made = server.show(wanted.disk_id)
        if made["properties"]["diskState"] in _WAITING:
            return made  # The server compares the digest when the version is created.
        return made if made["properties"].get("diskDigest") == digest.hex() else None
    ingested_bytes = sum(each.length for each in reader.extents())
    with report_progress(server.subscriber, f"ingest {name}", ingested_bytes) as task:
        server.post_action(wanted.disk_id, "endGetAccess", on_percent=task.advance_to)
    made = server.show(wanted.disk_id)
    return made if made["properties"].get("diskDigest") == digest.hex() else None


def _upload_ended(wanted: Upload, error: ImgstoreError) -> Conflict:
    """Return the error of an upload whose URL was valid at the start and is refused now."""
    return Conflict(
        f"The upload of {wanted.disk.path} was ended before all bytes were sent.",
        found=f"{error.found}; for example, another command for the same {'version' if wanted.version else 'disk'}",
        expected=f"one command at a time, and an upload of less than {GRANT_SECONDS // 3600} hours",
        hint="wait for the other command, and run the same command again, which resumes or compares the file",
        target=wanted.disk_id,
    )


def grant_access(server: Server, disk_id: str, level: str) -> str:
    """Return a signed URL of a disk."""
    asked = {"access": level, "durationInSeconds": GRANT_SECONDS}
    return str(server.post_action(disk_id, "beginGetAccess", asked)["accessSAS"])


def page_list(server: Server, url: str) -> list[Extent]:
    """Return the ranges with data of a disk's file on the server, sorted and disjoint."""
    found: list[Extent] = []
    marker: str | None = ""
    while marker is not None:
        answer = server.connection.transfer("GET", f"{url}&comp=pagelist&marker={marker}", headers={})
        part, marker = read_page_list(answer.body.decode())
        found += part
    return found


def _send(server: Server, url: str, reader: DiskReader, task: str) -> Digest:
    """Send the missing ranges, and return the disk digest."""
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
    """Yield the non-zero ranges of a piece, as (begin, end), in grains."""
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
    """Yield the ranges, relative to `at`, that the server has not received completely."""
    holds: Callable[[int, int], bool] = lambda begin, end: any(  # noqa: E731 - a single expression
        each.offset <= at + begin and at + end <= each.end for each in arrived
    )
    return ((begin, end) for begin, end in ranges if not holds(begin, end))
