"""Compares a source with the SHA-256 that its owner gave."""

import hashlib
from collections.abc import Callable
from typing import Final

from imgstore.domain.disks.sources import ByteSource
from imgstore.domain.errors import InvalidInput
from imgstore.domain.storage.sizes import PIECE_BYTES
from imgstore.formats import read_through

_ZEROS: Final = bytes(PIECE_BYTES)


def check_sha256(source: ByteSource, expected: str, on_read: Callable[[int], None] = lambda _length: None) -> None:
    """Compare the bytes of the file, holes as zeros, with a SHA-256 (invariant I16).

    Args:
        source: the file.
        expected: the SHA-256.
        on_read: called with the number of hashed bytes, often. The numbers add up to the length of the file.

    Raises:
        InvalidInput: the text is no SHA-256, or the file has another SHA-256.
    """
    wanted = expected.strip().lower()
    if len(wanted) != 64 or set(wanted) - set("0123456789abcdef"):
        raise InvalidInput(
            "The SHA-256 is invalid.",
            found=repr(expected),
            expected="64 hexadecimal digits",
            hint="give the output of sha256sum",
            target="sha256",
        )
    found = _sha256(source, on_read)
    if found != wanted:
        raise InvalidInput(
            "The source does not have the SHA-256 that was given.",
            found=found,
            expected=wanted,
            hint="fetch or build the file again; nothing was published",
            target="sha256",
        )


def _sha256(source: ByteSource, on_read: Callable[[int], None]) -> str:
    hasher = hashlib.sha256()

    def add(data: bytes | memoryview) -> None:
        hasher.update(data)
        on_read(len(data))

    def add_zeros(length: int) -> None:
        for begin in range(0, length, PIECE_BYTES):
            add(memoryview(_ZEROS)[: min(PIECE_BYTES, length - begin)])

    end = 0
    for at, data in read_through(source):
        add_zeros(at - end)
        add(data)
        end = at + len(data)
    add_zeros(source.file_bytes - end)
    return hasher.hexdigest()
