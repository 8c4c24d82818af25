"""Findings of `imgstore doctor`, and the facts from which the findings follow."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from imgstore.domain.recovery import RecoveryCover
from imgstore.domain.resources import SlotKey
from imgstore.domain.scale_sets import ScaleSet
from imgstore.domain.settings.maintenance import MaintenanceRecord
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.scrub_passes import SlotScrubRecord
from imgstore.domain.storage.works import Work, Worker


class Level(StrEnum):
    """The severity of a finding, from the lowest."""

    OK = "ok"
    WARNING = "warning"
    """The installation works, and loses redundancy, time or a chance of recovery."""
    ERROR = "error"
    """A part of the installation does not work, or content is lost."""

    @property
    def exit_code(self) -> int:
        """The exit code of a check of this level, as monitoring plugins use the codes.

        https://www.monitoring-plugins.org/doc/guidelines.html
        """
        return tuple(Level).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check."""

    check: str
    """The name of the check, which never changes: "recovery-file"."""
    level: Level = Level.OK
    subject: str | None = None
    """The checked part: a zone ("westus2/1"), a file, or a worker. None for the whole installation."""
    found: str
    next_step: str | None = None
    """A command or an action. None for the level ok."""


def find_worst_level(findings: Collection[Finding]) -> Level:
    """Return the highest level of several findings."""
    return max((each.level for each in findings), key=lambda level: level.exit_code, default=Level.OK)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotScrubFacts:
    """The last scrub of a slot."""

    key: SlotKey
    last: SlotScrubRecord | None
    """The last finished pass. None before the first pass."""
    lost_objects: int
    """The number of objects that no process could repair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogFacts:
    """The rows of the catalog that describe the health of the installation. Times are of the clock of the database."""

    place: str
    """The address of the database, without a password."""
    now: datetime
    created_at: datetime
    revision: str
    """The schema of the catalog."""
    code_revision: str
    """The schema that this code makes."""
    write_fault: str | None
    """The reason why the catalog can be read only, or None."""
    outdated: str | None
    """The evidence that the catalog is older than the buckets, or None."""
    recovery_cover: RecoveryCover
    workers: Sequence[Worker]
    living: Collection[str]
    """The uids of the workers that are alive."""
    tasks: Sequence[MaintenanceRecord]
    collected_at: datetime | None
    """The end of the last successful garbage collection, of a worker or of a command."""
    scrubs: Sequence[SlotScrubFacts]
    missed_objects: Mapping[tuple[str, str], int]
    """The number of objects that a zone missed, by region and zone."""
    replicas: Mapping[tuple[str, ReplicaState], int]
    """The number of replicas by region and state."""
    without_source: int
    """The number of versions that only their original source can complete."""
    works: Sequence[Work]
    """The open works."""
    abandoned_sets: Sequence[ScaleSet]
    """The scale sets with an unfinished creation, change of capacity or deletion that no process continues."""
    used_zones: Collection[tuple[str, str]]
    """The zones (region, zone) that were used at least once."""
    revision_marks: int
    """The number of changes without a revision in each bucket."""
    unsealed_entries: int
    """The number of entries of the ledger that are not sealed."""
    unsealed_since: datetime | None
    """The time of the oldest entry that is not sealed. None without such entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """The access to a file or folder of the home."""

    path: Path
    mode: int
    """The permission bits."""
    is_own: bool
    """Whether the file belongs to the user of this process."""
    is_key: bool
    """Whether the file contains a private key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """A certificate file of a server."""

    path: Path
    ends_at: datetime | None
    """The earliest end of a certificate in the file. None if the file cannot be read."""
    problem: str | None = None
    """The reason why the file cannot be read."""
    is_own: bool
    """Whether imgstore made the certificate (`serve --dev-tls`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceFacts:
    """The space of a file system."""

    place: Path
    """A folder in the file system."""
    free_bytes: int
    reserve_bytes: int
    """The bytes that stay free for deletions, garbage collection and the catalog."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadFacts:
    """An unfinished upload in the home."""

    disk_uid: str
    stored_bytes: int
    used_at: datetime
    """The last change, by the clock of the file system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFacts:
    """The segment cache of this host."""

    folder: Path
    bytes_max: int
    """The limit. 0 if the cache is switched off."""
    segments: int = 0
    used_bytes: int = 0
    problem: str | None = None
    """The reason why the folder cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeFacts:
    """The files of the home."""

    now: datetime
    """The clock of this machine."""
    files: Sequence[FileFacts]
    certificates: Sequence[CertificateFacts]
    spaces: Sequence[SpaceFacts]
    uploads: Sequence[UploadFacts]
    cache: CacheFacts
