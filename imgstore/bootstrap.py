"""Assemble an installation from settings and `regions.yaml`."""

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from imgstore.catalog import Catalog, InstallationRow
from imgstore.domain.effects import Effects
from imgstore.domain.errors import ImgstoreError, InvalidInput, StoreFull, StoreMismatch
from imgstore.domain.host.file_systems import AbilityMissing, check_free_bytes, check_locks
from imgstore.domain.host.os_errors import advise, describe, is_full, is_write_fault
from imgstore.domain.host.private_files import make_private_folder, tighten_folder
from imgstore.domain.progress import ProgressEvent, Stage, Subscriber, ignore_event, suppress_errors
from imgstore.domain.settings.disk_space import DiskSpace, read_disk_space
from imgstore.domain.settings.limits import Limits, read_limits
from imgstore.domain.settings.maintenance import MaintenanceSettings, read_maintenance
from imgstore.domain.settings.replication import ReplicationSettings, read_replication
from imgstore.domain.settings.segment_cache import BYTES_VARIABLE, FOLDER_VARIABLE, CacheSettings, choose_cache
from imgstore.domain.settings.shared import Difference, as_document
from imgstore.operations.billing.price_lists import record_prices
from imgstore.operations.host_cache import HostCache
from imgstore.operations.installation import Installation, Tuning
from imgstore.operations.leases import LEASE_SECONDS, LeaseKeeper, is_dead, this_host
from imgstore.operations.recovery.rebuild_context import NoRecords, RebuildContext
from imgstore.operations.recovery.recovery_keys import RecoveryKeys
from imgstore.operations.recovery.restore_mark import refuse_unfinished_restore
from imgstore.operations.shared_settings import SETTINGS_FILE, initialize_settings, read_settings_file
from imgstore.operations.slots.zone_registry import CatalogZones
from imgstore.operations.stores.first_start import DATABASE_FILE, check_catalog_file, check_no_other_installation
from imgstore.operations.stores.health_records import CatalogHealth
from imgstore.regions import Locator, Regions, load_regions
from imgstore.regions.regions_file import parse_regions
from imgstore.stores.wrappers.retry import RetryPolicy

_FOLDERS: Final = ("regions", "scratch", "tls", "uploads")
"""The folders in the home. Older imgstore versions created the folders with the process's umask."""

_IN_THE_WAY: Final = frozenset({errno.EEXIST, errno.ENOTDIR})
"""The errors of a new folder where a file or a broken link is."""
_SCRATCH_BYTES_MIN: Final = 1 << 20
"""With less free space, a command that only reads keeps its files outside of the home."""
_MEMORY_FOLDER: Final = "/dev/shm"  # noqa: S108 - the last resort of `_temporary_folder`, with a random name
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""Parameters of glibc: https://man7.org/linux/man-pages/man3/mallopt.3.html"""
_KEPT_BUFFER_BYTES: Final = 32 << 20
"""The largest value that glibc accepts."""
_KEPT_BYTES: Final = 128 << 20
"""The free memory at the top of a heap that glibc keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings from options and the environment."""

    home: Path
    """The data folder, with the SQLite catalog, the embedded regions and scratch files."""
    regions: Path | None = None
    """The path of `regions.yaml`. None for the shipped file."""
    database: str | None = None
    """The URL of the database. None for SQLite in the home."""
    subscription: str | None = None
    """None for the subscription of the first start."""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    lease_seconds: float = LEASE_SECONDS
    tuning: Tuning = field(default_factory=Tuning)
    limits: Limits | None = None
    """None for the limits in the catalog."""
    space: DiskSpace | None = None
    """None for the limits in settings.toml of the home."""
    maintenance: MaintenanceSettings | None = None
    """None for the settings in the catalog."""
    replication: ReplicationSettings | None = None
    """None for the settings in the catalog."""
    cache_folder: Path | None = None
    """The folder of the segment cache. None for IMGSTORE_CACHE_DIR or a folder in the home."""
    cache_bytes: int | None = None
    """The limit of the segment cache. None for IMGSTORE_CACHE_BYTES or settings.toml."""
    may_read_only: bool = True
    """Whether a home that cannot be written may be opened, for commands that only read."""


@contextmanager
def open_installation(
    settings: Settings, subscriber: Subscriber = ignore_event, effects: Effects | None = None
) -> Iterator[Installation]:
    """Open an installation, and create the catalog at the first use.

    The installation is closed at the end of the block.

    Raises:
        RegionsFault: `regions.yaml` is invalid.
        InvalidInput: The home or settings.toml is invalid.
        Conflict: A restore into the home is not finished.
        StoreError: The database does not answer.
    """
    _keep_buffers()
    refuse_unfinished_restore(settings.home)
    outside = effects or Effects()
    regions = load_regions(settings.regions, settings.environ)
    with _scratch(settings) as scratch:
        document = read_settings_file(settings.home / SETTINGS_FILE)
        yield from _open(settings, subscriber, outside, regions, document, scratch)


@contextmanager
def open_rebuild(
    settings: Settings, keys: RecoveryKeys, subscriber: Subscriber, *, dry_run: bool, effects: Effects | None = None
) -> Iterator[RebuildContext]:
    """Open the zones of a lost installation, and an empty catalog for the rebuild.

    regions.yaml and its variables come from the recovery file, unless the settings name a file or set a variable. A dry
    run creates no SQLite catalog.

    Raises:
        RegionsFault: `regions.yaml` is invalid.
        InvalidInput: the home is invalid.
        Conflict: a restore into the home is not finished.
        StoreError: The database does not answer.
    """
    refuse_unfinished_restore(settings.home)
    outside = effects or Effects()
    environ = {**keys.variables, **settings.environ}
    regions = (
        load_regions(settings.regions, environ)
        if settings.regions is not None
        else parse_regions(keys.regions_document, environ, path="regions.yaml of the recovery file")
    )
    file = settings.home / DATABASE_FILE
    with ExitStack() as stack:
        catalog: Catalog | None = None
        if settings.database is not None or file.exists() or not dry_run:
            try:
                _make_home(settings.home)
            except OSError as error:
                raise _home_error(settings.home, error) from error
            catalog = Catalog.open(settings.database or f"sqlite:///{file}", outside)
            stack.callback(catalog.close)
        locator = Locator(
            regions,
            home=settings.home,
            installation_uid=keys.installation_uid,
            environ=environ,
            effects=outside,
            registry=NoRecords(),
            space=settings.space or DiskSpace(),
        )
        stack.callback(locator.close)
        yield RebuildContext(
            catalog=catalog,
            zones=locator.find_zones(),
            keys=keys,
            regions_home=None if settings.regions is not None else settings.home.absolute(),
            effects=outside,
            subscriber=suppress_errors(subscriber),
        )


def _keep_buffers() -> None:
    """Let the C library keep freed buffers for reuse.

    By default glibc returns each buffer of 4 MiB to the kernel, and gets 1,024 new pages for the next buffer. With kept
    buffers, a copy of dense data takes 5 ms instead of 6 ms of CPU per segment. All threads share one heap, because
    threads reuse each other's buffers. Clearing pages was a tenth of the CPU time of an ingest. Other C libraries have
    no `mallopt` and stay unchanged.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BUFFER_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_ARENA_MAX, 1)


def _open(
    settings: Settings,
    subscriber: Subscriber,
    outside: Effects,
    regions: Regions,
    document: Mapping[str, Any] | None,
    scratch: Path,
) -> Iterator[Installation]:
    file = str(settings.home / SETTINGS_FILE)
    space = settings.space or read_disk_space(document or {}, file)
    cache_settings = choose_cache(
        settings.home, settings.environ, space, folder=settings.cache_folder, bytes_max=settings.cache_bytes
    )
    if settings.database is None:
        check_catalog_file(settings.home, settings.home / DATABASE_FILE)
    copies = scratch if settings.may_read_only else None
    database = settings.database or f"sqlite:///{settings.home / DATABASE_FILE}"
    catalog = Catalog.open(database, outside, copies, is_dead)
    try:
        registry = CatalogZones(catalog=catalog, subscriber=suppress_errors(subscriber))
        row = _ensure_installation(settings, catalog, regions, registry, outside)
        with catalog.discarding_writes():
            values, differing = initialize_settings(catalog, document)
            has_newest_prices = record_prices(catalog, outside, regions.prices)
        if differing:
            _report_differences(suppress_errors(subscriber), file, differing)
        if not has_newest_prices:
            _report_older_prices(suppress_errors(subscriber), regions.path)
        shared = as_document(values)
        locator = Locator(
            regions,
            home=settings.home,
            installation_uid=row.uid,
            environ=settings.environ,
            effects=outside,
            records=CatalogHealth(catalog, this_host()),
            space=space,
            registry=registry,
        )
        keeper = LeaseKeeper(catalog, settings.lease_seconds)
        subscription = settings.subscription or row.subscription
        note = suppress_errors(subscriber)
        host_cache = HostCache(
            settings=cache_settings,
            namespace=row.uid,
            has_free_space=space.has_free_space,
            on_fault=lambda text: note(ProgressEvent(task="cache", stage=Stage.NOTE, detail=text)),
            effects=outside,
        )
        try:
            yield Installation(
                uid=row.uid,
                subscription=subscription,
                home=settings.home,
                scratch=scratch,
                catalog=catalog,
                regions=regions,
                locator=locator,
                keeper=keeper,
                effects=outside,
                host_cache=host_cache,
                environ=settings.environ,
                child_environ=_make_child_environ(settings, subscription, cache_settings),
                tuning=settings.tuning,
                limits=settings.limits or read_limits(shared, file),
                space=space,
                maintenance=settings.maintenance or read_maintenance(shared, file),
                replication=settings.replication or read_replication(shared, file),
                subscriber=note,
            )
        finally:
            host_cache.close()
            keeper.close()
            locator.close()
    finally:
        catalog.close()


def _make_child_environ(settings: Settings, subscription: str, cache: CacheSettings) -> dict[str, str]:
    """Return the environment in which a command of imgstore opens this installation."""
    own = {name: value for name, value in (os.environ | settings.environ).items() if name != "IMGSTORE_SERVER"}
    named = {
        "IMGSTORE_HOME": str(settings.home.absolute()),
        "IMGSTORE_REGIONS": "" if settings.regions is None else str(settings.regions.absolute()),
        "IMGSTORE_DATABASE": settings.database or "",
        "IMGSTORE_SUBSCRIPTION": subscription,
        FOLDER_VARIABLE: str(cache.folder),
        BYTES_VARIABLE: str(cache.bytes_max),
    }
    return own | named


def _report_differences(subscriber: Subscriber, file: str, differing: Sequence[Difference]) -> None:
    detail = (
        f"{file} differs from the settings of the installation, which take precedence: "
        f"{', '.join(map(str, differing))}; `imgstore settings apply` applies the settings of the file"
    )
    subscriber(ProgressEvent(task="settings", stage=Stage.NOTE, detail=detail))


def _report_older_prices(subscriber: Subscriber, file: str) -> None:
    detail = (
        f"{file} contains an older price list, and the newest list of the installation takes precedence; "
        "`imgstore prices list` shows both, and `imgstore prices apply` makes the list of the file the newest"
    )
    subscriber(ProgressEvent(task="prices", stage=Stage.NOTE, detail=detail))


def _ensure_installation(
    settings: Settings, catalog: Catalog, regions: Regions, registry: CatalogZones, outside: Effects
) -> InstallationRow:
    """Return the installation.

    Create the installation if the catalog is empty and no zone belongs to another installation.
    """
    with catalog.reading() as transaction:
        found = transaction.installation.find()
        is_unfinished = found is None and transaction.rebuilt_rows.has_rows()
    if found is not None:
        return found
    if is_unfinished:
        raise StoreMismatch(
            f"The catalog in {catalog.place} is not complete.",
            found="the rows of an interrupted `imgstore catalog rebuild`",
            expected="a complete catalog",
            hint="run the same `imgstore catalog rebuild` again to continue",
            target="catalog",
        )
    _check_zones_unused(settings, catalog.place, regions, registry, outside)
    with catalog.transaction() as transaction:
        return transaction.installation.ensure(settings.subscription)


def _check_zones_unused(
    settings: Settings, place: str, regions: Regions, registry: CatalogZones | NoRecords, outside: Effects
) -> None:
    locator = Locator(
        regions,
        home=settings.home,
        installation_uid="",
        environ=settings.environ,
        effects=outside,
        registry=registry,
        policy=RetryPolicy(attempts_max=1),
    )
    try:
        check_no_other_installation(place, settings.home, locator)
    finally:
        locator.close()


def _scratch(settings: Settings) -> AbstractContextManager[Path]:
    """Return a folder for this process in the home, as a context, and remove the folders of dead processes.

    If the home can only be read, the folder is among the temporary files of the system.

    Raises:
        InvalidInput: the home cannot be used, or the file system has no locks, which uploads and SQLite also need.
    """
    try:
        _make_home(settings.home)
        if settings.may_read_only and has_catalog(settings):
            check_free_bytes(settings.home, _SCRATCH_BYTES_MIN)
        return _own_scratch(*_make_scratch(settings.home / "scratch"))
    except OSError as error:
        if settings.may_read_only and is_write_fault(error) and has_catalog(settings):
            return _temporary_scratch(settings.home, error)
        raise _home_error(settings.home, error) from error


@contextmanager
def _own_scratch(folder: Path, descriptor: int) -> Iterator[Path]:
    """Yield a folder from `_make_scratch`, and remove the folder.

    The process holds an advisory lock (flock) on the folder. The kernel releases the lock even after a crash.
    """
    try:
        _check_locks(folder)
        yield folder
    finally:
        _remove(folder, descriptor)


def _make_scratch(top: Path) -> tuple[Path, int]:
    for leftover in top.iterdir():
        # OSError: a live process holds the lock, or the file system locks no folders, as NFS. The folder stays.
        with suppress(OSError):
            _remove(leftover, _lock(leftover))
    while True:
        folder = Path(tempfile.mkdtemp(dir=top))
        # Another process may remove the folder before the lock: before the open, or after the open.
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return folder, descriptor
        os.close(descriptor)


def has_catalog(settings: Settings) -> bool:
    """Return whether the settings name a database, or a home with a catalog."""
    return settings.database is not None or os.access(settings.home / DATABASE_FILE, os.R_OK)


def check_catalog_not_lost(settings: Settings) -> None:
    """Distinguish a lost catalog from an installation that was never made, for settings without a catalog.

    Raises:
        RegionsFault: `regions.yaml` is invalid.
        StoreMismatch: the catalog is missing, and zones have the mark of an installation.
    """
    file = settings.home / DATABASE_FILE
    check_catalog_file(settings.home, file)
    regions = load_regions(settings.regions, settings.environ)
    _check_zones_unused(settings, str(file), regions, NoRecords(), Effects())


@contextmanager
def _temporary_scratch(home: Path, fault: OSError) -> Iterator[Path]:
    """Yield a scratch folder among the temporary files of the system.

    Raises:
        InvalidInput: there is no folder for temporary files.
    """
    try:
        top = tempfile.TemporaryDirectory(prefix="imgstore-", dir=_temporary_folder())
    except OSError as error:
        raise InvalidInput(
            f"The data folder {home} can be read only, and there is no folder for temporary files.",
            found=f"{describe(fault, home)}; {describe(error)}",
            expected="a writable data folder, or a folder for temporary files",
            hint="set TMPDIR to a writable folder",
            target="home",
        ) from error
    with top as folder:
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        yield scratch


def _temporary_folder() -> str:
    """Return the folder for temporary files. A container with a read-only root may have a memory file system only."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return _MEMORY_FOLDER


def _check_locks(folder: Path) -> None:
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            check_locks(file.fileno(), file.name)
    except AbilityMissing as error:
        home = folder.parent.parent
        raise InvalidInput(
            f"The data folder {home} cannot be used, because processes cannot lock files there.",
            found=error.strerror,
            expected="a file system with file locks",
            hint="name a folder of a local file system, such as ext4 or XFS, with --home or IMGSTORE_HOME; "
            "for SMB and NFS, mount without the options `nobrl` and `nolock`",
            target="home",
        ) from error


def _lock(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove(folder: Path, descriptor: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(descriptor)


def _make_home(home: Path) -> None:
    make_private_folder(home / "scratch")
    for each in (home, *(home / name for name in _FOLDERS)):
        tighten_folder(each)


def _home_error(home: Path, error: OSError) -> ImgstoreError:
    if is_full(error):
        return StoreFull(
            f"The data folder {home} is full.",
            found=describe(error),
            expected="free space for scratch files",
            hint=f"{advise(error, home)}, then run the same command again",
            target="home",
        )
    named = error.filename
    # A scratch folder that could not be created is no help to the reader.
    place = named if isinstance(named, str) and (error.errno in _IN_THE_WAY or os.path.lexists(named)) else home
    return InvalidInput(
        f"The data folder {home} cannot be used.",
        found=(_describe_place(Path(place)) if error.errno in _IN_THE_WAY else None) or describe(error, place),
        expected="a writable folder",
        hint=f"{advise(error, place)}, or name another folder with --home or IMGSTORE_HOME",
        target="home",
    )


def _describe_place(place: Path) -> str | None:
    """Describe a file or a broken link in the place of a folder, or return None."""
    for each in (place, *place.parents):
        if each.is_symlink() and not each.exists():
            return f"{each} is a symbolic link to {os.readlink(each)}, which does not exist"
        if each.is_file():
            return f"{each} is a file"
    return None
