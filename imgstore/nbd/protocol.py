"""Numbers and fixed layouts of the NBD protocol.

Source: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md, sections "Values" and "Metadata querying". All
integers are big-endian.
"""

import struct
from enum import IntEnum, IntFlag
from typing import Final

INIT_PASSWD: Final = 0x4E42444D41474943
"""The first eight bytes of a server: "NBDMAGIC"."""
OPTION_MAGIC: Final = 0x49484156454F5054
"""The magic of the newstyle handshake and of each option: "IHAVEOPT"."""
OPTION_REPLY_MAGIC: Final = 0x3E889045565A9
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF

NAME_BYTES_MAX: Final = 4096
"""Largest length of a string of the protocol."""
PAYLOAD_BYTES_MAX: Final = 32 << 20
"""Largest payload of a request or reply. Clients without block size information expect this value."""
PREFERRED_BLOCK_BYTES: Final = 4096
BASE_ALLOCATION: Final = b"base:allocation"

OPTION: Final = struct.Struct(">QII")
OPTION_REPLY: Final = struct.Struct(">QIII")
REQUEST: Final = struct.Struct(">IHHQQI")
SIMPLE_REPLY: Final = struct.Struct(">IIQ")
CHUNK: Final = struct.Struct(">IHHQI")
DATA_CHUNK: Final = struct.Struct(">IHHQIQ")
"""A chunk with data: the header of a chunk, then the offset of the data."""
HOLE_CHUNK: Final = struct.Struct(">IHHQIQI")
ERROR_PAYLOAD: Final = struct.Struct(">IH")


class HandshakeFlag(IntFlag):
    """Flags of server and client in the handshake. Both sides use the same bits."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class TransmissionFlag(IntFlag):
    """The abilities of an export."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11


class Option(IntEnum):
    """The options of the handshake that this server knows."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class OptionReply(IntEnum):
    """The types of replies to options."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 2**31 + 1
    ERR_POLICY = 2**31 + 2
    ERR_INVALID = 2**31 + 3
    ERR_TLS_REQD = 2**31 + 5
    ERR_UNKNOWN = 2**31 + 6
    ERR_TOO_BIG = 2**31 + 9


class Info(IntEnum):
    """The types of information about an export."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class Command(IntEnum):
    """The types of requests."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(IntFlag):
    """The flags of requests."""

    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
    FAST_ZERO = 1 << 4


class ChunkType(IntEnum):
    """The types of chunks of a structured reply."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = 2**15 + 1


CHUNK_DONE: Final = 1
"""The flag of the last chunk of a structured reply."""
HOLE_AND_ZERO: Final = 3
"""The status of a range without data in `base:allocation`: NBD_STATE_HOLE and NBD_STATE_ZERO."""


class ErrorNumber(IntEnum):
    """The errors of replies."""

    EPERM = 1
    EIO = 5
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95


class ProtocolError(Exception):
    """Bytes of a client that break the protocol, so that the connection must end."""
