"""The tables, and the one revision that this code reads and writes.

Who points at whom (``->`` is a foreign key, ``~>`` a uid without one, since what it names may go first)::

    installation     one row: who we are
    checkpoints                                              numbers of the catalog's sequence that were given out
    zones            ~> slots, by region and zone            which store each zone is
    settings                                                 what all processes share
    groups           <- galleries, disks                     a group that still holds something cannot go
    pools            <- galleries, slots, segments           the scope of sameness; a gallery's, or a subscription's
    galleries        -> groups, pools
    definitions      -> galleries
    versions         -> definitions
    placements       -> versions                             the round robin's counter of a version in a region
    slots            -> pools
    replicas         -> versions, slots
    disks            -> groups, slots   ~> versions          snapshots and images' disks too; all outlive what they copy
    segments         -> pools           ~> works             fingerprints outlive the catalog's rows of works
    manifests        -> slots           ~> versions, disks   one owner column for both
    condemned        -> slots           ~> segments          what lies there need not be in the catalog
    deletions        -> slots                                requests that a store may still carry out
    works            -> slots           ~> versions, disks
    work_pins        -> works, manifests                     so the database itself refuses to remove a pinned manifest
    ledger           ~> everything, by name                  statements are read after the resources are gone
    intervals        ~> slots, versions, disks
    activity         ~> everything, by name
    workers                                                  processes of `imgstore worker`, while they live
    zone_health                                              the circuits of zones, as each host saw them last
    tenants          <- subscriptions, principals, issuers
    subscriptions    -> tenants                              those of which something is known besides their name
    principals       -> tenants                              users and service principals
    secrets          ~> principals       by the client id, which several tenants' principals may share
    role_assignments -> principals       ~> everything       a scope may name what is not made yet
    issuers          -> tenants
    signing_keys                                             what tokens are and were signed with
    operations       ~> everything, by name                  long-running operations of the API, for a while after their end

A ``*_key`` column is the folded form (`columns.fold_name`) of the name beside it: what is compared and kept unique.
"""

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    event,
    false,
    text,
)

from imgstore.catalog.engine.columns import DecimalText, EnumText, UtcDateTime
from imgstore.domain.async_operations import OperationStatus
from imgstore.domain.deployments import DeploymentState
from imgstore.domain.disks.signed_urls import AccessLevel
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.identity.access import Role
from imgstore.domain.identity.principals import PrincipalKind
from imgstore.domain.identity.sharing import SharingPermission
from imgstore.domain.resources import (
    Architecture,
    DiskKind,
    HyperVGeneration,
    OsState,
    OsType,
    ReplicationMode,
    StorageAccountType,
)
from imgstore.domain.states import ProvisioningState, ReplicaState, WorkState
from imgstore.domain.storage.circuits import CircuitState
from imgstore.domain.storage.garbage import GcState
from imgstore.domain.storage.scrub_passes import ScrubRunner
from imgstore.domain.storage.works import WorkKind
from imgstore.domain.storage.zones import ZoneKind
from imgstore.ledger.entries import ChargeKind

REVISION: Final = "0030"
"""The head of migrations/versions. A catalog that stands at it opens without Alembic being imported."""

# Names of constraints are fixed, so that a later migration can name what it drops on either engine.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only where the key is spelt INTEGER.
_SERIAL = BigInteger().with_variant(Integer(), "sqlite")


def _uid() -> Column[str]:
    return Column("uid", String, primary_key=True)


def _partial(index: Index, condition: str) -> None:
    """Keep an index of the rows alone that meet a condition.

    SQLAlchemy takes it as an option of one dialect, and imports the dialect for that: PostgreSQL's, 20 ms, which a
    catalog on SQLite needs for nothing else. So it is told when the index is made, to the dialect that makes it.
    """

    @event.listens_for(index, "before_create")
    def _told(_index: Index, connection: Connection, **_options: object) -> None:
        index.dialect_options[connection.dialect.name]["where"] = text(condition)


def _tags() -> Column[object]:
    return Column("tags", JSON, nullable=False)


def _parties() -> list[Column[str]]:
    """Whose bytes: the columns of a `Party`, by name."""
    return [
        Column("subscription", String, nullable=False),
        Column("subscription_key", String, nullable=False, index=True),
        Column("group_name", String, nullable=False),
        Column("gallery", String),
        Column("definition", String),
        Column("version", String),
        Column("disk", String),
    ]


installation = Table(
    "installation",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("uid", String, nullable=False),
    Column("subscription", String, nullable=False),
    Column("hmac_key", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # What showed that the catalog is older than its buckets; null while nothing does.
    Column("outdated", String),
    # An operator accepted an older catalog: objects that it does not know are kept for ever.
    Column("keeps_unknown", Boolean, nullable=False, server_default=false()),
    # False where older code may have used a zone that `zones` has no row of.
    Column("records_every_zone", Boolean, nullable=False, server_default=false()),
    CheckConstraint("id = 1", name="single"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("sequence", _SERIAL, primary_key=True),
    Column("uid", String, nullable=False),
)

zones = Table(
    "zones",
    metadata,
    Column("region", String, primary_key=True),
    Column("zone", String, primary_key=True),
    Column("uid", String, nullable=False),
    Column("kind", EnumText(ZoneKind), nullable=False),
    Column("place", String, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
)

settings = Table(
    "settings",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", JSON, nullable=False),
    Column("set_at", UtcDateTime, nullable=False),
)

groups = Table(
    "groups",
    metadata,
    _uid(),
    Column("subscription", String, nullable=False),
    Column("subscription_key", String, nullable=False),
    Column("name", String, nullable=False),
    Column("name_key", String, nullable=False),
    Column("location", String, nullable=False),
    _tags(),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("subscription_key", "name_key"),
)

pools = Table(
    "pools",
    metadata,
    _uid(),
    Column("fingerprint_key", LargeBinary, nullable=False),
    # A subscription's own, one a region, for disks that came from no gallery; a gallery's has neither.
    Column("subscription", String),
    Column("subscription_key", String),
    Column("region", String),
    Index("uq_pools_subscription_key_region", "subscription_key", "region", unique=True),
)

galleries = Table(
    "galleries",
    metadata,
    _uid(),
    Column("group_uid", ForeignKey("groups.uid"), nullable=False, index=True),
    # The group's own, once more: a gallery's name is unique in the subscription, not in the group alone.
    Column("subscription_key", String, nullable=False),
    Column("name", String, nullable=False),
    Column("name_key", String, nullable=False),
    Column("location", String, nullable=False),
    Column("description", String),
    _tags(),
    Column("pool_uid", ForeignKey("pools.uid"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("soft_delete_enabled", Boolean, nullable=False, server_default=false()),
    Column("soft_delete_retention_days", Integer, nullable=False, server_default="7"),
    # Null where nothing was ever said of sharing; the permission once more as JSON has it, to look for.
    Column("sharing_permission", EnumText(SharingPermission), index=True),
    Column("sharing", JSON(none_as_null=True)),
    UniqueConstraint("subscription_key", "name_key"),
)

definitions = Table(
    "definitions",
    metadata,
    _uid(),
    Column("gallery_uid", ForeignKey("galleries.uid"), nullable=False),
    Column("name", String, nullable=False),
    Column("name_key", String, nullable=False),
    Column("location", String, nullable=False),
    Column("publisher", String, nullable=False),
    Column("offer", String, nullable=False),
    Column("sku", String, nullable=False),
    # "publisher/offer/sku", folded: none of the three may hold a slash.
    Column("identifier_key", String, nullable=False),
    Column("os_type", EnumText(OsType), nullable=False),
    Column("os_state", EnumText(OsState), nullable=False),
    Column("hyper_v_generation", EnumText(HyperVGeneration), nullable=False),
    Column("architecture", EnumText(Architecture), nullable=False),
    Column("description", String),
    _tags(),
    Column("created_at", UtcDateTime, nullable=False),
    Column("eula", String),
    Column("privacy_statement_uri", String),
    Column("release_note_uri", String),
    Column("end_of_life_at", UtcDateTime),
    Column("vcpus_min", Integer),
    Column("vcpus_max", Integer),
    Column("memory_min_gib", Integer),
    Column("memory_max_gib", Integer),
    Column("disallowed_disk_types", JSON, nullable=False, server_default="[]"),
    Column("plan_name", String),
    Column("plan_publisher", String),
    Column("plan_product", String),
    Column("features", JSON, nullable=False, server_default="[]"),
    Column("allow_update_image", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("gallery_uid", "name_key"),
    UniqueConstraint("gallery_uid", "identifier_key"),
)

versions = Table(
    "versions",
    metadata,
    _uid(),
    Column("definition_uid", ForeignKey("definitions.uid"), nullable=False),
    Column("major", Integer, nullable=False),
    Column("minor", Integer, nullable=False),
    Column("patch", Integer, nullable=False),
    Column("location", String, nullable=False),
    Column("target_regions", JSON, nullable=False),
    Column("replica_count", Integer, nullable=False),
    Column("exclude_from_latest", Boolean, nullable=False),
    _tags(),
    Column("published_at", UtcDateTime, nullable=False),
    Column("provisioning_state", EnumText(ProvisioningState), nullable=False),
    Column("end_of_life_at", UtcDateTime),
    Column("allow_deletion_of_replicated_locations", Boolean),
    Column("block_deletion_before_end_of_life", Boolean, nullable=False, server_default=false()),
    Column("soft_deleted_at", UtcDateTime),
    Column("hard_deletion_at", UtcDateTime),
    # When a worker last took up a replica of it: the queue serves the one that waited longest.
    Column("served_at", UtcDateTime),
    # As its target regions: read and written with the version, never looked up apart. The OS disk, then by LUN.
    Column("disks", JSON, nullable=False, server_default="[]"),
    Column("replication_mode", EnumText(ReplicationMode), nullable=False, server_default="Full"),
    # The order of its columns is the order of versions: a page of ten thousand is one walk along this index.
    UniqueConstraint("definition_uid", "major", "minor", "patch"),
)

placements = Table(
    "placements",
    metadata,
    Column("version_uid", ForeignKey("versions.uid", ondelete="CASCADE"), primary_key=True),
    Column("region", String, primary_key=True),
    Column("turns", BigInteger, nullable=False),
)

slots = Table(
    "slots",
    metadata,
    _uid(),
    Column("pool_uid", ForeignKey("pools.uid"), nullable=False),
    Column("region", String, nullable=False),
    Column("storage_account_type", EnumText(StorageAccountType), nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("zone", String, nullable=False),
    Column("bucket", String, nullable=False),
    UniqueConstraint("pool_uid", "region", "storage_account_type", "ordinal"),
)

replicas = Table(
    "replicas",
    metadata,
    _uid(),
    Column("version_uid", ForeignKey("versions.uid"), nullable=False, index=True),
    Column("slot_uid", ForeignKey("slots.uid"), nullable=False, index=True),
    Column("state", EnumText(ReplicaState), nullable=False),
    Column("error", String),
    Column("bytes_done", BigInteger, nullable=False),
    Column("bytes_total", BigInteger, nullable=False),
    Column("completed_at", UtcDateTime),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("retry_at", UtcDateTime),
    Column("started_at", UtcDateTime),
    Column("progress_at", UtcDateTime),
    # What workers look for, among thousands of replicas that are complete.
    Index(None, "state", "retry_at"),
)

# A region that was removed and added again is a new row beside the old one, which is Deleting still.
_partial(Index("uq_replicas_living", replicas.c.version_uid, replicas.c.slot_uid, unique=True), "state <> 'Deleting'")

segments = Table(
    "segments",
    metadata,
    Column("id", _SERIAL, primary_key=True),
    Column("pool_uid", ForeignKey("pools.uid"), nullable=False),
    Column("name", LargeBinary, nullable=False),
    Column("blocks", Integer, nullable=False),
    Column("stored_bytes", BigInteger, nullable=False),
    Column("checksum", String),
    Column("work_uid", String, nullable=False),
    UniqueConstraint("pool_uid", "name"),
    # Manifests keep these ids as u32.
    CheckConstraint("id > 0 AND id < 4294967296", name="u32"),
    # An id is never given twice: a packed list must not come to mean another segment.
    sqlite_autoincrement=True,
)

manifests = Table(
    "manifests",
    metadata,
    _uid(),
    Column("slot_uid", ForeignKey("slots.uid"), nullable=False),
    Column("owner_uid", String, nullable=False),
    Column("disk", String, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("body_key", String, nullable=False),
    Column("virtual_bytes", BigInteger, nullable=False),
    Column("object_bytes", BigInteger, nullable=False),
    Column("disk_digest", LargeBinary, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("segment_ids", LargeBinary, nullable=False),
    UniqueConstraint("owner_uid", "slot_uid", "disk"),
    Index(None, "slot_uid", "body_key"),
)

condemned = Table(
    "condemned",
    metadata,
    Column("slot_uid", ForeignKey("slots.uid"), primary_key=True),
    Column("name", LargeBinary, primary_key=True),
    Column("stored_bytes", BigInteger, nullable=False),
    Column("sentence", EnumText(GcState), nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("token", String),
    Column("lease_expires_at", UtcDateTime),
    # Null of a segment that was marked before the catalog had a sequence.
    Column("since_sequence", BigInteger),
)

deletions = Table(
    "deletions",
    metadata,
    Column("slot_uid", ForeignKey("slots.uid"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("token", String, primary_key=True),
    Column("until", UtcDateTime, nullable=False),
)

maintenance_turns = Table(
    "maintenance_turns",
    metadata,
    Column("name", String, primary_key=True),
    Column("done_at", UtcDateTime, nullable=False),
    Column("holder", String),
    Column("token", String),
    Column("lease_expires_at", UtcDateTime),
    Column("outcome", String),
)

zone_gaps = Table(
    "zone_gaps",
    metadata,
    Column("slot_uid", ForeignKey("slots.uid"), primary_key=True),
    Column("zone", String, primary_key=True),
    Column("objects", Integer, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
)

unknown_objects = Table(
    "unknown_objects",
    metadata,
    Column("slot_uid", ForeignKey("slots.uid"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("stored_bytes", BigInteger, nullable=False),
    Column("first_seen_at", UtcDateTime, nullable=False),
)

scrub_passes = Table(
    "scrub_passes",
    metadata,
    _uid(),
    Column("slot_uid", ForeignKey("slots.uid"), nullable=False),
    Column("runner", EnumText(ScrubRunner), nullable=False),
    Column("percent", Float, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("position", String, nullable=False),
    Column("began_at", UtcDateTime, nullable=False),
    Column("saved_at", UtcDateTime, nullable=False),
    UniqueConstraint("slot_uid", "runner"),
)

scrub_damages = Table(
    "scrub_damages",
    metadata,
    Column("pass_uid", ForeignKey("scrub_passes.uid"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("is_repaired", Boolean, nullable=False),
)

disks = Table(
    "disks",
    metadata,
    _uid(),
    Column("group_uid", ForeignKey("groups.uid"), nullable=False),
    Column("name", String, nullable=False),
    Column("name_key", String, nullable=False),
    Column("location", String, nullable=False),
    _tags(),
    Column("source_version_uid", String, index=True),
    Column("source_reference", String, nullable=False),
    Column("replica", Integer, nullable=False),
    Column("slot_uid", ForeignKey("slots.uid"), nullable=False, index=True),
    Column("storage_account_type", EnumText(StorageAccountType), nullable=False),
    Column("virtual_bytes", BigInteger, nullable=False),
    Column("disk_digest", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("provisioning_state", EnumText(ProvisioningState), nullable=False),
    Column("source_format", EnumText(DiskFormat), nullable=False),
    # Of which data disk of its version; none is the OS disk.
    Column("source_lun", Integer),
    Column("kind", EnumText(DiskKind), nullable=False, server_default="disks"),
    Column("part", String, nullable=False, server_default="os"),
    Column("body_key", String, nullable=False),
    Column("source_file_bytes", BigInteger),
    Column("source_stamp", String),
    Column("os_type", EnumText(OsType)),
    Column("os_state", EnumText(OsState)),
    Column("hyper_v_generation", EnumText(HyperVGeneration)),
    # The resource id of the machine that it is attached to, and where: no LUN is its OS disk.
    Column("managed_by", String, index=True),
    Column("machine_lun", Integer),
    # Bytes of the fixed VHD that it is made from, where that is uploaded; and who may read it or write that by URL.
    Column("upload_bytes", BigInteger),
    Column("grant_uid", String),
    Column("grant_level", EnumText(AccessLevel)),
    Column("grant_expires_at", UtcDateTime),
    # Fields of the resource by their paths, which only `wire` looks into.
    Column("kept", JSON, nullable=False, server_default="{}"),
    UniqueConstraint("group_uid", "kind", "name_key", "part"),
    # How many were made of one version lately, among the many that were made of it before.
    Index(None, "source_version_uid", "created_at"),
)

machines = Table(
    "machines",
    metadata,
    _uid(),
    Column("group_uid", ForeignKey("groups.uid"), nullable=False),
    Column("name", String, nullable=False),
    Column("name_key", String, nullable=False),
    Column("location", String, nullable=False),
    _tags(),
    Column("size", String, nullable=False),
    Column("image_reference", String),
    Column("os_type", EnumText(OsType)),
    Column("hyper_v_generation", EnumText(HyperVGeneration)),
    Column("admin_username", String),
    Column("computer_name", String),
    Column("generalized", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("provisioning_state", EnumText(ProvisioningState), nullable=False),
    Column("kept", JSON, nullable=False, server_default="{}"),
    UniqueConstraint("group_uid", "name_key"),
)

works = Table(
    "works",
    metadata,
    _uid(),
    Column("kind", EnumText(WorkKind), nullable=False),
    Column("slot_uid", ForeignKey("slots.uid"), nullable=False, index=True),
    Column("owner_uid", String, nullable=False),
    Column("plan", JSON, nullable=False),
    Column("state", EnumText(WorkState), nullable=False),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("holder", String),
    Column("token", Integer, nullable=False),
    Column("lease_expires_at", UtcDateTime),
    # Null of a work that was opened before the catalog had a sequence.
    Column("opened_sequence", BigInteger),
)

# Whoever comes second adopts what is open, and opens no other beside it.
_partial(Index("uq_works_open", works.c.kind, works.c.slot_uid, works.c.owner_uid, unique=True), "state = 'Open'")

work_pins = Table(
    "work_pins",
    metadata,
    Column("work_uid", ForeignKey("works.uid"), primary_key=True),
    Column("manifest_uid", ForeignKey("manifests.uid"), primary_key=True, index=True),
    Column("position", Integer, nullable=False),
)

ledger = Table(
    "ledger",
    metadata,
    Column("key", String, primary_key=True),
    Column("kind", EnumText(ChargeKind), nullable=False),
    *_parties(),
    Column("source", String, nullable=False),
    Column("target", String, nullable=False),
    Column("replica", Integer, nullable=False),
    Column("delivered_bytes", BigInteger, nullable=False),
    Column("unit_price", DecimalText, nullable=False),
    Column("amount", DecimalText, nullable=False),
    Column("time", UtcDateTime, nullable=False),
)

intervals = Table(
    "intervals",
    metadata,
    _uid(),
    *_parties(),
    Column("owner_uid", String, nullable=False),
    Column("slot_uid", String, nullable=False, index=True),
    Column("region", String, nullable=False),
    Column("replica", Integer, nullable=False),
    Column("storage_account_type", EnumText(StorageAccountType), nullable=False),
    Column("stored_bytes", BigInteger, nullable=False),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime),
)

activity = Table(
    "activity",
    metadata,
    Column("id", _SERIAL, primary_key=True),
    Column("principal", String, nullable=False),
    Column("action", String, nullable=False),
    Column("scope", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("detail", String),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime, nullable=False),
    Column("is_refusal", Boolean, nullable=False, server_default=false()),
    Column("repeats", BigInteger, nullable=False, server_default="0"),
    sqlite_autoincrement=True,
)

workers = Table(
    "workers",
    metadata,
    _uid(),
    Column("holder", String, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
)

zone_health = Table(
    "zone_health",
    metadata,
    Column("region", String, primary_key=True),
    Column("zone", String, primary_key=True),
    # A host, since its boot: what one host sees of a zone says nothing of another host's network.
    Column("observer", String, primary_key=True),
    Column("state", EnumText(CircuitState), nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("probe_at", UtcDateTime, nullable=False),
    Column("open_seconds", Float, nullable=False),
    Column("error", String),
)

tenants = Table(
    "tenants",
    metadata,
    _uid(),
    Column("name", String, nullable=False),
    Column("name_key", String, nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("subscription_key", String, primary_key=True),
    Column("subscription", String, nullable=False),
    Column("tenant_uid", ForeignKey("tenants.uid"), nullable=False),
)

principals = Table(
    "principals",
    metadata,
    _uid(),
    Column("kind", EnumText(PrincipalKind), nullable=False),
    Column("tenant_uid", ForeignKey("tenants.uid"), nullable=False),
    Column("name", String, nullable=False),
    Column("client_id", String),
    Column("issuer", String),
    Column("subject", String),
    Column("created_at", UtcDateTime, nullable=False),
    Column("token_generation", Integer, nullable=False, server_default="0"),
    Column("tokens_valid_after", UtcDateTime),
    UniqueConstraint("tenant_uid", "client_id"),
    # Who a token is of must not be a matter of which row is found first.
    UniqueConstraint("issuer", "subject"),
)

secrets = Table(
    "secrets",
    metadata,
    _uid(),
    Column("client_id", String, nullable=False),
    Column("hint", String, nullable=False),
    Column("hashed", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    UniqueConstraint("client_id", "hint"),
)

role_assignments = Table(
    "role_assignments",
    metadata,
    _uid(),
    Column("principal_uid", ForeignKey("principals.uid", ondelete="CASCADE"), nullable=False),
    Column("role", EnumText(Role), nullable=False),
    Column("scope", String, nullable=False),
    Column("scope_key", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("principal_uid", "role", "scope_key"),
)

issuers = Table(
    "issuers",
    metadata,
    _uid(),
    Column("tenant_uid", ForeignKey("tenants.uid"), nullable=False),
    Column("url", String, nullable=False, unique=True),
    Column("audience", String, nullable=False),
    Column("jwks", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", String, primary_key=True),
    Column("pem", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("retired_at", UtcDateTime),
    Column("trusted_until", UtcDateTime),
)

operations = Table(
    "operations",
    metadata,
    _uid(),
    Column("subscription", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("request", JSON, nullable=False),
    Column("principal", String, nullable=False),
    Column("principal_uid", String),
    Column("status", EnumText(OperationStatus), nullable=False, index=True),
    Column("error", JSON(none_as_null=True)),
    Column("holder", String, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("tenant_uid", String),
    Column("resource_id", String),
    Column("cancel_requested_by", String),
    Column("lease_expires_at", UtcDateTime),
)

preemptions = Table(
    "preemptions",
    metadata,
    Column("operation_uid", String, primary_key=True),
    Column("resource_key", String, primary_key=True),
)
"""Resources, by their ids in lower case, that a request wrote which is newer than an operation in progress."""

deployments = Table(
    "deployments",
    metadata,
    _uid(),
    Column("group_uid", String, ForeignKey("groups.uid"), nullable=False),
    Column("name", String, nullable=False),
    Column("name_key", String, nullable=False),
    Column("state", EnumText(DeploymentState), nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("outputs", JSON, nullable=False),
    Column("resources", JSON, nullable=False),
    Column("error", JSON(none_as_null=True)),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    UniqueConstraint("group_uid", "name_key"),
)

inert_resources = Table(
    "inert_resources",
    metadata,
    _uid(),
    Column("group_uid", ForeignKey("groups.uid"), nullable=False),
    Column("type", String, nullable=False),
    Column("name", String, nullable=False),
    Column("name_key", String, nullable=False),
    Column("location", String, nullable=False),
    _tags(),
    Column("body", JSON, nullable=False),
    Column("parts", JSON, nullable=False),
    Column("refers_to", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("group_uid", "type", "name_key"),
)

# The same the other way round, by id in lower case: what is referred to is not deleted.
inert_references = Table(
    "inert_references",
    metadata,
    Column("inert_uid", ForeignKey("inert_resources.uid"), primary_key=True),
    Column("target_key", String, primary_key=True, index=True),
)

# Which machine names which network interface, by id in lower case; interfaces of nobody may be named too.
machine_interfaces = Table(
    "machine_interfaces",
    metadata,
    Column("machine_uid", ForeignKey("machines.uid", ondelete="CASCADE"), primary_key=True),
    Column("target_key", String, primary_key=True, index=True),
    Column("deleted_with_machine", Boolean, nullable=False),
)
