"""Time, ids and randomness come in from outside, so that every test can hand in its own."""

import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _new_uid() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """The outside world as logic sees it."""

    now: Callable[[], datetime] = field(default=_utc_now)
    """The present instant, aware, UTC."""
    new_uid: Callable[[], str] = field(default=_new_uid)
    """A fresh UUID in its text form."""
    random_bytes: Callable[[int], bytes] = field(default=os.urandom)
    """So many unpredictable bytes: pool keys."""
    wait: Callable[[float], None] = field(default=time.sleep)
    """Let so many seconds pass, while another process gets on."""
    monotonic: Callable[[], float] = field(default=time.monotonic)
    """Seconds of a clock that only goes on."""
