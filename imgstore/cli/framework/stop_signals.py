"""Signals that end a long command."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def handle_sigterm_as_sigint() -> Iterator[None]:
    """Handle SIGTERM, which service managers send, as SIGINT."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
