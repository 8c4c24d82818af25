"""A command run as a process that may be killed at any step, with a clock of the test and with other processes.

Every visible event is a step: before and after each request to a zone, and at the begin, before the commit and after
the commit of each transaction. At the fatal step the process raises `Killed`, which no code catches. All further
requests and transactions raise `Killed`, too, so `except` and `finally` blocks have no outside effect, as after kill
-9. (These blocks still remove local files. ``test_faults_killed.py`` tests local files with real processes.)

At a step without an open transaction, another command may run completely, as another process.
"""

import itertools
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

from gallery_log import STORED

from imgstore import bootstrap
from imgstore.bootstrap import Settings, open_installation
from imgstore.catalog import Catalog, Transaction
from imgstore.domain.effects import Effects
from imgstore.operations.installation import Installation, Tuning
from imgstore.operations.leases import this_process
from imgstore.operations.stores import catalog_checks
from imgstore.regions import Locator
from imgstore.regions.format_mark import FormatMark
from imgstore.regions.model import Region, Zone
from imgstore.regions.zones import EmbeddedZone, GuardedStore, OpenedZone, ZoneContext
from imgstore.stores.directory import DirectoryStore
from imgstore.stores.interface import Accept, Body, ObjectInfo
from imgstore.stores.wrappers.metering import MeteredStore, TrafficMeter
from tests.support.faulty_store import unreachable

LEASE_SECONDS: Final = 30.0
_ONE_BY_ONE: Final = Tuning(put_workers=1, copy_workers=1, scatter_workers=1, threads_max=1, replicas_at_once=1)
"""So that the same example takes the same steps."""
_TICK: Final = timedelta(milliseconds=1)


class Killed(BaseException):
    """The process was killed."""


class Clock:
    """The clock of the database and of every process. Each read advances the clock by a tick."""

    def __init__(self) -> None:
        self._present = datetime(2026, 1, 1, tzinfo=UTC)
        self._lock = threading.Lock()

    def now(self) -> datetime:
        with self._lock:
            self._present += _TICK
            return self._present

    def monotonic(self) -> float:
        return self._present.timestamp()

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._present += timedelta(seconds=seconds)


class Process:
    """A counter of steps that kills the process, or runs another command, at a chosen step."""

    def __init__(self, *, fatal: int = 0, meanwhile: Callable[[], None] | None = None, at: int = 0) -> None:
        """Die at step `fatal`, or run `meanwhile` once at the first step from `at` without an open transaction."""
        self.dead = False
        self.steps = 0
        self.begun = False
        self.on_stored: Callable[[Path, str], None] = lambda _zone, _key: None
        """Called with the folder of the zone and the key of each stored object."""
        self._fatal = fatal
        self._meanwhile = meanwhile
        self._at = at
        self._lock = threading.Lock()

    def step(self, *, outside: bool = True) -> None:
        """Count a step. The heartbeat's steps follow the real clock and do not count."""
        if not self.begun:
            return
        if threading.current_thread().name == "lease":
            if self.dead:
                raise unreachable()
            return
        meanwhile = None
        with self._lock:
            if not self.dead:
                self.steps += 1
                self.dead = self.steps == self._fatal
            if self.dead:
                raise Killed
            if outside and self.steps >= self._at:
                meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            meanwhile()


class _Store(DirectoryStore):
    """The folder of a zone, with a step before and after each request."""

    def __init__(self, root: Path, process: Process) -> None:
        super().__init__(root)
        self._folder = root
        self._process = process

    @contextmanager
    def _steps(self) -> Iterator[None]:
        self._process.step()
        yield
        self._process.step()

    def get(self, key: str, accept: Accept | None = None) -> bytes:
        with self._steps():
            return super().get(key, accept)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        with self._steps():
            return super().get_range(key, offset, length)

    def head(self, key: str) -> ObjectInfo:
        with self._steps():
            return super().head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._steps():
            yield from super().list(prefix)

    def put(self, key: str, body: Body, *, only_if_absent: bool = False) -> ObjectInfo:
        with self._steps():
            info = super().put(key, body, only_if_absent=only_if_absent)
            self._process.on_stored(self._folder, key)
            return info

    def delete(self, keys: Iterable[str]) -> bool:
        for key in keys:  # File by file: a process may die between two of them.
            with self._steps():
                super().delete([key])
        return True


class _Unwatched:
    """Circuits that never open, because a probe would be a thread with irregular effects."""

    def request(self) -> AbstractContextManager[None]:
        return nullcontext()


class _Zone(EmbeddedZone):
    def __init__(
        self, mark: FormatMark, directory: _Store, folder: Path, meter: TrafficMeter, shared: ZoneContext
    ) -> None:
        super().__init__(mark, directory, folder, meter, shared)
        self.watch = _Unwatched()
        self.store = MeteredStore(directory, meter)
        self.guarded = GuardedStore(self.store, self.admit, self.is_same)


class _Locator(Locator):
    def __init__(self, *args: Any, process: Process, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._process = process

    def _build(self, region: Region, zone: Zone) -> OpenedZone:
        mark = FormatMark(installation=self._installation_uid, region=region.name, zone=zone.name)
        folder = self._home / "regions" / zone.bucket / f"zone-{zone.name}"
        return _Zone(mark, _Store(folder, self._process), folder, self._meters[region.name], self._shared)


@dataclass(frozen=True, slots=True)
class _Catalog(Catalog):
    _: KW_ONLY
    process: Process

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        self.process.step()
        with Catalog.transaction(self) as transaction:
            yield transaction
            self.process.step(outside=False)
        self.process.step()

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        self.process.step()
        with Catalog.reading(self) as transaction:
            yield transaction


def _opened_catalog(process: Process, *opened: Any) -> Catalog:
    catalog = Catalog.open(*opened)
    return _Catalog(catalog._database, catalog._effects, process=process)


@contextmanager
def running(home: Path, process: Process, clock: Clock, *, holder: str | None = None) -> Iterator[Installation]:
    """The installation, as `process` sees it; its steps count from here on.

    Args:
        home: where.
        process: that runs.
        clock: for all that tells time.
        holder: as which it takes leases; None is this process.
    """
    effects = Effects(now=clock.now, wait=clock.advance, monotonic=clock.monotonic)
    settings = Settings(home=home, environ={}, lease_seconds=LEASE_SECONDS, tuning=_ONE_BY_ONE)
    with ExitStack() as stack:
        catalogs = SimpleNamespace(open=partial(_opened_catalog, process))
        with (
            mock.patch.object(bootstrap, "Catalog", catalogs),
            mock.patch.object(bootstrap, "Locator", partial(_Locator, process=process)),
        ):
            installation = stack.enter_context(open_installation(settings, effects=effects))
        if holder is not None:
            installation.keeper.holder = holder
        # A worker's look at the catalog takes steps of its own: in the background their number would be chance.
        stack.enter_context(mock.patch.object(catalog_checks, "start_thread", lambda task: task()))
        process.begun = True
        process.on_stored = partial(_log_stored, installation)
        yield installation


def _log_stored(installation: Installation, zone: Path, key: str) -> None:
    """Log a stored segment with the open copy of this process into the slot."""
    top, *rest = key.split("/")
    if top != "pools" or rest[3] != "segments":
        return
    pool, kind, ordinal = rest[:3]
    values = {
        "name": bytes.fromhex(rest[-1]),
        "holder": installation.keeper.holder,
        "pool": pool,
        "region": zone.parent.name.removeprefix("imgstore-"),
        "kind": kind,
        "ordinal": int(ordinal.removeprefix("replica-")),
    }
    with closing(sqlite3.connect(installation.home / "catalog.sqlite")) as connection, connection:
        connection.execute(STORED, values)


def living_stranger() -> str:
    """Return a holder that lives as long as this process, but is another process: its parent."""
    host, boot, _, _ = this_process().split("/")
    parent = os.getppid()
    started = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8", errors="replace").rsplit(")", 1)[1].split()[19]
    return f"{host}/{boot}/{parent}/{started}"


_burials = itertools.count()


def bury(catalog: Path, clock: Clock, *, known: bool) -> None:
    """Make the leases that this process left those of a dead one.

    Args:
        catalog: SQLite's file.
        clock: goes on until the leases have run out, where nobody can know of the death.
        known: the process was of this machine, which can tell that it runs no more; else of one that is gone.
    """
    host, boot, pid, _ = this_process().split("/")
    dead = f"{host}/{boot}/{pid}/{next(_burials)}" if known else f"elsewhere/{boot}/1/1"
    with sqlite3.connect(catalog) as connection:
        connection.execute("UPDATE works SET holder = ? WHERE holder = ?", (dead, this_process()))
    connection.close()
    if not known:
        clock.advance(LEASE_SECONDS + 1)
