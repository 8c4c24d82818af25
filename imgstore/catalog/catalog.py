"""The catalog: what the gallery knows, in one database, one transaction at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol, Self

from imgstore.catalog.engine.clock_steps import ClockSteps
from imgstore.catalog.engine.database import Database, Session, configure_database
from imgstore.catalog.engine.sequence import CatalogSequence
from imgstore.catalog.engine.upgrade import upgrade_catalog
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
from imgstore.catalog.resources.machines import Machines
from imgstore.catalog.resources.network_records import NetworkRecords
from imgstore.catalog.resources.placements import Placements
from imgstore.catalog.resources.quotas import Quotas
from imgstore.catalog.resources.references import References
from imgstore.catalog.resources.settings import SharedSettings
from imgstore.catalog.resources.versions import Versions
from imgstore.catalog.storage.deletion_marks import DeletionMarks
from imgstore.catalog.storage.deletions import Deletions
from imgstore.catalog.storage.ledger import Ledger
from imgstore.catalog.storage.maintenance import MaintenanceTasks, ZoneGaps
from imgstore.catalog.storage.manifests import Manifests
from imgstore.catalog.storage.queue import Queue
from imgstore.catalog.storage.replicas import Replicas
from imgstore.catalog.storage.scrub_passes import ScrubPasses
from imgstore.catalog.storage.segments import Segments
from imgstore.catalog.storage.slots import Pools, Slots
from imgstore.catalog.storage.unknown_objects import UnknownObjects
from imgstore.catalog.storage.workers import Workers
from imgstore.catalog.storage.works import Works
from imgstore.catalog.storage.zone_health import ZoneHealths
from imgstore.catalog.storage.zones import Zones
from imgstore.domain.effects import Effects


class Transaction:
    """What one transaction sees, a repository for each noun. Of no use after the transaction, nor in two threads."""

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
        self.disks = Disks(session)
        self.machines = Machines(session)
        self.works = Works(session)
        self.queue = Queue(session)
        self.workers = Workers(session)
        self.zone_health = ZoneHealths(session)
        self.operations = Operations(session)
        self.deployments = Deployments(session)
        self.network_records = NetworkRecords(session)
        self.quotas = Quotas(session)
        self.placements = Placements(session)
        self.ledger = Ledger(session)
        self.activity = Activity(session)
        self.tenants = Tenants(session)
        self.principals = Principals(session)
        self.secrets = Secrets(session)
        self.assignments = Assignments(session)
        self.issuers = Issuers(session)
        self.signing_keys = SigningKeys(session)

    def now(self) -> datetime:
        """The database's clock: aware, UTC. SQLite's ticks in milliseconds, PostgreSQL's in microseconds."""
        return self._session.now()


class OperationRecord(Protocol):
    """A row that is to be stored together with the first transaction that an operation commits."""

    @property
    def uid(self) -> str:
        """The operation's."""

    @property
    def resource_id(self) -> str | None:
        """The resource that the operation is about, if that is known."""

    @property
    def is_stored(self) -> bool:
        """Whether it needs no more storing."""

    def store(self, transaction: Transaction) -> None:
        """Store it, as the last thing of a transaction. May be called in several transactions."""

    def note_stored(self) -> None:
        """Take note that a transaction in which it was stored is committed."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """A database at this code's revision. Safe to use from several threads at once."""

    _database: Database
    _effects: Effects
    _operation: OperationRecord | None = None

    @classmethod
    def open(cls, url: str, effects: Effects) -> Self:
        """Open the catalog at `url`; make it, or bring it to this code's revision, if need be.

        Args:
            url: ``sqlite:///path`` (the folder is made, for its owner alone) or ``postgresql://user@host/name``.
            effects: where uids and keys come from. Time is the database's.

        Raises:
            InvalidInput: neither of these.
            ToolMissing: psycopg is not installed.
            StoreMismatch: a newer imgstore made the catalog; or a backup was copied over SQLite's file beside a newer log.
            StoreError: the database does not answer, is damaged, full or not ours to write.
        """
        database = configure_database(url)
        if database.file is not None:
            check_log_matches(database.file)
        try:
            upgrade_catalog(database)
        except BaseException:
            database.close()
            raise
        return cls(database, effects)

    @property
    def place(self) -> str:
        """The database as people know it, without a password; the target of errors that are about it."""
        return self._database.place

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """One transaction that may write: committed at the end, undone by any exception. Never one inside another.

        SQLite has one such transaction at a time. PostgreSQL runs them side by side, and what is read and then relied
        on is locked first (`slots.lock`, `slots.lock_region`, `works.guard`).

        Raises:
            StoreUnreachable: no answer, or another transaction held what this one wants for half a minute.
            StoreFull: no room for the database.
            StoreError: any other refusal of the database.
        """
        operation = None if self._operation is None or self._operation.is_stored else self._operation
        with self._database.writing(self._effects) as session:
            transaction = Transaction(session)
            yield transaction
            if operation is not None:
                operation.store(transaction)
        if operation is not None:
            operation.note_stored()

    def with_operation(self, operation: OperationRecord) -> "Catalog":
        """The same catalog, for one operation: `operation` is stored with the first transaction that commits.

        So the intention of an operation is stored if and only if something of the operation is: it is never there of an
        operation that was refused before its first write.
        """
        return replace(self, _operation=operation)

    @property
    def without_operation(self) -> "Catalog":
        """The same catalog, for what is stored about refused operations too: the activity log."""
        return self if self._operation is None else replace(self, _operation=None)

    @property
    def operation(self) -> OperationRecord | None:
        """The operation that this catalog is used for; None is none."""
        return self._operation

    def store_operation(self) -> None:
        """Store the companion now, if there is one: before a step that may take long and writes nothing."""
        if self._operation is not None and not self._operation.is_stored:
            with self.transaction():
                pass

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """One consistent snapshot, in which nothing can be written; it holds nobody up.

        Raises:
            StoreUnreachable: no answer.
            StoreDenied: something was written in it.
            StoreError: any other refusal of the database.
        """
        with self._database.reading(self._effects) as session:
            yield Transaction(session)

    def erase_deleted(self) -> bool:
        """Leave nothing of what was deleted or overwritten in the files of an SQLite catalog; tells whether that is so.

        On PostgreSQL it remains in dead rows until VACUUM, and in its log and backups.

        Raises:
            StoreError: the database could not do it.
        """
        return self._database.empty_log()

    @property
    def is_erasable(self) -> bool:
        """Whether `erase_deleted` does anything here."""
        return self._database.file is not None

    def close(self) -> None:
        """Give back every connection. May be called twice."""
        self._database.close()
