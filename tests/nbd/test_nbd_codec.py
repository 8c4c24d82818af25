"""Tests of the pure parts of the NBD server: any bytes, in any pieces, give an answer or a protocol error."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.disks.sources import Extent
from imgstore.nbd.handshake import Export, Handshake, Phase
from imgstore.nbd.protocol import (
    OPTION,
    OPTION_MAGIC,
    OPTION_REPLY,
    PAYLOAD_BYTES_MAX,
    REQUEST,
    REQUEST_MAGIC,
    Command,
    Option,
    OptionReply,
    ProtocolError,
    TransmissionFlag,
)
from imgstore.nbd.transmission import Request, RequestDecoder, cover

EXPORT = Export(virtual_bytes=1 << 20, is_read_only=True, description="a disk")
FLAGS = struct.pack(">I", 3)


def option(number: int, body: bytes = b"") -> bytes:
    """Encode an option."""
    return OPTION.pack(OPTION_MAGIC, number, len(body)) + body


def replies(data: bytes) -> list[tuple[int, int]]:
    """Decode replies to options: the option and the type of each."""
    found, at = list[tuple[int, int]](), 0
    while at < len(data):
        _, number, kind, length = OPTION_REPLY.unpack_from(data, at)
        found.append((number, kind))
        at += OPTION_REPLY.size + length
    return found


def negotiate(data: bytes, *, needs_tls: bool = False) -> tuple[Handshake, bytes]:
    """Run a handshake with the bytes of a client."""
    handshake = Handshake(EXPORT, needs_tls=needs_tls)
    return handshake, handshake.receive(data)


OPTIONS = st.builds(option, st.integers(0, 12), st.binary(max_size=40))
HANDSHAKES = st.one_of(
    st.binary(max_size=200), st.builds(lambda parts: FLAGS + b"".join(parts), st.lists(OPTIONS, max_size=6))
)


@given(HANDSHAKES, st.lists(st.integers(0, 300), max_size=8))
def test_any_handshake_is_the_same_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    def run(parts: list[bytes]) -> tuple[bytes, str]:
        handshake, sent = Handshake(EXPORT, needs_tls=False), b""
        try:
            for part in parts:
                if handshake.phase is Phase.OPTIONS:
                    sent += handshake.receive(part)
        except ProtocolError as error:
            return b"", str(error)
        return sent, handshake.phase.name

    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert run([data]) == run([data[begin:end] for begin, end in pairwise(places)])


@given(st.lists(OPTIONS, max_size=6))
def test_a_server_with_tls_tells_nothing_before_tls(options: list[bytes]) -> None:
    try:
        handshake, sent = negotiate(FLAGS + b"".join(options), needs_tls=True)
    except ProtocolError:
        return
    assert handshake.phase is not Phase.TRANSMISSION
    allowed = {OptionReply.ERR_TLS_REQD, OptionReply.ERR_INVALID}
    for number, kind in replies(sent):
        assert kind in allowed or (kind == OptionReply.ACK and number in (Option.STARTTLS, Option.ABORT))
    assert b"a disk" not in sent


def test_bytes_that_follow_starttls_without_tls_are_refused() -> None:
    handshake, _ = negotiate(FLAGS + option(Option.STARTTLS) + option(Option.LIST), needs_tls=True)
    assert handshake.phase is Phase.UPGRADE
    with pytest.raises(ProtocolError, match="between STARTTLS and TLS"):
        handshake.start_secure()


def test_tls_forgets_what_was_negotiated() -> None:
    handshake, _ = negotiate(FLAGS + option(Option.STARTTLS), needs_tls=True)
    handshake.is_structured = True
    handshake.start_secure()
    assert (handshake.is_structured, handshake.context_id) == (False, None)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", 4),
        FLAGS + bytes(16),
        FLAGS + OPTION.pack(OPTION_MAGIC, Option.GO, 1 << 20),
        FLAGS + option(Option.LIST) * 257,
        FLAGS + option(Option.EXPORT_NAME, b"other"),
    ],
    ids=["unknown flags", "no magic", "long option", "many options", "unknown export"],
)
def test_a_handshake_that_breaks_the_protocol(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        negotiate(data)


@pytest.mark.parametrize(
    ("number", "body", "kind"),
    [
        (Option.LIST, b"x", OptionReply.ERR_INVALID),
        (Option.GO, b"", OptionReply.ERR_INVALID),
        (Option.GO, struct.pack(">I", 5000) + bytes(5002), OptionReply.ERR_INVALID),
        (Option.GO, struct.pack(">IH", 0, 3), OptionReply.ERR_INVALID),
        (Option.INFO, struct.pack(">I", 1) + b"x" + bytes(2), OptionReply.ERR_UNKNOWN),
        (Option.SET_META_CONTEXT, struct.pack(">II", 0, 0), OptionReply.ERR_INVALID),
        (Option.STARTTLS, b"", OptionReply.ERR_POLICY),
        (11, b"", OptionReply.ERR_UNSUP),
    ],
)
def test_an_option_that_is_refused(number: int, body: bytes, kind: OptionReply) -> None:
    handshake, sent = negotiate(FLAGS + option(number, body))
    assert replies(sent) == [(number, kind)]
    assert handshake.phase is Phase.OPTIONS


@pytest.mark.parametrize(
    ("query", "lists", "selects"),
    [(b"base:allocation", True, True), (b"base:", True, False), (b"qemu:dirty", False, False)],
)
def test_contexts(query: bytes, *, lists: bool, selects: bool) -> None:
    body = struct.pack(">III", 0, 1, len(query)) + query
    start = FLAGS + option(Option.STRUCTURED_REPLY)
    _, listed = negotiate(start + option(Option.LIST_META_CONTEXT, body))
    handshake, _ = negotiate(start + option(Option.SET_META_CONTEXT, body))
    assert (b"base:allocation" in listed) is lists
    assert (handshake.context_id is not None) is selects


def test_the_old_option_gets_zeros_only_without_the_flag() -> None:
    short, padded = (negotiate(struct.pack(">I", flags) + option(Option.EXPORT_NAME))[1] for flags in (3, 1))
    assert padded == short + bytes(124)
    size, flags = struct.unpack(">QH", short)
    assert size == EXPORT.virtual_bytes
    assert TransmissionFlag.READ_ONLY in TransmissionFlag(flags)
    assert TransmissionFlag.SEND_DF not in TransmissionFlag(flags)


REQUESTS = st.builds(
    lambda command, flags, offset, length, payload: (
        REQUEST.pack(REQUEST_MAGIC, flags, command, 1, offset, len(payload) if command == Command.WRITE else length)
        + (payload if command == Command.WRITE else b"")
    ),
    st.integers(0, 9),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=50),
)


@given(st.lists(REQUESTS, max_size=5), st.binary(max_size=60), st.lists(st.integers(0, 400), max_size=8))
def test_any_requests_are_the_same_in_any_pieces(requests: list[bytes], rest: bytes, cuts: list[int]) -> None:
    data = b"".join(requests) + rest

    def run(parts: list[bytes]) -> list[Request]:
        decoder, found = RequestDecoder(), list[Request]()
        try:
            for part in parts:
                found.extend(decoder.receive(part))
        except ProtocolError:
            pass
        return found

    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    whole = run([data])
    assert len(whole) >= len(requests)
    assert whole == run([data[begin:end] for begin, end in pairwise(places)])


def test_a_write_that_is_too_long_ends_the_connection_before_its_payload() -> None:
    header = REQUEST.pack(REQUEST_MAGIC, 0, Command.WRITE, 1, 0, PAYLOAD_BYTES_MAX + 1)
    with pytest.raises(ProtocolError):
        list(RequestDecoder().receive(header))


@given(st.sets(st.integers(0, 40)), st.integers(0, 39), st.integers(1, 40))
def test_parts_cover_a_range_once(blocks: set[int], offset: int, length: int) -> None:
    extents = [Extent(offset=block, length=1) for block in sorted(blocks) if offset <= block < offset + length]
    parts = list(cover(offset, length, extents))
    flags = [part.has_data for part in parts for _ in range(part.length)]
    assert flags == [place in blocks for place in range(offset, offset + length)]
    assert [part.offset for part in parts] == [
        offset + sum(each.length for each in parts[:i]) for i in range(len(parts))
    ]
    assert all(first.has_data is not second.has_data for first, second in pairwise(parts))
