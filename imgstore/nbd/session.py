"""The transmission phase of a connection: receive requests, and send replies in any order.

The thread of the connection answers reads of cached bytes itself. A pool does all other requests. Replies wait in a
queue, and one thread at a time sends the queue. So a slow client holds at most one thread of the pool.

A reply is sent from memory. The cache reads and verifies the bytes of each reply (invariant D12), so `os.sendfile` saves no
time after that, and could send other bytes than the verified ones (docs/performance.md, "Block devices").
"""

import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from imgstore.domain.disks.block_device import BlockDevice, CachedDevice
from imgstore.domain.errors import ImgstoreError, OutputError, StoreFull
from imgstore.nbd.channels import Channel
from imgstore.nbd.handshake import Handshake
from imgstore.nbd.protocol import PAYLOAD_BYTES_MAX, PREFERRED_BLOCK_BYTES, Command, CommandFlag, ErrorNumber
from imgstore.nbd.transmission import (
    Buffers,
    Refusal,
    Request,
    RequestDecoder,
    block_status,
    check_request,
    cover,
    data_header,
    data_reply,
    error_reply,
    hole,
    success,
)

_ZEROS: Final = bytes(1 << 20)
_WHOLE_BYTES: Final = 64 << 10
"""Largest read with a reply of one part. Zeros inside such a read are sent as bytes."""
_BATCH_BYTES: Final = 1 << 20
_BATCH_REPLIES: Final = 64
_STATUS_BYTES: Final = 128 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """The limits of a server against hostile and broken clients."""

    connections: int = 256
    handshake_seconds: float = 10.0
    send_seconds: float = 60.0
    """Time of a send without progress."""
    unanswered_bytes: int = 64 << 20
    """The bytes of the unanswered requests of a connection. A request that exceeds the limit waits for replies."""
    unanswered_requests: int = 128
    workers: int = 32


class Session:
    """The transmission phase of a connection."""

    def __init__(
        self,
        device: BlockDevice,
        pool: ThreadPoolExecutor,
        connection: socket.socket,
        channel: Channel,
        handshake: Handshake,
        *,
        limits: ServerLimits,
        note: Callable[[str], None],
    ) -> None:
        self._device = device
        self._cached = device if isinstance(device, CachedDevice) else None
        self._virtual_bytes = device.virtual_bytes
        self._pool = pool
        self._socket = connection
        self._channel = channel
        self._rest = handshake.rest
        self._is_structured = handshake.is_structured
        self._context_id = handshake.context_id
        self._limits = limits
        self._note = note
        self._replies: deque[tuple[Buffers, int]] = deque()
        self._is_sending = False
        self._is_broken = False
        self._unanswered = 0
        self._unanswered_bytes = 0
        self._changed = threading.Condition(threading.Lock())

    def run(self) -> None:
        """Serve requests until the client leaves. Received requests are answered before the return.

        Raises:
            ProtocolError: the client breaks the protocol.
            OSError: the connection is broken.
        """
        decoder = RequestDecoder()
        data: bytes | memoryview = self._rest or self._channel.receive()
        try:
            while data and self._take(decoder, data):
                data = self._channel.receive()
        finally:
            self._send_replies()
            with self._changed:
                self._changed.wait_for(lambda: self._unanswered == 0)

    def _take(self, decoder: RequestDecoder, data: bytes | memoryview) -> bool:
        """Take the requests of received bytes. Return False after the request to disconnect."""
        batched = 0
        for request in decoder.receive(data):
            if request.command == Command.DISC:
                return False
            cost = _count_bytes(request)
            self._admit(cost)
            buffers = self._answer_now(request)
            if buffers is None:
                self._pool.submit(self._work, request, cost)
                continue
            self._replies.append((buffers, cost))
            batched += cost
            if batched >= _BATCH_BYTES:
                self._send_replies()
                batched = 0
        self._send_replies()
        return not self._is_broken

    def _admit(self, cost: int) -> None:
        """Count a request, and wait while too many requests are unanswered."""

        def fits() -> bool:
            if not self._unanswered:
                return True
            within = self._unanswered_bytes + cost <= self._limits.unanswered_bytes
            return within and self._unanswered < self._limits.unanswered_requests

        if not fits():
            self._send_replies()
        with self._changed:
            self._changed.wait_for(fits)
            self._unanswered += 1
            self._unanswered_bytes += cost

    def _answer_now(self, request: Request) -> Buffers | None:
        """Answer a request that needs no store, or return None."""
        refusal = check_request(
            request,
            virtual_bytes=self._virtual_bytes,
            is_read_only=self._device.is_read_only,
            is_structured=self._is_structured,
            has_context=self._context_id is not None,
        )
        if refusal is not None:
            return self._refuse(request, refusal)
        if request.command == Command.READ and self._cached is not None:
            return self._read(request, self._cached.read_cached)
        return None

    def _refuse(self, request: Request, refusal: Refusal) -> Buffers:
        needs_chunk = request.command in (Command.READ, Command.BLOCK_STATUS)
        return error_reply(request.cookie, refusal, is_structured=self._is_structured and needs_chunk)

    def _read(self, request: Request, read: Callable[[int, int], bytes | memoryview | None]) -> Buffers | None:
        """Make the reply to a read, or return None if `read` does not return all bytes."""
        cookie, offset, length = request.cookie, request.offset, request.length
        is_whole = not self._is_structured or length <= _WHOLE_BYTES or request.flags & CommandFlag.DF
        if is_whole:
            data = read(offset, length) if length else b""
            return None if data is None else data_reply(cookie, offset, data, is_structured=self._is_structured)
        buffers: Buffers = []
        parts = list(cover(offset, length, self._device.extents(offset, offset + length)))
        for part in parts:
            is_last = part is parts[-1]
            if not part.has_data:
                buffers.append(hole(cookie, part.offset, part.length, is_last=is_last))
                continue
            data = read(part.offset, part.length)
            if data is None:
                return None
            buffers += (data_header(cookie, part.offset, part.length, is_last=is_last), data)
        return buffers

    def _work(self, request: Request, cost: int) -> None:
        """Perform a request in a thread of the pool, and send the reply."""
        try:
            buffers = self._perform(request)
        except Exception as error:  # noqa: BLE001 - the client needs an answer to each request
            refusal = _explain(error)
            self._note(f"{Command(request.command).name} at {request.offset} failed: {refusal.text}")
            buffers = self._refuse(request, refusal)
        self._replies.append((buffers, cost))
        self._send_replies()

    def _perform(self, request: Request) -> Buffers:
        device, flags = self._device, request.flags
        match request.command:
            case Command.READ:
                found = self._read(request, device.read_at)
                assert found is not None, "a device returns all bytes"
                return found
            case Command.BLOCK_STATUS:
                assert self._context_id is not None, "check_request refuses the request without a context"
                extents = device.extents(request.offset, request.offset + request.length)
                return block_status(request, self._context_id, extents)
            case Command.WRITE:
                device.write_at(request.offset, request.payload)
            case Command.TRIM:
                device.write_zeroes(request.offset, request.length)
            case Command.WRITE_ZEROES:
                is_aligned = not (request.offset | request.length) % PREFERRED_BLOCK_BYTES
                if flags & CommandFlag.FAST_ZERO and (flags & CommandFlag.NO_HOLE or not is_aligned):
                    return self._refuse(request, Refusal(ErrorNumber.ENOTSUP, "zeros are not faster than bytes here"))
                self._write_zeroes(request)
            case Command.CACHE:
                device.prefetch(request.offset, request.length)
            case Command.FLUSH:
                device.flush()
        if flags & CommandFlag.FUA:
            device.flush()
        return success(request.cookie)

    def _write_zeroes(self, request: Request) -> None:
        if not request.flags & CommandFlag.NO_HOLE:
            self._device.write_zeroes(request.offset, request.length)
            return
        end = request.offset + request.length
        for at in range(request.offset, end, len(_ZEROS)):
            self._device.write_at(at, _ZEROS[: end - at])

    def _send_replies(self) -> None:
        """Send the waiting replies, unless another thread sends now. That thread then sends these replies, too."""
        with self._changed:
            if self._is_sending or not self._replies:
                return
            self._is_sending = True
        while True:
            batch: Buffers = []
            count = cost = 0
            while self._replies and count < _BATCH_REPLIES and cost < _BATCH_BYTES:
                buffers, reply_bytes = self._replies.popleft()
                batch += buffers
                count += 1
                cost += reply_bytes
            if not self._is_broken:
                try:
                    self._channel.send(batch)
                except OSError:
                    self._break()
            with self._changed:
                self._unanswered -= count
                self._unanswered_bytes -= cost
                self._changed.notify_all()
                if not self._replies:
                    self._is_sending = False
                    return

    def _break(self) -> None:
        """End the connection, which also wakes the receiving thread."""
        self._is_broken = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


def _count_bytes(request: Request) -> int:
    """Return the bytes that a request needs in memory until the reply is sent."""
    if request.command in (Command.READ, Command.WRITE):
        return min(request.length, PAYLOAD_BYTES_MAX)
    return _STATUS_BYTES if request.command == Command.BLOCK_STATUS else 0


def _explain(error: Exception) -> Refusal:
    """Return the error reply for a failed request."""
    if isinstance(error, StoreFull):
        return Refusal(ErrorNumber.ENOSPC, error.message)
    if isinstance(error, OutputError):
        return Refusal(ErrorNumber.EPERM, error.message)
    if isinstance(error, ImgstoreError):
        return Refusal(ErrorNumber.EIO, error.message)
    return Refusal(ErrorNumber.EIO, f"an unexpected error: {type(error).__name__}: {error}")
