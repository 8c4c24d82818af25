"""The catalog's database, its transactions, and a repository for each kind of row."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from imgstore.catalog.engine.clock_steps import ClockSteps
from imgstore.catalog.engine.database import Database, Session, configure_database, copy_database
from imgstore.catalog.engine.read_only import find_write_fault
from imgstore.catalog.engine.sequence import CatalogSequence
from imgstore.catalog.engine.upgrade import HolderCheck, read_revision, upgrade_catalog
from imgstore.catalog.engine.write_ahead_log import check_log_matches
from imgstore.catalog.identity.principals import Assignments, Principals, Secrets, Tenants
from imgstore.catalog.identity.trusted_keys import Issuers, SigningKeys
from imgstore.catalog.resources.activity import Activity
from imgstore.catalog.resources.api_operations import Operations
from imgstore.catalog.resources.definitions import Definitions
from imgstore.catalog.resources.deployments import Deployments
from imgstore.catalog.resources.disks import Disks
from imgstore.catalog.resources.galleries import Galleries
from imgstore.catalog.resources.groups import Groups
from imgstore.catalog.resources.image_offers import ImageOffers
from imgstore.catalog.resources.installation import Installations
from imgstore.catalog.resources.machine_runs import MachineRuns, SecretsOfMachines
from imgstore.catalog.resources.machines import Machines
from imgstore.catalog.resources.network_records import NetworkRecords
from imgstore.catalog.resources.placements import Placements
from imgstore.catalog.resources.quotas import Quotas
from imgstore.catalog.resources.recovery_keys import RecoveryKeys
from imgstore.catalog.resources.references import References
from imgstore.catalog.resources.scale_sets import ScaleSets, SecretsOfScaleSets
from imgstore.catalog.resources.settings import SharedSettings
from imgstore.catalog.resources.versions import Versions
from imgstore.catalog.schema import REVISION
from imgstore.catalog.storage.budgets import Budgets
from imgstore.catalog.storage.deletion_marks import DeletionMarks
from imgstore.catalog.storage.deletions import Deletions
from imgstore.catalog.storage.ledger import Ledger
from imgstore.catalog.storage.ledger_log import LedgerLog
from imgstore.catalog.storage.ledger_sums import LedgerSums
from imgstore.catalog.storage.maintenance import MaintenanceTasks, ZoneGaps
from imgstore.catalog.storage.manifests import Manifests
from imgstore.catalog.storage.overview import Overview
from imgstore.catalog.storage.price_lists import RecordedPrices
from imgstore.catalog.storage.queue import Queue
from imgstore.catalog.storage.rebuilt_rows import RebuiltRows
from imgstore.catalog.storage.replicas import Replicas
from imgstore.catalog.storage.revision_marks import RevisionMarks
from imgstore.catalog.storage.scrub_passes import ScrubPasses
from imgstore.catalog.storage.segments import Segments
from imgstore.catalog.storage.slot_scrubs import LostObjects, SlotScrubs
from imgstore.catalog.storage.slots import Pools, Slots
from imgstore.catalog.storage.unknown_objects import UnknownObjects
from imgstore.catalog.storage.workers import Workers
from imgstore.catalog.storage.works import Works
from imgstore.catalog.storage.zone_health import ZoneHealths
from imgstore.catalog.storage.zones import Zones
from imgstore.domain.effects import Effects
from imgstore.domain.host.os_errors import translate_host_faults

if TYPE_CHECKING:
    from imgstore.catalog.recovery.catalog_dumps import DumpDescription
    from imgstore.catalog.recovery.row_copies import RowCopy


class Transaction:
    """The repositories of a transaction. Use a transaction only until the end of its block, and only in one thread."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.installation = Installations(session)
        self.sequence = CatalogSequence(session)
        self.zones = Zones(session)
        self.settings = SharedSettings(session)
        self.groups = Groups(session)
        self.galleries = Galleries(session)
        self.definitions = Definitions(session)
        self.versions = Versions(session)
        self.references = References(session)
        self.offers = ImageOffers(session)
        self.pools = Pools(session)
        self.slots = Slots(session)
        self.replicas = Replicas(session)
        self.segments = Segments(session)
        self.manifests = Manifests(session)
        self.clock_steps = ClockSteps(session)
        self.deletion_marks = DeletionMarks(session)
        self.deletions = Deletions(session)
        self.maintenance_tasks = MaintenanceTasks(session)
        self.zone_gaps = ZoneGaps(session)
        self.unknown_objects = UnknownObjects(session)
        self.scrub_passes = ScrubPasses(session)
        self.slot_scrubs = SlotScrubs(session)
        self.lost_objects = LostObjects(session)
        self.disks = Disks(session)
        self.scale_sets = ScaleSets(session)
        self.scale_set_secrets = SecretsOfScaleSets(session)
        self.machines = Machines(session)
        self.machine_runs = MachineRuns(session)
        self.machine_secrets = SecretsOfMachines(session)
        self.works = Works(session)
        self.queue = Queue(session)
        self.overview = Overview(session)
        self.workers = Workers(session)
        self.zone_health = ZoneHealths(session)
        self.operations = Operations(session)
        self.deployments = Deployments(session)
        self.network_records = NetworkRecords(session)
        self.quotas = Quotas(session)
        self.placements = Placements(session)
        self.ledger = Ledger(session)
        self.ledger_sums = LedgerSums(session)
        self.price_lists = RecordedPrices(session)
        self.ledger_log = LedgerLog(session)
        self.budgets = Budgets(session)
        self.revision_marks = RevisionMarks(session)
        self.activity = Activity(session)
        self.tenants = Tenants(session)
        self.principals = Principals(session)
        self.secrets = Secrets(session)
        self.assignments = Assignments(session)
        self.issuers = Issuers(session)
        self.signing_keys = SigningKeys(session)
        self.recovery_keys = RecoveryKeys(session)
        self.rebuilt_rows = RebuiltRows(session)

    def now(self) -> datetime:
        """Return the time of the database's clock in UTC.

        SQLite counts milliseconds, PostgreSQL counts microseconds.
        """
        return self._session.now()

    def revision(self) -> str:
        """Return the revision of the catalog's schema, which may be newer than the revision of this code."""
        return read_revision(self._session.connection) or ""


class OperationRecord(Protocol):
    """A long-running operation whose row is stored with the first transaction that the operation commits."""

    @property
    def uid(self) -> str:
        """The uid of the operation."""

    @property
    def resource_id(self) -> str | None:
        """The id of the resource that the operation changes, if the id is known."""

    @property
    def is_stored(self) -> bool:
        """True when a committed transaction has stored the row."""

    def store(self, transaction: Transaction) -> None:
        """Store the row as the last statement of a transaction. May be called in several transactions."""

    def note_stored(self) -> None:
        """Note that a transaction which stored the row is committed."""


def _know_nothing(_: str) -> bool:
    return False


def _ignore_process(_: str) -> bool:
    """Treat each process as dead, because no other process uses the copy of a catalog."""
    return True


class _RollbackError(Exception):
    """The end of a simulation. The database rolls back."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """A database at the revision of this code. Several threads may use a catalog at once."""

    _database: Database
    _effects: Effects
    _operation: OperationRecord | None = None

    @classmethod
    def open(cls, url: str, effects: Effects, copies: Path | None = None, is_dead: HolderCheck = _know_nothing) -> Self:
        """Open the catalog at `url`. Create the catalog or upgrade its schema where necessary.

        Args:
            url: ``sqlite:///path`` or ``postgresql://user@host/name``. A new SQLite folder gets mode 0700.
            effects: the source of uids and keys. The time comes from the database.
            copies: a folder for a copy of an SQLite catalog that cannot be written. The catalog is then read only.
                None refuses such a catalog.
            is_dead: whether a process with a recent sign of life has certainly ended, for an upgrade.

        Raises:
            InvalidInput: `url` has neither of the two forms.
            ToolMissing: psycopg is not installed.
            StoreMismatch: the catalog needs newer code, or a backup replaced SQLite's file beside a newer log.
            Conflict: an upgrade would exclude the code of a live process.
            StoreError: the database does not answer, is damaged or full, or is not writable.
        """
        database = configure_database(url)
        if database.file is not None:
            check_log_matches(database.file)
            fault = find_write_fault(database.file) if copies is not None else None
            if copies is not None and fault is not None:
                with translate_host_faults():
                    database = copy_database(database, copies, fault)
                is_dead = _ignore_process
        try:
            upgrade_catalog(database, is_dead)
        except BaseException:
            database.close()
            raise
        return cls(database, effects)

    @property
    def code_revision(self) -> str:
        """The revision of the schema that this code makes."""
        return REVISION

    @property
    def place(self) -> str:
        """The address of the database without a password, for messages and as the target of errors."""
        return self._database.place

    def discarding_writes(self) -> AbstractContextManager[None]:
        """Let a reading operation write its own rows, such as pins, to the copy of a read-only catalog.

        Writes to other catalogs are stored as usual.
        """
        return self._database.discarding_writes()

    @property
    def write_fault(self) -> OSError | None:
        """The error that prevents writing to the catalog, or None."""
        return self._database.write_fault

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Run a transaction that may write. Commit at the end, roll back on an exception. Never nest transactions.

        SQLite runs one such transaction at a time. PostgreSQL runs several at once. Lock rows before a decision depends
        on their values (`slots.lock`, `slots.lock_region`, `works.guard`).

        Raises:
            StoreUnreachable: the database does not answer, or another transaction held a lock for 30 seconds.
            StoreFull: the disk of the database is full.
            StoreDenied: the catalog can be read only.
            StoreError: the database refused for another reason.
        """
        operation = None if self._operation is None or self._operation.is_stored else self._operation
        with self._database.writing(self._effects) as session:
            transaction = Transaction(session)
            yield transaction
            if operation is not None:
                operation.store(transaction)
        if operation is not None:
            operation.note_stored()

    @contextmanager
    def simulation(self) -> Iterator[Transaction]:
        """Run a transaction that sees its own changes, and roll the changes back at the end. Never nest transactions.

        A prediction therefore runs the statements of the execution. The block may take the locks of the execution, so
        the block must be short. On a read-only catalog, the block changes the copy of the catalog.

        Raises the errors of `transaction`.
        """
        with self.discarding_writes(), suppress(_RollbackError), self._database.writing(self._effects) as session:
            yield Transaction(session)
            raise _RollbackError

    def with_operation(self, operation: OperationRecord) -> "Catalog":
        """Return this catalog for one operation. The first committed transaction also stores the row of the operation.

        The row of an operation therefore exists if and only if the operation has written something. An operation that
        is refused before its first write leaves no row.
        """
        return replace(self, _operation=operation)

    @property
    def without_operation(self) -> "Catalog":
        """This catalog without an operation, for rows about refused operations in the activity log."""
        return self if self._operation is None else replace(self, _operation=None)

    @property
    def operation(self) -> OperationRecord | None:
        """The operation of this catalog, or None."""
        return self._operation

    def store_operation(self) -> None:
        """Store the row of the operation now, if there is an operation.

        Call this before a long step that writes nothing.
        """
        if self._operation is not None and not self._operation.is_stored:
            with self.transaction():
                pass

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Run a transaction that only reads.

        All reads see one snapshot, and the transaction blocks no other transaction.

        Raises:
            StoreUnreachable: the database does not answer.
            StoreDenied: the transaction tried to write.
            StoreError: the database refused for another reason.
        """
        with self._database.reading(self._effects) as session:
            yield Transaction(session)

    def dump(self, target: Path, report: Callable[[int, int], None]) -> "DumpDescription":
        """Write one snapshot of the catalog into a new file. See `catalog_dumps.dump_catalog`."""
        from imgstore.catalog.recovery.catalog_dumps import dump_catalog  # noqa: PLC0415 - for backups only

        return dump_catalog(self._database, target, report)

    def copy_rows(self, url: str, report: Callable[[int, int], None]) -> "RowCopy":
        """Copy all rows into an empty catalog, and compare both. See `row_copies.copy_rows`."""
        from imgstore.catalog.recovery.row_copies import copy_rows  # noqa: PLC0415 - as above

        return copy_rows(self._database, url, self._effects, report)

    def erase_deleted(self) -> bool:
        """Remove deleted and overwritten values from the files of an SQLite catalog. Return True if that succeeded.

        On PostgreSQL, such values remain in dead rows until VACUUM, and in the log and the backups.

        Raises:
            StoreError: the database refused.
        """
        return self._database.empty_log()

    @property
    def file_bytes(self) -> int:
        """The size of an SQLite catalog without its log, or 0 on PostgreSQL."""
        return 0 if self._database.file is None else self._database.file.stat().st_size

    @property
    def is_erasable(self) -> bool:
        """True if `erase_deleted` has an effect on this database."""
        return self._database.file is not None

    def close(self) -> None:
        """Close all connections. May be called twice."""
        self._database.close()
