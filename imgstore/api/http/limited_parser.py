"""h11's parser with limits of the parsing time: the lines of a head, and the number of small chunks of a body.

h11 takes about 20 microseconds for each header and for each chunk, on the event loop. A read of 256 KiB may contain
50,000 chunks of one byte. Only attackers send such chunks.
"""

from typing import Final

import h11

_HEAD_LINES_MAX: Final = 256
"""More than the header limit of `middleware`, so that most refusals are answers in ARM's format."""
_CHUNKS_FREE: Final = 256
_CHUNK_BYTES_MIN: Final = 64
"""The minimum mean size of the chunks after the first `_CHUNKS_FREE` chunks."""


class LimitedParser(h11.Connection):
    """The server's side of a connection. `refusal` is the reason for the refusal of a request, if any."""

    refusal: str | None = None
    _chunks = 0
    _body_bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next event.

        Raises:
            h11.RemoteProtocolError: the client's data violates HTTP/1.1 or a limit.
        """
        if self.their_state is h11.IDLE:
            self._check_head()
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._body_bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._body_bytes += len(event.data)
            if self._chunks > _CHUNKS_FREE + self._body_bytes // _CHUNK_BYTES_MIN:
                self._refuse(f"The body has more than {_CHUNKS_FREE} chunks of less than {_CHUNK_BYTES_MIN} bytes.")
        return event

    def _check_head(self) -> None:
        received, _ = self.trailing_data
        end = received.find(b"\n\r\n")
        if received.count(b"\n", 0, len(received) if end < 0 else end) > _HEAD_LINES_MAX:
            self._refuse(f"The head of the request has more than {_HEAD_LINES_MAX} lines.")

    def _refuse(self, text: str) -> None:
        self.refusal = text
        raise h11.RemoteProtocolError(text)
