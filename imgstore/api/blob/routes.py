"""The blob door: a disk's bytes by signed URL, as Azure's page blobs and as curl sends and fetches files.

A signed URL is of a page blob, the disk as a fixed VHD. Azure's clients put pages into it; a plain PUT is the file
itself, from its beginning or from where Content-Range says. What has arrived stays, however a request ends.
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
from imgstore.api.http.redaction import redact
from imgstore.domain.errors import Conflict, ImgstoreError, InvalidInput
from imgstore.domain.resources import ManagedDisk
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.disks.reader import OpenDisk, WholeDisk
from imgstore.operations.disks.signed_urls import ROOT, Ticket, admit
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
"""What is still taken from a client, unheard, so that it comes to read why it was refused."""
_LOOK_SECONDS: Final = 1.0
"""How often a request that sends looks whether its URL is still good."""
_OCTETS: Final = "application/octet-stream"


class _Route(APIRoute):
    """Answers errors as Azure's blob service does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except ImgstoreError as error:
                return _refusal(request, error)
            except OSError as error:
                return _refusal(request, spool_error(error, request.app.state.server.installation.home))

        return answer


router = APIRouter(tags=["Blobs"], route_class=_Route)
_BLOB: Final = f"{ROOT}/{{disk}}/{{name}}"


def _refusal(request: Request, error: ImgstoreError) -> Response:
    shown = ImgstoreError(redact(request.app.state.server.installation, str(error)), code=error.error_code)
    body = b"" if request.method == "HEAD" else error_xml(shown)
    headers = {"x-ms-error-code": error.error_code, "x-ms-version": _version(request)}
    return Response(body, status_code=error.status, headers=headers, media_type="application/xml")


def _version(request: Request) -> str:
    return request.headers.get("x-ms-version", "2021-12-02")[:10]


async def _admitted(request: Request, disk: str, *, write: bool) -> ManagedDisk:
    told = request.query_params
    ticket = Ticket(
        disk_uid=disk, grant_uid=told.get("si", ""), expires_at=told.get("se", ""), signature=told.get("sig", "")
    )
    server: Server = request.app.state.server
    admission = server.pools.blobs.submit(disk, lambda: admit(server.installation, ticket, write=write))
    return await asyncio.wrap_future(admission)


async def _in_thread(request: Request, work: Callable[[], Any]) -> Any:
    """Run a part of an admitted request, which is never refused for a full queue."""
    server: Server = request.app.state.server
    return await asyncio.wrap_future(server.pools.blobs.submit(request.path_params["disk"], work, bounded=False))


@router.get(_BLOB, summary="Get Blob, Get Page Ranges")
async def get(request: Request, disk: str, name: str) -> Response:  # noqa: ARG001 - the name is for people
    """The disk, or a range of it; with ``comp=pagelist`` the ranges that hold data."""
    found = await _admitted(request, disk, write=False)
    door: OpenBlobs = request.app.state.blobs
    if found.awaits_upload:
        async with door.spool(found) as spool:
            headers = _spool_headers(request, found, spool)
            _check_conditions(request, headers["ETag"])
            if request.query_params.get("comp") == "pagelist":
                return await _page_list(request, spool, headers)
            return await _uploaded(request, spool, headers)
    opened: OpenDisk = await _in_thread(request, lambda: door.reader(found))
    headers = _disk_headers(request, found)
    if _not_modified(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    _check_conditions(request, headers["ETag"])
    if request.query_params.get("comp") == "pagelist":
        return await _page_list(request, opened, headers)
    return await _served(request, opened, headers)


@router.head(_BLOB, summary="Get Blob Properties")
async def head(request: Request, disk: str, name: str) -> Response:  # noqa: ARG001
    """Size and ETag; of an upload how many bytes have arrived from the beginning on."""
    found = await _admitted(request, disk, write=False)
    door: OpenBlobs = request.app.state.blobs
    if found.awaits_upload:
        async with door.spool(found) as spool:
            headers, length = _spool_headers(request, found, spool), spool.file_bytes
    else:
        opened: OpenDisk = await _in_thread(request, lambda: door.reader(found))
        headers, length = _disk_headers(request, found), opened.file_bytes
    _check_conditions(request, headers["ETag"])
    return Response(headers={**headers, "Content-Length": str(length)}, media_type=_OCTETS)


@router.put(_BLOB, summary="Put Blob, Put Page, or a file as it is", status_code=201)
async def put(request: Request, disk: str, name: str) -> Response:  # noqa: ARG001
    """Azure's two, told by their headers; else the body is the file, as ``curl -T`` sends it."""
    found = await _admitted(request, disk, write=True)
    door: OpenBlobs = request.app.state.blobs
    async with door.spool(found) as spool:
        comp, kind = request.query_params.get("comp"), request.headers.get("x-ms-blob-type")
        if comp == "page":
            _check_conditions(request, _etag(spool))
            more = await _put_page(request, spool)
        elif comp is not None:
            raise _unsupported(f"comp={comp}", "comp=page, or none")
        elif kind is not None:
            _check_conditions(request, _etag(spool))
            more = await _put_blob(request, spool, kind)
        else:
            more = await _put_file(request, found, spool)
        return Response(status_code=201, headers=_spool_headers(request, found, spool) | more)


async def _put_blob(request: Request, spool: Spool, kind: str) -> dict[str, str]:
    """Begin anew: a page blob of zeros."""
    if kind.lower() != "pageblob":
        raise _unsupported(f"x-ms-blob-type: {kind}", "PageBlob")
    told = request.headers.get("x-ms-blob-content-length", "")
    if told != str(spool.file_bytes):
        raise InvalidInput(
            "The page blob's length is not that of the disk.",
            found=f"x-ms-blob-content-length: {told or 'none'}",
            expected=str(spool.file_bytes),
            hint="make the disk with uploadSizeBytes of the file that you send",
            code="InvalidHeaderValue",
        )
    await _in_thread(request, spool.clear)
    return {}


async def _put_page(request: Request, spool: Spool) -> dict[str, str]:
    headers = request.headers
    begin, end = parse_page_range(headers.get("x-ms-range") or headers.get("range"))
    if end > spool.file_bytes:
        raise _beyond(end, spool)
    what = headers.get("x-ms-page-write", "").lower()
    if what == "clear":
        await _in_thread(request, lambda: spool.write_zeros(begin, end - begin))
        return {}
    if what != "update":
        raise _unsupported(f"x-ms-page-write: {what or 'none'}", "update or clear")
    if end - begin > PUT_PAGE_BYTES_MAX:
        raise BodyTooLarge(
            "The request body is too large and exceeds the maximum permissible limit.",
            found=f"{end - begin} bytes",
            expected=f"at most {PUT_PAGE_BYTES_MAX}",
            hint="send it in several requests",
            code="RequestBodyTooLarge",
        )
    parts = await _body(request, end - begin)
    more: dict[str, str] = {}
    if any(header in headers for header, _, _ in _CHECKSUMS):
        more = await _in_thread(request, lambda: _checked(request, b"".join(parts)))
    await write(spool, begin, parts)
    return {"x-ms-request-server-encrypted": "false", **more}


async def _body(request: Request, length: int) -> list[Bytes]:
    """As it came, in parts."""
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


def _checked(request: Request, data: bytes) -> dict[str, str]:
    """The checksum that the client sent, compared, to be told back.

    Raises:
        InvalidInput: it is another one.
    """
    for header, code, reckon in _CHECKSUMS:
        told = request.headers.get(header)
        if told is None:
            continue
        found = base64.b64encode(reckon(data)).decode()
        try:
            same = base64.b64decode(told, validate=True) == base64.b64decode(found)
        except binascii.Error:
            same = False
        if not same:
            raise InvalidInput(
                f"The {header} value specified in the request did not match with the value calculated by the server.",
                found=found,
                expected=told,
                hint="the body was changed on its way: send it again",
                code=code,
            )
        return {header: found}
    return {}


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


_CHECKSUMS: Final = (("content-md5", "Md5Mismatch", _md5), ("x-ms-content-crc64", "Crc64Mismatch", crc64_header))
"""A header, the code of its refusal, and what reckons its value."""


async def _put_file(request: Request, disk: ManagedDisk, spool: Spool) -> dict[str, str]:
    """The body as it comes, in writes of 1 MiB; what arrived of a body that breaks off stays."""
    at = parse_upload_offset(request.headers.get("content-range"))
    length = parse_content_length(request.headers.get("content-length")) or 0
    if at + length > spool.file_bytes:
        await _drain(request)
        raise _beyond(at + length, spool)
    clock = request.app.state.server.installation.effects.monotonic
    looked = clock()
    async with UploadWriter(spool, at) as writer:
        try:
            async for chunk in request.stream():
                if not await writer.add(chunk):
                    break
                if clock() - looked > _LOOK_SECONDS:
                    await _admitted(request, disk.uid, write=True)
                    looked = clock()
        except ClientDisconnect:
            raise Conflict("The connection broke.", hint="send what is missing", code="OperationAborted") from None
    if writer.excess_bytes:
        await _drain(request)
        raise _beyond(spool.file_bytes + writer.excess_bytes, spool)
    return {}


async def _drain(request: Request) -> None:
    taken = 0
    with suppress(ClientDisconnect, RuntimeError):
        async for chunk in request.stream():
            taken += len(chunk)
            if taken > _DRAINED_BYTES_MAX:
                return


def _beyond(end: int, spool: Spool) -> BodyTooLarge:
    return BodyTooLarge(
        "The upload is larger than the disk.",
        found=f"a byte at {end - 1}",
        expected=f"{spool.file_bytes} bytes: the disk and its footer",
        hint="what was accepted before stays; make the disk with uploadSizeBytes of the file that you send",
        code="RequestBodyTooLarge",
    )


def _unsupported(found: str, expected: str) -> InvalidInput:
    return InvalidInput(
        "The operation is not supported on this blob.", found=found, expected=expected, code="UnsupportedHeader"
    )


async def _uploaded(request: Request, spool: Spool, headers: dict[str, str]) -> Response:
    """What has arrived, read back; all in memory, since the upload is let go at the end of the request."""
    wanted = parse_range(_range_header(request), spool.file_bytes)
    begin, end = wanted or (0, spool.file_bytes)
    if end - begin > PUT_PAGE_BYTES_MAX:
        raise _unsupported(f"{end - begin} bytes of an upload", f"at most {PUT_PAGE_BYTES_MAX} at once")
    data = await _in_thread(request, lambda: spool.read_at(begin, end - begin))
    more = _content_headers(begin, end, spool.file_bytes, partly=wanted is not None)
    return Response(data, status_code=206 if wanted else 200, headers=headers | more, media_type=_OCTETS)


class _Stream(StreamingResponse):
    """Gives back what it reads from, however it ends: also where its body was never begun."""

    def __init__(self, held: ExitStack, content: AsyncIterator[bytes], **how: Any) -> None:
        super().__init__(content, **how)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._held.close()


async def _served(request: Request, disk: OpenDisk, headers: dict[str, str]) -> Response:
    wanted = parse_range(_range_header(request), disk.file_bytes)
    begin, end = wanted or (0, disk.file_bytes)
    more = _content_headers(begin, end, disk.file_bytes, partly=wanted is not None)
    is_checked = request.headers.get("x-ms-range-get-content-md5", "").lower() == "true"
    held = ExitStack()
    try:
        source: OpenDisk | WholeDisk = disk
        if end - begin == disk.file_bytes:
            source = await _in_thread(request, lambda: held.enter_context(disk.at_once()))
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
    told = {"x-ms-blob-content-length": str(source.file_bytes)}
    return Response(body, headers=headers | told, media_type="application/xml")


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


def _not_modified(request: Request, etag: str) -> bool:
    return any(each in ("*", etag) for each in _tags(request.headers.get("if-none-match")))


def _check_conditions(request: Request, etag: str) -> None:
    """If-Match and If-None-Match; a blob of a disk is always there.

    Raises:
        PreconditionFailed: one does not hold.
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
