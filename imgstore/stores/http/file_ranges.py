"""Reads a response of an HTTP server as a range of a file, with the file's length and stamp (invariants U6, U8)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from imgstore.stores.http.source_errors import SourceErrors

_CONTENT_RANGE: Final = re.compile(r"bytes (?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18})", re.IGNORECASE)
_DIGEST: Final = re.compile(r"(sha-(?:256|512))=:?([A-Za-z0-9+/]{43,88}={0,2}):?", re.IGNORECASE)
"""A digest of the whole file, in Repr-Digest (RFC 9530) or Digest (RFC 3230)."""
_STAMP: Final = re.compile(r"[\x21-\x7e\xa1-\xff][\x20-\x7e\xa1-\xff]{0,1023}")
"""An ETag or a date that the catalog can store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The response of a server."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    """The body of a 206, with at most one byte more than requested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRange:
    """A range of the file, with the file's length and stamp."""

    body: bytes
    file_bytes: int
    stamp: str
    digests: Mapping[str, str]
    """The digests of the file from the headers, by algorithm."""


def parse_range(answer: Answer, offset: int, length: int, errors: SourceErrors) -> FileRange:
    """Return the range in a response to the request for `length` bytes at `offset`.

    Raises:
        ImageRefused: the server sends another range, or no range, or no headers for a safe read.
        StoreError: the server refuses the request, or the body is incomplete.
    """
    said = answer.headers.get("Content-Range", "")
    stamp = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    match = _CONTENT_RANGE.fullmatch(said.strip())
    file_bytes = int(match[3]) if match is not None and _STAMP.fullmatch(stamp) else None
    if answer.status == 416 and file_bytes == 0:
        return FileRange(body=b"", file_bytes=0, stamp=stamp, digests={})
    if answer.status != 206:
        raise errors.bad_status(answer.status, answer.headers.get("Content-Type", ""))
    if match is None or file_bytes is None:
        raise errors.unsafe_headers(said, stamp)
    if match[1] is None or int(match[1]) != offset:
        raise errors.other_range(said, offset)
    expected_bytes = max(0, min(length, file_bytes - offset))
    if len(answer.body) != expected_bytes:
        raise errors.unreachable(f"{len(answer.body)} bytes instead of the announced {expected_bytes}")
    said = f"{answer.headers.get('Repr-Digest', '')}, {answer.headers.get('Digest', '')}"
    digests = {name.lower(): value for name, value in _DIGEST.findall(said)}
    return FileRange(body=answer.body, file_bytes=file_bytes, stamp=stamp, digests=digests)
