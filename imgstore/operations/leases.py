"""Leases, held: who we are, whether another holder still lives, and the heartbeat (invariants W16 to W18).

A lease runs by the database's clock alone. A process that has not renewed for half a lease, by its own monotonic clock,
begins nothing further; the token in the work's row refuses what it would still write.
"""

import copy
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from imgstore.catalog import Catalog
from imgstore.catalog.engine.clock_steps import LEASE_SECONDS_MAX
from imgstore.domain.errors import LeaseLost, NotFound, StoreError
from imgstore.domain.stop_signal import StopSignal
from imgstore.domain.storage.works import Lease, Work

LEASE_SECONDS: Final = 30.0
"""Long enough that a machine under load renews in time three times over; a holder on this machine that is dead is
noticed at once, so only a lost machine makes anyone wait for it."""

_BEAT_SECONDS: Final = 1.0
"""Progress is written down so often while bytes move."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def this_process() -> str:
    """This process as a holder: host, boot, process id and its start, so that a reused id is not taken for it."""
    return "/".join((this_host(), str(os.getpid()), _started(os.getpid()) or "?"))


def this_host() -> str:
    """This host since its boot, as the processes on it share it: "host/boot id"."""
    return f"{socket.gethostname()}/{_boot_id()}"


def is_dead(holder: str | None) -> bool:
    """Whether the holder is certainly gone: a process of this very boot of this machine that runs no more."""
    if holder is None or holder.count("/") != 3:
        return False
    host, boot, pid, started = holder.split("/")
    if (host, boot) != (socket.gethostname(), _boot_id()) or not boot:
        return False
    return _started(int(pid)) != started


def _boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip() if _BOOT_ID.exists() else ""


def _started(pid: int) -> str | None:
    """The process's start in clock ticks since boot; None where it does not run (or is a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


class Hold:
    """One lease while it is held."""

    def __init__(self, lease: Lease, keeper: "LeaseKeeper", tick: Callable[[], None]) -> None:
        self.lease = lease
        self._keeper = keeper
        self._renewed = time.monotonic()
        self.tick = tick
        """Called about once a second from the heartbeat's thread: writes progress down."""

    def check_cancelled(self) -> None:
        """Before each request.

        Raises:
            LeaseLost: not renewed for half a lease.
            KeyboardInterrupt: the process is to end.
        """
        self._keeper.check_cancelled()
        if time.monotonic() - self._renewed > self._keeper.lease_seconds / 2:
            raise LeaseLost(
                "This process was too slow to renew its lease.",
                found=f"no renewal for more than {self._keeper.lease_seconds / 2:g} seconds",
                expected="a database that answers in time",
                hint="repeat the command: it goes on where it stood",
                target=self.lease.work_uid,
            )

    def beat(self) -> None:
        """Renew when a third of the lease has passed."""
        now = time.monotonic()
        if now - self._renewed >= self._keeper.lease_seconds / 3:
            self._keeper.renew(self.lease)
            self._renewed = now
        self.tick()


class _Heartbeat:
    """Renews leases once in a while, in one thread with a connection of its own."""

    def __init__(self) -> None:
        self._holds: list[Hold] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, hold: Hold) -> None:
        with self._lock:
            self._holds.append(hold)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
                self._thread.start()

    def remove(self, hold: Hold) -> None:
        with self._lock:
            self._holds.remove(hold)

    def close(self) -> None:
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._wake.wait(_BEAT_SECONDS):
            with self._lock:
                holds = list(self._holds)
            for hold in holds:
                try:
                    hold.beat()
                except (LeaseLost, NotFound, StoreError):
                    continue  # Its rows are another's or gone. Hold.go_on tells the worker once half a lease has passed.


class LeaseKeeper:
    """Renews every lease that this process holds, from one thread with a connection of its own."""

    def __init__(self, catalog: Catalog, lease_seconds: float = LEASE_SECONDS) -> None:
        assert lease_seconds <= LEASE_SECONDS_MAX, f"{lease_seconds} s are no lease"
        self._catalog = catalog
        self.lease_seconds = lease_seconds
        self.holder = this_process()
        self.stop = StopSignal()
        """Set when works are to stop at their next request."""
        self._heartbeat = _Heartbeat()

    def with_stop_signal(self, stop: StopSignal) -> "LeaseKeeper":
        """The same keeper for one operation: its works stop at `stop`."""
        other = copy.copy(self)
        other.stop = stop
        return other

    def can_take_over(self, work: Work) -> bool:
        """Whether the work's holder is known to be dead, so that its lease need not run out."""
        return is_dead(work.holder)

    def is_dead(self, holder: str) -> bool:
        """Whether that holder is known to be dead."""
        return is_dead(holder)

    def renew(self, lease: Lease) -> None:
        """Renew one lease now.

        Raises:
            LeaseLost: another has taken it over.
        """
        with self._catalog.transaction() as transaction:
            transaction.works.renew(lease, lease_seconds=self.lease_seconds)

    @contextmanager
    def hold(self, lease: Lease, tick: Callable[[], None] = lambda: None) -> Iterator[Hold]:
        """Keep the lease alive inside the block; give it back when the block fails, so that a repeat need not wait."""
        hold = Hold(lease, self, tick)
        self._heartbeat.add(hold)
        try:
            yield hold
        except BaseException:
            self._heartbeat.remove(hold)
            self._give_back(lease)
            raise
        self._heartbeat.remove(hold)

    def interrupt(self) -> None:
        """Have every work of this process stop at its next request, as Ctrl-C does: they stay open for others."""
        self.stop.set()

    def check_cancelled(self) -> None:
        """Before anything is begun.

        Raises:
            KeyboardInterrupt: the process is to end, or the operation was canceled.
        """
        self.stop.check()

    def close(self) -> None:
        """End the heartbeat."""
        self._heartbeat.close()

    def _give_back(self, lease: Lease) -> None:
        try:
            with self._catalog.transaction() as transaction:
                transaction.works.release(lease)
        except (LeaseLost, StoreError):
            return  # It runs out by itself, or is another's already.
