"""The blob door's words: XML of errors and page lists, ranges in headers.

After https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final
from xml.sax.saxutils import escape, unescape

from imgstore.domain.disks.sources import Extent
from imgstore.domain.errors import ImgstoreError, InvalidInput
from imgstore.wire.json_text import Json

PAGE_BYTES: Final = 512
PUT_PAGE_BYTES_MAX: Final = 4 << 20
"""Azure's bound of one Put Page."""
PAGE_RANGES_MAX: Final = 10_000
"""Azure's bound of one answer to Get Page Ranges."""
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_NEXT_MARKER: Final = re.compile(r"<NextMarker>(\d{1,18})</NextMarker>")
_HEAD: Final = '<?xml version="1.0" encoding="utf-8"?>'
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_RANGE: Final = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})?")
_SUFFIX: Final = re.compile(r"bytes=-([0-9]{1,18})")
_PAGE_RANGE: Final = re.compile(r"<PageRange><Start>(\d{1,18})</Start><End>(\d{1,18})</End></PageRange>")
_ERROR: Final = re.compile(r"<Error><Code>([^<]*)</Code><Message>([^<]*)</Message></Error>")
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})?/(\d{1,18}|\*)?")


class RangeNotSatisfiable(ImgstoreError):
    """A range that begins behind the blob."""

    code = "InvalidRange"
    status = 416


def error_xml(error: ImgstoreError) -> bytes:
    """The body that tells of an error; what was found, expected and what to do stand in the message."""
    return (
        f"{_HEAD}<Error><Code>{escape(error.error_code)}</Code><Message>{escape(str(error))}</Message></Error>".encode()
    )


def read_error_xml(text: str) -> Json:
    """The same, as ARM's envelope has it; None where it is none."""
    match = _ERROR.search(text)
    return match and {"error": {"code": unescape(match[1]), "message": unescape(match[2])}}


@dataclass(frozen=True, slots=True, kw_only=True)
class PageListRequest:
    """The part of a page list that a request asks for."""

    begin: int
    end: int
    """In bytes. The marker of the request is the beginning."""
    ranges_max: int


def read_page_list_request(
    within: tuple[int, int], marker: str | None = None, results_max: str | None = None
) -> PageListRequest:
    """Read the parameters of Get Page Ranges.

    Args:
        within: the bytes that the Range header asks for, as (begin, end).
        marker: `NextMarker` of the answer before.
        results_max: `maxresults`. A number above `PAGE_RANGES_MAX` means `PAGE_RANGES_MAX`.

    Raises:
        InvalidInput: a parameter has another form.
    """
    for name, text in (("marker", marker), ("maxresults", results_max)):
        if text and not _NUMBER.fullmatch(text):
            raise InvalidInput(
                f"The value of the query parameter '{name}' is invalid.",
                found=repr(text[:100]),
                expected="NextMarker of the answer before" if name == "marker" else "a whole number from 1 on",
                hint="leave it out to begin with the first range",
                target=name,
                code="InvalidQueryParameterValue",
            )
    return PageListRequest(
        begin=max(within[0], int(marker or 0)),
        end=within[1],
        ranges_max=min(PAGE_RANGES_MAX, max(1, int(results_max or PAGE_RANGES_MAX))),
    )


def page_list_xml(extents: Iterable[Extent], asked: PageListRequest) -> bytes:
    """Write ranges that hold data as whole pages, merged and cut to the bytes that were asked for.

    Args:
        extents: in order. No more of them are read than the answer needs.
        asked: the request.
    """
    found = list(islice(_pages(extents, asked.begin, asked.end), asked.ranges_max + 1))
    shown, behind = found[: asked.ranges_max], found[asked.ranges_max :]
    ranges = "".join(f"<PageRange><Start>{begin}</Start><End>{end - 1}</End></PageRange>" for begin, end in shown)
    marker = f"<NextMarker>{behind[0][0]}</NextMarker>" if behind else ""
    return f"{_HEAD}<PageList>{ranges}{marker}</PageList>".encode()


def read_page_list(text: str) -> tuple[list[Extent], str | None]:
    """Return the ranges of a page list, and the marker of its next part."""
    found = ((int(match[1]), int(match[2]) + 1) for match in _PAGE_RANGE.finditer(text))
    marker = _NEXT_MARKER.search(text)
    return [Extent(offset=begin, length=end - begin) for begin, end in found], marker and marker[1]


def _pages(extents: Iterable[Extent], low: int, high: int) -> Iterator[tuple[int, int]]:
    last: tuple[int, int] | None = None
    for extent in extents:
        begin = max(low, extent.offset // PAGE_BYTES * PAGE_BYTES)
        end = min(high, -(-extent.end // PAGE_BYTES) * PAGE_BYTES)
        if begin >= end:
            continue
        if last is None or begin > last[1]:
            if last is not None:
                yield last
            last = (begin, end)
        else:
            last = (last[0], max(end, last[1]))
    if last is not None:
        yield last


def parse_range(header: str | None, file_bytes: int) -> tuple[int, int] | None:
    """What a Range header asks for, as (begin, end); None is the whole, as for a header that is no single range.

    Raises:
        RangeNotSatisfiable: it begins behind the end.
    """
    if header is None:
        return None
    suffix, match = _SUFFIX.fullmatch(header.strip()), _RANGE.fullmatch(header.strip())
    if suffix is not None:
        begin, end = max(0, file_bytes - int(suffix[1])), file_bytes
    elif match is not None:
        begin, end = int(match[1]), min(file_bytes, int(match[2]) + 1) if match[2] else file_bytes
        if match[2] and int(match[2]) < begin:
            return None  # RFC 9110, section 14.1.1: an invalid range is no range.
    else:
        return None
    if begin >= end:
        raise RangeNotSatisfiable(
            "The range specified is invalid for the current size of the resource.",
            found=header,
            expected=f"a range inside 0 to {file_bytes}",
            hint="ask for a range that begins before the end",
        )
    return begin, end


def parse_page_range(header: str | None) -> tuple[int, int]:
    """The whole pages that a Put Page is about, as (begin, end).

    Raises:
        InvalidInput: no range, or none of whole pages.
    """
    match = _RANGE.fullmatch((header or "").strip())
    begin, end = (int(match[1]), int(match[2]) + 1) if match and match[2] else (0, 0)
    if begin >= end or begin % PAGE_BYTES or end % PAGE_BYTES:
        raise InvalidInput(
            "The page range specified is invalid.",
            found=header or "no x-ms-range",
            expected=f"bytes=BEGIN-END of whole pages of {PAGE_BYTES} bytes",
            hint="send whole pages",
            code="InvalidPageRange",
        )
    return begin, end


def parse_content_length(header: str | None) -> int | None:
    """The bytes that a Content-Length header announces; None where there is no usable one."""
    match = _LENGTH.fullmatch((header or "").strip())
    return None if match is None else int(match[0])


def parse_upload_offset(header: str | None) -> int:
    """Where a plain PUT begins, by its Content-Range, as `curl -C` sends it.

    Raises:
        InvalidInput: the header is none.
    """
    if header is None:
        return 0
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if match is None:
        raise InvalidInput(
            "The Content-Range header can't be read.",
            found=header,
            expected="bytes BEGIN-END/TOTAL",
            hint="send the upload with `curl -T FILE -C BEGIN`",
            code="InvalidHeaderValue",
        )
    return int(match[1])
