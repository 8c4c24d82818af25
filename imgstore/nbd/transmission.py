"""Requests and replies of the transmission phase as pure functions (proto.md, "Transmission")."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, NamedTuple, TypeAlias

from imgstore.domain.disks.sources import Extent
from imgstore.nbd.protocol import (
    CHUNK,
    CHUNK_DONE,
    DATA_CHUNK,
    ERROR_PAYLOAD,
    HOLE_AND_ZERO,
    HOLE_CHUNK,
    NAME_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    REQUEST,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    ChunkType,
    Command,
    CommandFlag,
    ErrorNumber,
    ProtocolError,
)

Buffers: TypeAlias = list[bytes | memoryview]
"""A reply, as buffers to send in order."""

_DESCRIPTORS_MAX: Final = 16 << 10
_RANGED: Final = frozenset(
    {Command.READ, Command.WRITE, Command.TRIM, Command.CACHE, Command.WRITE_ZEROES, Command.BLOCK_STATUS}
)
_CHANGING: Final = frozenset({Command.WRITE, Command.TRIM, Command.WRITE_ZEROES})
_FLAGS: Final[Mapping[int, CommandFlag]] = {
    Command.READ: CommandFlag.DF,
    Command.WRITE_ZEROES: CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO,
    Command.BLOCK_STATUS: CommandFlag.REQ_ONE,
}
"""The flags of each command. FUA goes with every command of a writable export."""


class Request(NamedTuple):
    """A request of a client. The values are as received, not checked."""

    flags: int
    command: int
    cookie: int
    offset: int
    length: int
    payload: bytes = b""
    """The bytes of WRITE."""


class RequestDecoder:
    """Decodes requests from received bytes. Memory is bounded by one payload and one received part."""

    def __init__(self) -> None:
        self._received = bytearray()

    def receive(self, data: bytes | memoryview) -> Iterator[Request]:
        """Add received bytes, and iterate over the complete requests. Use the whole iterator before the next call.

        Raises:
            ProtocolError: the bytes break the protocol.
        """
        received = self._received
        received += data
        at = 0
        try:
            while len(received) - at >= REQUEST.size:
                magic, flags, command, cookie, offset, length = REQUEST.unpack_from(received, at)
                if magic != REQUEST_MAGIC:
                    raise ProtocolError(f"request magic {magic:#x}")
                begin = at + REQUEST.size
                payload = b""
                if command == Command.WRITE:
                    if length > PAYLOAD_BYTES_MAX:
                        raise ProtocolError(f"a write of {length} bytes")
                    if len(received) < begin + length:
                        return
                    payload = bytes(memoryview(received)[begin : begin + length])
                    begin += length
                at = begin
                yield Request(flags, command, cookie, offset, length, payload)
        finally:
            del received[:at]


class Refusal(NamedTuple):
    """The reason for an error reply."""

    number: ErrorNumber
    text: str


def check_request(
    request: Request, *, virtual_bytes: int, is_read_only: bool, is_structured: bool, has_context: bool
) -> Refusal | None:
    """Check a request, and return the reason for a refusal, or None."""
    command, flags = request.command, request.flags
    allowed = _FLAGS.get(command, CommandFlag(0))
    if not is_read_only:
        allowed |= CommandFlag.FUA
    if command == Command.READ and not is_structured:
        allowed &= ~CommandFlag.DF
    if flags & ~int(allowed):  # The complement of a flag has known bits only.
        return Refusal(ErrorNumber.EINVAL, "unknown flags")
    if command in _CHANGING and is_read_only:
        return Refusal(ErrorNumber.EPERM, "the disk is read-only")
    if command == Command.FLUSH:
        return None
    if command not in _RANGED:
        return Refusal(ErrorNumber.EINVAL, "an unknown command")
    if request.offset + request.length > virtual_bytes:
        is_write = command in (Command.WRITE, Command.WRITE_ZEROES)
        number = ErrorNumber.ENOSPC if is_write else ErrorNumber.EINVAL
        return Refusal(number, "the range is not inside the disk")
    if command == Command.READ and request.length > PAYLOAD_BYTES_MAX:
        number = ErrorNumber.EOVERFLOW if is_structured else ErrorNumber.EINVAL
        return Refusal(number, f"a read is at most {PAYLOAD_BYTES_MAX} bytes")
    if command == Command.BLOCK_STATUS and (not has_context or request.length == 0):
        return Refusal(ErrorNumber.EINVAL, "no context, or no length")
    return None


def success(cookie: int) -> Buffers:
    """Make the reply to a successful request without data."""
    return [SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, cookie)]


def error_reply(cookie: int, refusal: Refusal, *, is_structured: bool) -> Buffers:
    """Make an error reply. Only a structured reply has a text."""
    if not is_structured:
        return [SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, refusal.number, cookie)]
    text = refusal.text.encode(errors="replace")[:NAME_BYTES_MAX]
    payload = ERROR_PAYLOAD.pack(refusal.number, len(text)) + text
    return [CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, ChunkType.ERROR, cookie, len(payload)) + payload]


def data_reply(cookie: int, offset: int, data: bytes | memoryview, *, is_structured: bool) -> Buffers:
    """Make the reply to a read, with all bytes in one part."""
    if not is_structured:
        return [SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, cookie), data]
    if not data:
        return [CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, ChunkType.NONE, cookie, 0)]
    return [data_header(cookie, offset, len(data), is_last=True), data]


def data_header(cookie: int, offset: int, length: int, *, is_last: bool) -> bytes:
    """Make the header of a chunk with data."""
    return DATA_CHUNK.pack(
        STRUCTURED_REPLY_MAGIC, CHUNK_DONE if is_last else 0, ChunkType.OFFSET_DATA, cookie, 8 + length, offset
    )


def hole(cookie: int, offset: int, length: int, *, is_last: bool) -> bytes:
    """Make a chunk for a range of zeros."""
    return HOLE_CHUNK.pack(
        STRUCTURED_REPLY_MAGIC, CHUNK_DONE if is_last else 0, ChunkType.OFFSET_HOLE, cookie, 12, offset, length
    )


class Part(NamedTuple):
    """A range with data, or a range of zeros."""

    offset: int
    length: int
    has_data: bool


def cover(offset: int, length: int, extents: Iterable[Extent]) -> Iterator[Part]:
    """Cut a range into parts with data and parts of zeros, in order. Adjacent extents are joined."""
    at, end = offset, offset + length
    begin = at
    for extent in extents:
        first, last = max(extent.offset, offset), min(extent.end, end)
        if first > at:
            if at > begin:
                yield Part(begin, at - begin, has_data=True)
            yield Part(at, first - at, has_data=False)
            begin = first
        at = last
    if at > begin:
        yield Part(begin, at - begin, has_data=True)
    if end > at:
        yield Part(at, end - at, has_data=False)


def block_status(request: Request, context_id: int, extents: Iterable[Extent]) -> Buffers:
    """Make the reply to BLOCK_STATUS. A long reply ends early, and the client asks for the rest."""
    most = 1 if request.flags & CommandFlag.REQ_ONE else _DESCRIPTORS_MAX
    parts = islice(cover(request.offset, request.length, extents), most)
    described = b"".join(
        part.length.to_bytes(4, "big") + (0 if part.has_data else HOLE_AND_ZERO).to_bytes(4, "big") for part in parts
    )
    payload = context_id.to_bytes(4, "big") + described
    header = CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, ChunkType.BLOCK_STATUS, request.cookie, len(payload))
    return [header + payload]
