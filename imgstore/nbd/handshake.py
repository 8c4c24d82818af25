"""The fixed newstyle handshake as a pure state machine: bytes in, bytes out (proto.md, "Negotiation").

A client may send any bytes. The length of an option and the number of options have limits.
"""

import struct
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from imgstore.nbd.protocol import (
    BASE_ALLOCATION,
    INIT_PASSWD,
    NAME_BYTES_MAX,
    OPTION,
    OPTION_MAGIC,
    OPTION_REPLY,
    OPTION_REPLY_MAGIC,
    PAYLOAD_BYTES_MAX,
    PREFERRED_BLOCK_BYTES,
    HandshakeFlag,
    Info,
    Option,
    OptionReply,
    ProtocolError,
    TransmissionFlag,
)

_OPTION_BYTES_MAX: Final = 64 << 10
_OPTIONS_MAX: Final = 256
_QUERIES_MAX: Final = 64
_CONTEXT_ID: Final = 1
_CLIENT_FLAGS: Final = struct.Struct(">I")
_LENGTH: Final = struct.Struct(">I")
_SHORT: Final = struct.Struct(">H")
_EXPORT_INFO: Final = struct.Struct(">HQH")
_BLOCK_SIZES: Final = struct.Struct(">HIII")
_EXPORT_NAME_REPLY: Final = struct.Struct(">QH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """The only export of a server. The name is empty: the default export."""

    virtual_bytes: int
    is_read_only: bool
    description: str
    """A text for people."""


class Phase(Enum):
    """The state of a connection."""

    OPTIONS = auto()
    """The client sends options."""
    UPGRADE = auto()
    """The next bytes of the client are TLS."""
    TRANSMISSION = auto()
    """The next bytes of the client are requests."""
    CLOSED = auto()
    """The connection ends."""


class Handshake:
    """The server's part of a handshake.

    Send `greeting`, then pass all received bytes to `receive`, until `phase` changes. After `Phase.UPGRADE`, start TLS and
    call `start_secure`.
    """

    def __init__(self, export: Export, *, needs_tls: bool) -> None:
        self._export = export
        self._needs_tls = needs_tls
        self._is_secure = False
        self._client_flags: HandshakeFlag | None = None
        self._received = bytearray()
        self._options = 0
        self.phase = Phase.OPTIONS
        self.is_structured = False
        """Whether the client has negotiated structured replies."""
        self.context_id: int | None = None
        """The id of `base:allocation`, if the client has selected the context."""

    @property
    def greeting(self) -> bytes:
        """The first bytes of the server."""
        return struct.pack(">QQH", INIT_PASSWD, OPTION_MAGIC, HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)

    @property
    def rest(self) -> bytes:
        """The received bytes after the handshake."""
        return bytes(self._received)

    def start_secure(self) -> None:
        """Continue after the start of TLS. Nothing that was negotiated before is kept (proto.md, "NBD_OPT_STARTTLS").

        Raises:
            ProtocolError: the client has sent bytes before TLS that an attacker may have inserted.
        """
        if self._received:
            raise ProtocolError("bytes between STARTTLS and TLS")
        self._is_secure = True
        self.is_structured = False
        self.context_id = None
        self.phase = Phase.OPTIONS

    def receive(self, data: bytes | memoryview) -> bytes:
        """Add received bytes, and return the bytes to send.

        Raises:
            ProtocolError: the bytes break the protocol.
        """
        self._received += data
        out = bytearray()
        if self._client_flags is None:
            if len(self._received) < _CLIENT_FLAGS.size:
                return b""
            (flags,) = _CLIENT_FLAGS.unpack_from(self._received)
            if flags > HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES:
                raise ProtocolError(f"unknown client flags {flags:#x}")
            self._client_flags = HandshakeFlag(flags)
            del self._received[: _CLIENT_FLAGS.size]
        while self.phase is Phase.OPTIONS and len(self._received) >= OPTION.size:
            magic, number, length = OPTION.unpack_from(self._received)
            if magic != OPTION_MAGIC:
                raise ProtocolError(f"option magic {magic:#x}")
            if length > _OPTION_BYTES_MAX:
                raise ProtocolError(f"option {number} with {length} bytes")
            if len(self._received) < OPTION.size + length:
                break
            self._options += 1
            if self._options > _OPTIONS_MAX:
                raise ProtocolError(f"more than {_OPTIONS_MAX} options")
            body = bytes(self._received[OPTION.size : OPTION.size + length])
            del self._received[: OPTION.size + length]
            out += self._answer(number, body)
        return bytes(out)

    def _answer(self, number: int, body: bytes) -> bytes:
        """Answer an option."""
        if self._needs_tls and not self._is_secure and number not in (Option.STARTTLS, Option.ABORT):
            if number == Option.EXPORT_NAME:
                raise ProtocolError("EXPORT_NAME without TLS")
            return _reply(number, OptionReply.ERR_TLS_REQD, b"this server needs TLS")
        try:
            option = Option(number)
        except ValueError:
            return _reply(number, OptionReply.ERR_UNSUP)
        match option:
            case Option.EXPORT_NAME:
                return self._enter_by_name(body)
            case Option.ABORT:
                self.phase = Phase.CLOSED
                return _reply(number, OptionReply.ACK)
            case Option.INFO | Option.GO:
                return self._inform(option, body)
            case Option.LIST_META_CONTEXT | Option.SET_META_CONTEXT:
                return self._list_contexts(option, body)
            case _ if body:
                return _reply(number, OptionReply.ERR_INVALID, b"the option has no data")
            case Option.LIST:
                described = _LENGTH.pack(0) + self._description
                return _reply(number, OptionReply.SERVER, described) + _reply(number, OptionReply.ACK)
            case Option.STRUCTURED_REPLY:
                self.is_structured = True
                return _reply(number, OptionReply.ACK)
            case Option.STARTTLS:
                return self._start_tls()

    def _start_tls(self) -> bytes:
        if self._is_secure:
            return _reply(Option.STARTTLS, OptionReply.ERR_INVALID, b"TLS is already in use")
        if not self._needs_tls:
            return _reply(Option.STARTTLS, OptionReply.ERR_POLICY, b"this server has no TLS")
        self.phase = Phase.UPGRADE
        return _reply(Option.STARTTLS, OptionReply.ACK)

    @property
    def _description(self) -> bytes:
        return self._export.description.encode()[:NAME_BYTES_MAX]

    def _transmission_flags(self) -> int:
        flags = TransmissionFlag.HAS_FLAGS | TransmissionFlag.SEND_FLUSH
        flags |= TransmissionFlag.CAN_MULTI_CONN | TransmissionFlag.SEND_CACHE
        if self.is_structured:
            flags |= TransmissionFlag.SEND_DF
        if self._export.is_read_only:
            return flags | TransmissionFlag.READ_ONLY
        flags |= TransmissionFlag.SEND_FUA | TransmissionFlag.SEND_TRIM
        return flags | TransmissionFlag.SEND_WRITE_ZEROES | TransmissionFlag.SEND_FAST_ZERO

    def _enter_by_name(self, name: bytes) -> bytes:
        if name:
            raise ProtocolError("an unknown export")  # The option has no error reply.
        self.phase = Phase.TRANSMISSION
        assert self._client_flags is not None, "the flags come first"
        padding = b"" if HandshakeFlag.NO_ZEROES in self._client_flags else bytes(124)
        return _EXPORT_NAME_REPLY.pack(self._export.virtual_bytes, self._transmission_flags()) + padding

    def _inform(self, option: Option, body: bytes) -> bytes:
        """Answer INFO or GO."""
        try:
            name, at = _read_string(body, 0)
            (count,) = _SHORT.unpack_from(body, at)
            wanted = struct.unpack_from(f">{count}H", body, at + _SHORT.size)
        except (struct.error, ValueError):
            return _reply(option, OptionReply.ERR_INVALID, b"malformed data")
        if len(body) != at + _SHORT.size * (1 + count):
            return _reply(option, OptionReply.ERR_INVALID, b"malformed data")
        if name:
            return _reply(option, OptionReply.ERR_UNKNOWN, b"the only export has an empty name")
        infos = [_EXPORT_INFO.pack(Info.EXPORT, self._export.virtual_bytes, self._transmission_flags())]
        if Info.NAME in wanted:
            infos.append(_SHORT.pack(Info.NAME))
        if Info.DESCRIPTION in wanted:
            infos.append(_SHORT.pack(Info.DESCRIPTION) + self._description)
        infos.append(_BLOCK_SIZES.pack(Info.BLOCK_SIZE, 1, PREFERRED_BLOCK_BYTES, PAYLOAD_BYTES_MAX))
        if option is Option.GO:
            self.phase = Phase.TRANSMISSION
        return b"".join(_reply(option, OptionReply.INFO, each) for each in infos) + _reply(option, OptionReply.ACK)

    def _list_contexts(self, option: Option, body: bytes) -> bytes:
        """Answer LIST_META_CONTEXT or SET_META_CONTEXT."""
        selects = option is Option.SET_META_CONTEXT
        if selects:
            self.context_id = None
        if not self.is_structured:
            return _reply(option, OptionReply.ERR_INVALID, b"structured replies come first")
        try:
            name, at = _read_string(body, 0)
            (count,) = _LENGTH.unpack_from(body, at)
            at += _LENGTH.size
            if count > _QUERIES_MAX:
                return _reply(option, OptionReply.ERR_TOO_BIG, b"too many queries")
            queries: list[bytes] = []
            for _ in range(count):
                query, at = _read_string(body, at)
                queries.append(query)
        except (struct.error, ValueError):
            return _reply(option, OptionReply.ERR_INVALID, b"malformed data")
        if at != len(body):
            return _reply(option, OptionReply.ERR_INVALID, b"malformed data")
        if name:
            return _reply(option, OptionReply.ERR_UNKNOWN, b"the only export has an empty name")
        found = BASE_ALLOCATION in queries or (not selects and (not queries or b"base:" in queries))
        if not found:
            return _reply(option, OptionReply.ACK)
        if selects:
            self.context_id = _CONTEXT_ID
        context = _LENGTH.pack(_CONTEXT_ID if selects else 0) + BASE_ALLOCATION
        return _reply(option, OptionReply.META_CONTEXT, context) + _reply(option, OptionReply.ACK)


def _read_string(body: bytes, at: int) -> tuple[bytes, int]:
    """Read a string with a length, and return the string and the offset after the string.

    Raises:
        struct.error, ValueError: the body is too short, or the string is too long.
    """
    (length,) = _LENGTH.unpack_from(body, at)
    begin = at + _LENGTH.size
    if length > NAME_BYTES_MAX or begin + length > len(body):
        raise ValueError(length)
    return body[begin : begin + length], begin + length


def _reply(option: int, kind: OptionReply, data: bytes = b"") -> bytes:
    return OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(data)) + data
