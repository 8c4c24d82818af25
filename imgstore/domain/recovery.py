"""Reports about recovery files and the recovery of a catalog."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryFileReport:
    """A written or checked recovery file."""

    path: Path
    file_bytes: int
    written_at: datetime
    installation_uid: str
    pools: int
    """The number of fingerprint keys."""
    signing_keys: int
    ledger_keys: int
    variables: Sequence[str]
    """The names of the environment variables with values in the file."""
    missing: Sequence[str] = ()
    """The ids of keys that the installation has and the file does not have."""
    changed_settings: Sequence[str] = ()
    """The settings that differ between the installation and the file: `regions.yaml`, or names of variables."""

    @property
    def is_current(self) -> bool:
        """Whether the file has everything that a rebuild needs."""
        return not self.missing and not self.changed_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryCover:
    """The keys that the newest recovery file contains, as the catalog remembers."""

    written_at: datetime | None
    """The time of the newest file, or None if no file was written."""
    missing: Sequence[str]
    """The ids of keys that are not in the newest file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedObject:
    """An object in a bucket that a rebuild does not use."""

    place: str
    """The region and zone: "eastus/1"."""
    key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedResource:
    """A resource with a valid revision that a rebuild cannot insert."""

    kind: str
    uid: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingManifest:
    """A manifest that the catalog named as complete, and that a slot does not have."""

    kind: str
    """The kind: "versions" or "disks"."""
    owner_uid: str
    owner: str
    """The name for people: "1.0.0"."""
    slot: str
    disk: str
    has_copy: bool
    """Whether another slot has the same content, so that `scrub` can restore the replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRecovery:
    """The recovered part of the ledger."""

    checkpoints: int
    charges: int
    intervals: int
    lost_since: datetime | None
    """The time of the newest checkpoint. Later changes of the ledger are lost. None: the whole ledger is lost."""
    lost_until: datetime
    breaks: Sequence[int] = ()
    """The numbers of checkpoints whose previous checkpoint was not found."""
    opened_intervals: int = 0
    """Storage that has no interval in the checkpoints, and is billed from the rebuild on."""
    closed_intervals: int = 0
    """Intervals of storage that no longer exists. The end is the time of the newest checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildReport:
    """The plan or the result of a rebuild."""

    installation_uid: str
    is_done: bool
    """False for a dry run."""
    resources: Mapping[str, int]
    """The number of resources by kind."""
    deleted: Mapping[str, int]
    """The number of deleted resources by kind, which are left out."""
    rows: Mapping[str, int]
    """The number of rows by table."""
    segments: int | None
    """The number of segments of all pools. None in a dry run, which reads no manifest."""
    refused: Sequence[RefusedObject]
    refused_resources: Sequence[RefusedResource]
    missing_manifests: Sequence[MissingManifest]
    unfinished_manifests: int
    """Manifests of interrupted works without an object. Their rows are left out."""
    new_pool_keys: Sequence[str]
    """Pools that the recovery file does not contain. Their fingerprints are computed again."""
    skipped_zones: Sequence[str]
    ledger: LedgerRecovery
    regions_file: Path | None
    """The regions.yaml that the rebuild has written, or None."""

    @property
    def is_complete(self) -> bool:
        """Whether everything that the buckets should have was found."""
        return not (self.refused_resources or self.missing_manifests or self.skipped_zones or self.ledger.breaks)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptedResource:
    """A resource whose newest state is in the buckets and not in the catalog."""

    kind: str
    uid: str
    name: str
    """The name for people, or the uid."""
    change: str
    """The difference of the buckets: "new", "changed" or "deleted"."""
    changed_at: datetime
    """The time of the newest revision by the clock of the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketAdoptionReport:
    """The plan or the result of an adoption of the buckets of another installation."""

    is_done: bool
    """False for a dry run."""
    is_resumed: bool
    """Whether an earlier run has already taken the resources, so that only the buckets remain to be finished."""
    former_uid: str
    """The uid of the other installation."""
    regions: Sequence[str]
    own_subscription: str
    skipped_zones: Sequence[str]
    other_regions: Sequence[str] = ()
    """Regions of the other installation that are not adopted."""
    subscriptions: Sequence[str] = ()
    """The subscriptions of the adopted resources."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """The number of new resources, by the kind for people."""
    resources: Sequence[AdoptedResource] = ()
    present: int = 0
    """Resources that this catalog has since an earlier adoption of another region."""
    stored_bytes: int = 0
    """The bytes of all segments in the adopted slots. The three copies of ZRS count once."""
    trimmed_versions: Sequence[str] = ()
    """Versions that keep their replicas in the adopted regions only."""
    unknown_owners: int = 0
    """Versions and disks with content in the adopted buckets, and without a usable description there."""
    open_works: Sequence[str] = ()
    """Unfinished works of the other installation, each with its slot and start."""
    last_change_at: datetime | None = None
    """The time of the newest change of the other installation, by the clock of the store."""
    refused: Sequence[RefusedObject] = ()
    refused_resources: Sequence[RefusedResource] = ()
    missing_manifests: Sequence[MissingManifest] = ()
    new_pool_keys: Sequence[str] = ()

    @property
    def is_complete(self) -> bool:
        """Whether everything in the adopted buckets belongs to resources of this catalog."""
        return not (
            self.refused_resources
            or self.missing_manifests
            or self.skipped_zones
            or self.unknown_owners
            or self.open_works
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptionReport:
    """The plan or the result of an adoption."""

    is_done: bool
    """False for a dry run."""
    resources: Sequence[AdoptedResource]
    newest_at: datetime | None
    """The time of the newest adopted change. None if the catalog has everything."""
    checkpoints: int
    """Checkpoints in the zones that the catalog never made: the evidence of an older catalog."""
    charges: int
    """New rows of the ledger."""
    refused: Sequence[RefusedObject]
    refused_resources: Sequence[RefusedResource]
    missing_manifests: Sequence[MissingManifest]
    new_pool_keys: Sequence[str]
    skipped_zones: Sequence[str]

    @property
    def is_complete(self) -> bool:
        """Whether the catalog has everything that the buckets have."""
        return not (self.refused_resources or self.missing_manifests or self.skipped_zones)
