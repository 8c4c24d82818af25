"""Serve the blob endpoint: read and write a disk by signed URL, with Azure's blob clients or with curl.

A signed URL names a page blob, which is the disk as a fixed VHD. Azure's clients write pages. A plain PUT writes the file
itself, from the start or from the offset in Content-Range. Received bytes are kept, also if a request fails.
"""

import asyncio
import base64
import binascii
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, suppress
from email.utils import format_datetime
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from imgstore.api.blob.open_disks import OpenBlobs
from imgstore.api.blob.upload_body import UploadWriter, add_part, write
from imgstore.api.http.context import BodyTooLarge, PreconditionFailed, Server
from imgstore.api.http.redaction import find_public_error, redact
from imgstore.domain.errors import Conflict, ImgstoreError, InvalidInput
from imgstore.domain.resources import ManagedDisk
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.disks.reader import OpenDisk, WholeDisk
from imgstore.operations.disks.signed_urls import URL_ROOT, SignedUrlClaims, authorize_signed_url
from imgstore.transfer.crc64 import crc64_header
from imgstore.transfer.spool import Bytes, Spool, spool_error
from imgstore.wire.blob_protocol import (
    PUT_PAGE_BYTES_MAX,
    error_xml,
    page_list_xml,
    parse_content_length,
    parse_page_range,
    parse_range,
    parse_upload_offset,
    read_page_list_request,
)

_READ_BYTES: Final = MIB
_DRAINED_BYTES_MAX: Final = 64 * MIB
"""The bytes of a refused body that are read and dropped. A client that is still sending can then read the refusal."""
_LOOK_SECONDS: Final = 1.0
"""The interval at which an upload request checks that the signed URL is still valid."""
_OCTETS: Final = "application/octet-stream"


class _Route(APIRoute):
    """A route with errors in the format of Azure's blob service."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except ImgstoreError as error:
                return _error_response(request, error)
            except OSError as error:
                fault = spool_error(error, request.app.state.server.installation.home)
                fault.__cause__ = error
                return _error_response(request, fault)

        return answer


router = APIRouter(tags=["Blobs"], route_class=_Route)
_BLOB: Final = f"{URL_ROOT}/{{disk}}/{{name}}"


def _error_response(request: Request, error: ImgstoreError) -> Response:
    text = redact(request.app.state.server.installation, str(find_public_error(error)))
    shown = ImgstoreError(text, code=error.error_code)
    body = b"" if request.method == "HEAD" else error_xml(shown)
    headers = {"x-ms-error-code": error.error_code, "x-ms-version": _version(request)}
    return Response(body, status_code=error.status, headers=headers, media_type="application/xml")


def _version(request: Request) -> str:
    return request.headers.get("x-ms-version", "2021-12-02")[:10]


async def _authorize(request: Request, disk: str, *, write: bool) -> ManagedDisk:
    query = request.query_params
    ticket = SignedUrlClaims(
        disk_uid=disk, grant_uid=query.get("si", ""), expires_at=query.get("se", ""), signature=query.get("sig", "")
    )
    server: Server = request.app.state.server
    admission = server.pools.blobs.submit(disk, lambda: authorize_signed_url(server.installation, ticket, write=write))
    return await asyncio.wrap_future(admission)


async def _in_thread(request: Request, work: Callable[[], Any]) -> Any:
    """Run a part of an authorized request in a thread of the blob pool. A full queue does not refuse such a part."""
    server: Server = request.app.state.server
    return await asyncio.wrap_future(server.pools.blobs.submit(request.path_params["disk"], work, bounded=False))


@router.get(_BLOB, summary="Get Blob, Get Page Ranges")
async def get(request: Request, disk: str, name: str) -> Response:  # noqa: ARG001 - the name only makes the URL readable
    """Send the disk or a range of the disk. With ``comp=pagelist``, list the ranges with data."""
    found = await _authorize(request, disk, write=False)
    blobs: OpenBlobs = request.app.state.blobs
    if found.awaits_upload:
        async with blobs.spool(found) as spool:
            headers = _spool_headers(request, found, spool)
            _check_conditions(request, headers["ETag"])
            if request.query_params.get("comp") == "pagelist":
                return await _page_list(request, spool, headers)
            return await _read_upload(request, spool, headers)
    opened: OpenDisk = await _in_thread(request, lambda: blobs.reader(found))
    headers = _disk_headers(request, found)
    if _is_not_modified(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    _check_conditions(request, headers["ETag"])
    if request.query_params.get("comp") == "pagelist":
        return await _page_list(request, opened, headers)
    return await _read_disk(request, opened, headers)


@router.head(_BLOB, summary="Get Blob Properties")
async def head(request: Request, disk: str, name: str) -> Response:  # noqa: ARG001
    """Answer with size and ETag. For an upload, also answer with the number of received bytes from the start."""
    found = await _authorize(request, disk, write=False)
    blobs: OpenBlobs = request.app.state.blobs
    if found.awaits_upload:
        async with blobs.spool(found) as spool:
            headers, length = _spool_headers(request, found, spool), spool.file_bytes
    else:
        opened: OpenDisk = await _in_thread(request, lambda: blobs.reader(found))
        headers, length = _disk_headers(request, found), opened.file_bytes
    _check_conditions(request, headers["ETag"])
    return Response(headers={**headers, "Content-Length": str(length)}, media_type=_OCTETS)


@router.put(_BLOB, summary="Put Blob, Put Page, or a file as it is", status_code=201)
async def put(request: Request, disk: str, name: str) -> Response:  # noqa: ARG001
    """Handle Put Blob and Put Page, which have headers of their own. Otherwise the body is a file, as in ``curl -T``."""
    found = await _authorize(request, disk, write=True)
    blobs: OpenBlobs = request.app.state.blobs
    async with blobs.spool(found) as spool:
        comp, kind = request.query_params.get("comp"), request.headers.get("x-ms-blob-type")
        if comp == "page":
            _check_conditions(request, _etag(spool))
            more = await _put_page(request, spool)
        elif comp is not None:
            raise _unsupported_error(f"comp={comp}", "comp=page, or none")
        elif kind is not None:
            _check_conditions(request, _etag(spool))
            more = await _put_blob(request, spool, kind)
        else:
            more = await _put_file(request, found, spool)
        return Response(status_code=201, headers=_spool_headers(request, found, spool) | more)


async def _put_blob(request: Request, spool: Spool, kind: str) -> dict[str, str]:
    """Reset the upload to a page blob of zeros."""
    if kind.lower() != "pageblob":
        raise _unsupported_error(f"x-ms-blob-type: {kind}", "PageBlob")
    length = request.headers.get("x-ms-blob-content-length", "")
    if length != str(spool.file_bytes):
        raise InvalidInput(
            "The page blob's length differs from the disk's length.",
            found=f"x-ms-blob-content-length: {length or 'none'}",
            expected=str(spool.file_bytes),
            hint="create the disk with the size of your file as uploadSizeBytes",
            code="InvalidHeaderValue",
        )
    await _in_thread(request, spool.clear)
    return {}


async def _put_page(request: Request, spool: Spool) -> dict[str, str]:
    headers = request.headers
    begin, end = parse_page_range(headers.get("x-ms-range") or headers.get("range"))
    if end > spool.file_bytes:
        raise _size_error(end, spool)
    what = headers.get("x-ms-page-write", "").lower()
    if what == "clear":
        await _in_thread(request, lambda: spool.write_zeros(begin, end - begin))
        return {}
    if what != "update":
        raise _unsupported_error(f"x-ms-page-write: {what or 'none'}", "update or clear")
    if end - begin > PUT_PAGE_BYTES_MAX:
        raise BodyTooLarge(
            "The request body is too large and exceeds the maximum permissible limit.",
            found=f"{end - begin} bytes",
            expected=f"at most {PUT_PAGE_BYTES_MAX}",
            hint="send the range in several requests",
            code="RequestBodyTooLarge",
        )
    parts = await _read_body(request, end - begin)
    more: dict[str, str] = {}
    if any(header in headers for header, _, _ in _CHECKSUMS):
        more = await _in_thread(request, lambda: _check_checksum(request, b"".join(parts)))
    await write(spool, begin, parts)
    return {"x-ms-request-server-encrypted": "false", **more}


async def _read_body(request: Request, length: int) -> list[Bytes]:
    """Read a body of exactly `length` bytes, in parts."""
    parts, found = list[Bytes](), 0
    async for chunk in request.stream():
        add_part(parts, chunk)
        found += len(chunk)
        if found > length:
            break
    if found != length:
        raise InvalidInput(
            "The page range does not match the size of the request body.",
            found=f"{'more than ' * (found > length)}{min(found, length)} bytes",
            expected=f"{length} bytes, as x-ms-range says",
            code="InvalidPageRange",
        )
    return parts


def _check_checksum(request: Request, data: bytes) -> dict[str, str]:
    """Compare the checksum in the headers with the data. Return the header of the answer with the checksum.

    Raises:
        InvalidInput: the checksums differ.
    """
    for header, code, compute in _CHECKSUMS:
        sent = request.headers.get(header)
        if sent is None:
            continue
        found = base64.b64encode(compute(data)).decode()
        try:
            same = base64.b64decode(sent, validate=True) == base64.b64decode(found)
        except binascii.Error:
            same = False
        if not same:
            raise InvalidInput(
                f"The {header} value specified in the request did not match with the value calculated by the server.",
                found=found,
                expected=sent,
                hint="the body changed during the transfer: send the body again",
                code=code,
            )
        return {header: found}
    return {}


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


_CHECKSUMS: Final = (("content-md5", "Md5Mismatch", _md5), ("x-ms-content-crc64", "Crc64Mismatch", crc64_header))
"""The header of a checksum, the error code of a mismatch, and the function that computes the checksum."""


async def _put_file(request: Request, disk: ManagedDisk, spool: Spool) -> dict[str, str]:
    """Write the body to the upload, in writes of 1 MiB. Received bytes of an incomplete body are kept."""
    at = parse_upload_offset(request.headers.get("content-range"))
    length = parse_content_length(request.headers.get("content-length")) or 0
    if at + length > spool.file_bytes:
        await _drain(request)
        raise _size_error(at + length, spool)
    clock = request.app.state.server.installation.effects.monotonic
    looked = clock()
    async with UploadWriter(spool, at) as writer:
        try:
            async for chunk in request.stream():
                if not await writer.add(chunk):
                    break
                if clock() - looked > _LOOK_SECONDS:
                    await _authorize(request, disk.uid, write=True)
                    looked = clock()
        except ClientDisconnect:
            raise Conflict("The connection broke.", hint="send the missing bytes", code="OperationAborted") from None
    if writer.excess_bytes:
        await _drain(request)
        raise _size_error(spool.file_bytes + writer.excess_bytes, spool)
    return {}


async def _drain(request: Request) -> None:
    taken = 0
    with suppress(ClientDisconnect, RuntimeError):
        async for chunk in request.stream():
            taken += len(chunk)
            if taken > _DRAINED_BYTES_MAX:
                return


def _size_error(end: int, spool: Spool) -> BodyTooLarge:
    return BodyTooLarge(
        "The upload is larger than the disk.",
        found=f"a byte at {end - 1}",
        expected=f"{spool.file_bytes} bytes: the disk and its footer",
        hint="accepted bytes are kept; create the disk with the size of your file as uploadSizeBytes",
        code="RequestBodyTooLarge",
    )


def _unsupported_error(found: str, expected: str) -> InvalidInput:
    return InvalidInput(
        "The operation is not supported on this blob.", found=found, expected=expected, code="UnsupportedHeader"
    )


async def _read_upload(request: Request, spool: Spool, headers: dict[str, str]) -> Response:
    """Read back the received bytes. The answer is built in memory, because the request ends before the answer is sent."""
    wanted = parse_range(_range_header(request), spool.file_bytes)
    begin, end = wanted or (0, spool.file_bytes)
    if end - begin > PUT_PAGE_BYTES_MAX:
        raise _unsupported_error(f"{end - begin} bytes of an upload", f"at most {PUT_PAGE_BYTES_MAX} at once")
    data = await _in_thread(request, lambda: spool.read_at(begin, end - begin))
    more = _content_headers(begin, end, spool.file_bytes, partly=wanted is not None)
    return Response(data, status_code=206 if wanted else 200, headers=headers | more, media_type=_OCTETS)


class _Stream(StreamingResponse):
    """A streaming response that releases the source at the end, also if no byte was sent."""

    def __init__(self, held: ExitStack, content: AsyncIterator[bytes], **how: Any) -> None:
        super().__init__(content, **how)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._held.close()


async def _read_disk(request: Request, disk: OpenDisk, headers: dict[str, str]) -> Response:
    wanted = parse_range(_range_header(request), disk.file_bytes)
    begin, end = wanted or (0, disk.file_bytes)
    more = _content_headers(begin, end, disk.file_bytes, partly=wanted is not None)
    is_checked = request.headers.get("x-ms-range-get-content-md5", "").lower() == "true"
    held = ExitStack()
    try:
        source: OpenDisk | WholeDisk = disk
        if end - begin == disk.file_bytes:
            source = await _in_thread(request, lambda: held.enter_context(disk.open_whole()))
        at_first = end - begin if is_checked and end - begin <= PUT_PAGE_BYTES_MAX else _READ_BYTES
        first = await _in_thread(request, lambda: source.read_at(begin, min(at_first, end - begin)))
    except BaseException:
        held.close()
        raise
    if is_checked and len(first) == end - begin:
        more["Content-MD5"] = base64.b64encode(_md5(first)).decode()

    async def parts() -> AsyncIterator[bytes]:
        yield first
        for at in range(begin + len(first), end, _READ_BYTES):
            yield await _in_thread(request, partial(source.read_at, at, min(_READ_BYTES, end - at)))

    return _Stream(held, parts(), status_code=206 if wanted else 200, headers=headers | more, media_type=_OCTETS)


def _content_headers(begin: int, end: int, file_bytes: int, *, partly: bool) -> dict[str, str]:
    length = {"Content-Length": str(end - begin)}
    return length | ({"Content-Range": f"bytes {begin}-{end - 1}/{file_bytes}"} if partly else {})


async def _page_list(request: Request, source: "Spool | OpenDisk", headers: dict[str, str]) -> Response:
    wanted = parse_range(_range_header(request), source.file_bytes)
    query = request.query_params
    asked = read_page_list_request(wanted or (0, source.file_bytes), query.get("marker"), query.get("maxresults"))
    body = await _in_thread(request, lambda: page_list_xml(source.extents(asked.begin, asked.end), asked))
    length = {"x-ms-blob-content-length": str(source.file_bytes)}
    return Response(body, headers=headers | length, media_type="application/xml")


def _range_header(request: Request) -> str | None:
    return request.headers.get("x-ms-range") or request.headers.get("range")


def _spool_headers(request: Request, disk: ManagedDisk, spool: Spool) -> dict[str, str]:
    received = {"x-imgstore-received-bytes": str(spool.received_bytes)}
    return _headers(request, disk, _etag(spool)) | received


def _disk_headers(request: Request, disk: ManagedDisk) -> dict[str, str]:
    return _headers(request, disk, f'"0x{disk.disk_digest[:16].hex().upper()}"')


def _headers(request: Request, disk: ManagedDisk, etag: str) -> dict[str, str]:
    return {
        "ETag": etag,
        "Last-Modified": format_datetime(disk.created_at, usegmt=True),
        "Accept-Ranges": "bytes",
        "x-ms-blob-type": "PageBlob",
        "x-ms-blob-sequence-number": "0",
        "x-ms-lease-status": "unlocked",
        "x-ms-lease-state": "available",
        "x-ms-version": _version(request),
    }


def _etag(spool: Spool) -> str:
    return f'"0x{spool.revision:016X}"'


def _tags(header: str | None) -> list[str]:
    return [each.strip() for each in (header or "").split(",") if each.strip()]


def _is_not_modified(request: Request, etag: str) -> bool:
    return any(each in ("*", etag) for each in _tags(request.headers.get("if-none-match")))


def _check_conditions(request: Request, etag: str) -> None:
    """Check If-Match and If-None-Match. The blob of a disk always exists.

    Raises:
        PreconditionFailed: a condition does not hold.
    """
    wanted, unwanted = _tags(request.headers.get("if-match")), _tags(request.headers.get("if-none-match"))
    if (not wanted or "*" in wanted or etag in wanted) and not ("*" in unwanted or etag in unwanted):
        return
    raise PreconditionFailed(
        "The condition specified using HTTP conditional header(s) is not met.",
        found=f"ETag {etag}",
        expected=", ".join([*wanted, *(f"not {each}" for each in unwanted)]),
        hint="read the blob's properties again",
        code="ConditionNotMet",
    )
