"""Time, ids and randomness as injected functions, so that tests can replace each function (invariant A4)."""

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
    """The functions that read the environment of the process."""

    now: Callable[[], datetime] = field(default=_utc_now)
    """The present time, aware, UTC."""
    new_uid: Callable[[], str] = field(default=_new_uid)
    """A new UUID in text form."""
    random_bytes: Callable[[int], bytes] = field(default=os.urandom)
    """The given number of unpredictable bytes, for pool keys."""
    wait: Callable[[float], None] = field(default=time.sleep)
    """Wait for the given seconds while other processes continue."""
    monotonic: Callable[[], float] = field(default=time.monotonic)
    """Seconds of a clock that never steps back."""
