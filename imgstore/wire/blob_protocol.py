"""The protocol of the blob endpoint: XML of errors and page lists, and range headers.

Source: https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api.
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
"""Azure's limit for one Put Page."""
PAGE_RANGES_MAX: Final = 10_000
"""Azure's limit for one answer to Get Page Ranges."""
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
    """A range starts after the end of the blob."""

    code = "InvalidRange"
    status = 416


def error_xml(error: ImgstoreError) -> bytes:
    """Return an error as XML. The message contains the found value, the expected value and the hint."""
    return (
        f"{_HEAD}<Error><Code>{escape(error.error_code)}</Code><Message>{escape(str(error))}</Message></Error>".encode()
    )


def read_error_xml(text: str) -> Json:
    """Convert an error from XML to ARM's error envelope. Return None if the text is not an error."""
    match = _ERROR.search(text)
    return match and {"error": {"code": unescape(match[1]), "message": unescape(match[2])}}


@dataclass(frozen=True, slots=True, kw_only=True)
class PageListRequest:
    """The part of a page list that a request selects."""

    begin: int
    end: int
    """In bytes. A marker in the request replaces the beginning."""
    ranges_max: int


def read_page_list_request(
    within: tuple[int, int], marker: str | None = None, results_max: str | None = None
) -> PageListRequest:
    """Read the parameters of Get Page Ranges.

    Args:
        within: The bytes of the Range header, as (begin, end).
        marker: The `NextMarker` of the previous answer.
        results_max: The parameter `maxresults`. A number above `PAGE_RANGES_MAX` means `PAGE_RANGES_MAX`.

    Raises:
        InvalidInput: A parameter is malformed.
    """
    for name, text in (("marker", marker), ("maxresults", results_max)):
        if text and not _NUMBER.fullmatch(text):
            raise InvalidInput(
                f"The value of the query parameter '{name}' is invalid.",
                found=repr(text[:100]),
                expected="the NextMarker of the previous answer"
                if name == "marker"
                else "a whole number of at least 1",
                hint="leave the parameter out to start with the first range",
                target=name,
                code="InvalidQueryParameterValue",
            )
    return PageListRequest(
        begin=max(within[0], int(marker or 0)),
        end=within[1],
        ranges_max=min(PAGE_RANGES_MAX, max(1, int(results_max or PAGE_RANGES_MAX))),
    )


def page_list_xml(extents: Iterable[Extent], asked: PageListRequest) -> bytes:
    """Write the ranges with data as whole pages, merged and cut to the requested bytes.

    Args:
        extents: The extents with data, in order. The function reads only as many as the answer needs.
        asked: The request.
    """
    found = list(islice(_pages(extents, asked.begin, asked.end), asked.ranges_max + 1))
    shown, behind = found[: asked.ranges_max], found[asked.ranges_max :]
    ranges = "".join(f"<PageRange><Start>{begin}</Start><End>{end - 1}</End></PageRange>" for begin, end in shown)
    marker = f"<NextMarker>{behind[0][0]}</NextMarker>" if behind else ""
    return f"{_HEAD}<PageList>{ranges}{marker}</PageList>".encode()


def read_page_list(text: str) -> tuple[list[Extent], str | None]:
    """Return the ranges of a page list, and the marker of the next part."""
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
    """Return the bytes of a Range header as (begin, end).

    Returns:
        The range, or None for the whole blob. A missing header, or a header without a single range, means the whole
            blob.

    Raises:
        RangeNotSatisfiable: The range starts after the end of the blob.
    """
    if header is None:
        return None
    suffix, match = _SUFFIX.fullmatch(header.strip()), _RANGE.fullmatch(header.strip())
    if suffix is not None:
        begin, end = max(0, file_bytes - int(suffix[1])), file_bytes
    elif match is not None:
        begin, end = int(match[1]), min(file_bytes, int(match[2]) + 1) if match[2] else file_bytes
        if match[2] and int(match[2]) < begin:
            return None  # RFC 9110, section 14.1.1: ignore an invalid range.
    else:
        return None
    if begin >= end:
        raise RangeNotSatisfiable(
            "The range specified is invalid for the current size of the resource.",
            found=header,
            expected=f"a range inside 0 to {file_bytes}",
            hint="request a range that starts before the end of the blob",
        )
    return begin, end


def parse_page_range(header: str | None) -> tuple[int, int]:
    """Return the pages of a Put Page as (begin, end), in bytes.

    Raises:
        InvalidInput: The header is not a range of whole pages.
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
    """Return the bytes in a Content-Length header, or None if the header is missing or invalid."""
    match = _LENGTH.fullmatch((header or "").strip())
    return None if match is None else int(match[0])


def parse_upload_offset(header: str | None) -> int:
    """Return the offset of a plain PUT from the Content-Range header, as `curl -C` sends it.

    Raises:
        InvalidInput: The header is malformed.
    """
    if header is None:
        return 0
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if match is None:
        raise InvalidInput(
            "The Content-Range header is invalid.",
            found=header,
            expected="bytes BEGIN-END/TOTAL",
            hint="send the upload with `curl -T FILE -C BEGIN`",
            code="InvalidHeaderValue",
        )
    return int(match[1])
