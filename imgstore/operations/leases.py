"""Leases of this process: holder names, the check for dead holders, the heartbeat (invariants W16 to W18).

Only the clock of the database decides on the end of a lease. A process without a renewal for half a lease, by the
monotonic clock, begins no further request. The fencing token in the row of the work rejects outdated writes.
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
from imgstore.domain.errors import LeaseLost, NotFound, StoreError, error_to_json
from imgstore.domain.host.stop_signal import StopSignal
from imgstore.domain.storage.works import Lease

LEASE_SECONDS: Final = 30.0
"""The time of a lease. A machine under load can renew three times within this time.

A dead holder on this machine is noticed at once. So only the loss of a machine makes other processes wait.
"""

_BEAT_SECONDS: Final = 1.0
"""The time between two beats. A beat saves the progress of the work."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def this_process() -> str:
    """Return the name of this process as a holder: host, boot id, process id and start time.

    The start time distinguishes processes with the same process id.
    """
    return process_name(os.getpid())


def this_host() -> str:
    """Return the name of this host since the last boot, "host/boot id"."""
    return f"{socket.gethostname()}/{_boot_id()}"


def is_dead(holder: str | None) -> bool:
    """Return whether a holder is certainly dead: a process of this boot of this machine that does not run any more."""
    if holder is None or holder.count("/") != 3:
        return False
    host, boot, pid, started = holder.split("/")
    try:
        if (host, boot) != (socket.gethostname(), _boot_id()) or not boot:
            return False
        present = _start_ticks(int(pid))
        if present is None:
            os.kill(int(pid), 0)  # /proc may hide the processes of other users (hidepid).
    except ProcessLookupError:
        return True
    except OSError:  # Too many open files, for example. Nothing is known about the process.
        return False
    return present is not None and present != started


def process_name(pid: int) -> str:
    """Return the name of another process of this host as a holder. A process that ended counts as dead."""
    return "/".join((this_host(), str(pid), _start_ticks(pid) or "?"))


def _boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip() if _BOOT_ID.exists() else ""


def _start_ticks(pid: int) -> str | None:
    """Return the start of a process in clock ticks since boot, or "zombie". None if /proc has no such process.

    Raises:
        OSError: /proc cannot be read.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return "zombie" if fields[0] == "Z" else fields[19]


class Hold:
    """A lease that this process holds."""

    def __init__(self, lease: Lease, keeper: "LeaseKeeper", tick: Callable[[], None]) -> None:
        self.lease = lease
        self._keeper = keeper
        self._renewed = time.monotonic()
        self.tick = tick
        """Called about once a second by the thread of the heartbeat, to save progress."""

    def check_cancelled(self) -> None:
        """Check before each request that the work may continue.

        Raises:
            LeaseLost: the lease was not renewed for half the lease time.
            KeyboardInterrupt: the process must end, or the operation was canceled.
        """
        self._keeper.check_cancelled()
        if time.monotonic() - self._renewed > self._keeper.lease_seconds / 2:
            raise LeaseLost(
                "This process was too slow to renew its lease.",
                found=f"no renewal for more than {self._keeper.lease_seconds / 2:g} seconds",
                expected="a database that answers in time",
                hint="repeat the command, which resumes the work",
                target=self.lease.work_uid,
            )

    def beat(self) -> None:
        """Renew the lease after a third of the lease time, and save progress."""
        now = time.monotonic()
        if now - self._renewed >= self._keeper.lease_seconds / 3:
            self._keeper.renew(self.lease)
            self._renewed = now
        self.tick()


class _Heartbeat:
    """Renews leases regularly, in one thread with a separate connection."""

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

    def find_token(self, work_uid: str) -> int | None:
        """Return the token of the lease under which a thread of this process does a work now, or None."""
        with self._lock:
            return next((hold.lease.token for hold in self._holds if hold.lease.work_uid == work_uid), None)

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
                    continue  # `Hold.check_cancelled` stops the work after half a lease.


class LeaseKeeper:
    """Renews all leases of this process, in one thread with a separate connection."""

    def __init__(self, catalog: Catalog, lease_seconds: float = LEASE_SECONDS) -> None:
        assert lease_seconds <= LEASE_SECONDS_MAX, f"{lease_seconds} s are no lease"
        self._catalog = catalog
        self.lease_seconds = lease_seconds
        self.holder = this_process()
        self.stop = StopSignal()
        """The signal that stops all works at the next request."""
        self._heartbeat = _Heartbeat()
        self.own_token = self._heartbeat.find_token

    def with_stop_signal(self, stop: StopSignal) -> "LeaseKeeper":
        """Return a keeper for one operation with another stop signal. The heartbeat is shared."""
        other = copy.copy(self)
        other.stop = stop
        return other

    def is_dead(self, holder: str) -> bool:
        """Return whether a holder is known to be dead."""
        return is_dead(holder)

    def renew(self, lease: Lease) -> None:
        """Renew a lease now.

        Raises:
            LeaseLost: another process has taken over the work.
        """
        with self._catalog.transaction() as transaction:
            transaction.works.renew(lease, lease_seconds=self.lease_seconds)

    @contextmanager
    def hold(self, lease: Lease, tick: Callable[[], None] = lambda: None) -> Iterator[Hold]:
        """Renew the lease while the block runs.

        Release the lease if the block fails, so that a repeated command need not wait. An error is recorded for the
        processes that wait for the work. After an interruption, such a process resumes the work.
        """
        hold = Hold(lease, self, tick)
        self._heartbeat.add(hold)
        try:
            yield hold
        except BaseException as error:
            self._heartbeat.remove(hold)
            self._release(lease, error)
            raise
        self._heartbeat.remove(hold)

    def interrupt(self) -> None:
        """Stop all works of this process at the next request, like Ctrl-C. The works stay open for other processes."""
        self.stop.set()

    def check_cancelled(self) -> None:
        """Check before a step that the operation may continue.

        Raises:
            KeyboardInterrupt: the process must end, or the operation was canceled.
        """
        self.stop.check()

    def close(self) -> None:
        """Stop the heartbeat."""
        self._heartbeat.close()

    def _release(self, lease: Lease, error: BaseException) -> None:
        is_interruption = isinstance(error, LeaseLost) or not isinstance(error, Exception)
        failure = None if is_interruption else error_to_json(error)
        try:
            with self._catalog.transaction() as transaction:
                transaction.works.release(lease, failure)
        except (LeaseLost, StoreError):
            return  # The lease expires by itself, or another process has the work.
