"""The tables of the catalog, and the revision that this code writes.

The relations between the tables follow. ``->`` is a foreign key. ``~>`` is a uid or a name without a foreign key,
because the row with the target may be deleted earlier. ``<-`` lists the tables that refer to the table::

    installation                                             single row: identity of the installation
    checkpoints                                              numbers of the catalog's sequence
    zones            ~> slots (region and zone)              identity of the store of each zone
    settings                                                 settings that all processes share
    groups           <- galleries, disks                     a group with resources cannot be deleted
    pools            <- galleries, slots, segments           scope of deduplication, of a gallery or a subscription
    galleries        -> groups, pools
    definitions      -> galleries
    versions         -> definitions
    placements       -> versions                             counters of round robin placement by region
    slots            -> pools
    replicas         -> versions, slots
    disks            -> groups, slots   ~> versions          also snapshots and disks of managed images
    scale_sets       -> groups                               instances are machines with the uid of a set
    machines         -> groups          ~> scale_sets        the disks refer to machines by resource id
    segments         -> pools           ~> works             a work may be deleted before its segments
    manifests        -> slots           ~> versions, disks   `owner_uid` is the uid of a version or a disk
    condemned        -> slots           ~> segments          deletion marks, also of segments without a row
    deletions        -> slots                                delete requests that a store may still carry out
    maintenance_turns                                        maintenance tasks and leases on tasks
    zone_gaps        -> slots                                numbers of objects that zones miss
    unknown_objects  -> slots                                objects in a slot that are not in the catalog
    scrub_passes     -> slots                                unfinished passes of scrub
    scrub_damages    -> scrub_passes                         damaged objects that a pass found
    slot_scrubs      -> slots                                last finished scrub of each slot
    lost_objects     -> slots                                objects without a right copy in the slot
    works            -> slots           ~> versions, disks
    work_pins        -> works, manifests                     the database refuses to delete a pinned manifest
    ledger           ~> all resources, by name, price_lists  statements need charges of deleted resources
    price_lists                                              all price lists since the first start
    budgets          ~> subscriptions                        limits of the charges of months
    intervals        ~> slots, versions, disks
    activity         ~> all resources, by name
    workers                                                  running processes of `imgstore worker`
    zone_health                                              circuits of zones, as each host recorded them last
    tenants          <- subscriptions, principals, issuers
    subscriptions    -> tenants                              subscriptions with a tenant
    principals       -> tenants                              users and service principals
    secrets          ~> principals (client id)               principals of several tenants may share a client id
    role_assignments -> principals      ~> all resources     a scope may name a resource that does not exist yet
    issuers          -> tenants
    signing_keys                                             present and former keys that sign tokens
    recovery_keys    ~> pools, signing_keys, ledger_keys     keys that the newest recovery file contains
    operations       ~> all resources, by name               long-running operations of the API, kept for seven days
    preemptions      ~> operations                           resources to which a newer request has written
    deployments      -> groups                               deployments of templates
    inert_resources  -> groups                               network resources without behaviour
    inert_references -> inert_resources                      references to other resources, by resource id
    machine_interfaces -> machines                           network interfaces of machines, by resource id
    machine_runs     -> machines                             last start of each machine: power state, host, processes
    machine_secrets  -> machines                             password hashes and custom data for the first start
    scale_set_secrets -> scale_sets                          password hashes and custom data of all instances
    revision_marks   ~> all resources                        resources whose newest revision is not in each bucket
    ledger_checkpoints                                       checkpoints of the ledger in the buckets
    ledger_leaves    ~> ledger, intervals, price_lists       sealed entries of the ledger in the order of the log
    ledger_subtrees                                          hashes of 256, 65,536, ... leaves, derived from the leaves
    ledger_heads                                             signed checkpoints of the log
    ledger_keys                                              present and former keys that sign checkpoints of the log

A ``*_key`` column contains the folded form (`columns.fold_name`) of a name. Comparisons and unique constraints use the
folded form.
"""

from typing import Any, Final

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
from sqlalchemy.schema import SchemaItem

from imgstore.catalog.engine.columns import DecimalText, EnumText, UtcDateTime
from imgstore.domain.async_operations import OperationStatus
from imgstore.domain.deployments import DeploymentState
from imgstore.domain.disks.signed_urls import AccessLevel
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.identity.access import Role
from imgstore.domain.identity.principals import PrincipalKind
from imgstore.domain.identity.sharing import SharingPermission
from imgstore.domain.machine_runs import PowerState
from imgstore.domain.resources import (
    Architecture,
    DiskKind,
    HyperVGeneration,
    OsState,
    OsType,
    ReplicationMode,
    StorageAccountType,
)
from imgstore.domain.scale_sets import PlacementPolicy, UpgradeMode
from imgstore.domain.states import ProvisioningState, ReplicaState, WorkState
from imgstore.domain.storage.circuits import CircuitState
from imgstore.domain.storage.garbage import GcState
from imgstore.domain.storage.scrub_passes import ScrubRunner
from imgstore.domain.storage.works import WorkKind
from imgstore.domain.storage.zones import ZoneKind
from imgstore.ledger.budgets import AtLimit
from imgstore.ledger.entries import ChargeKind

REVISION: Final = "0041"
"""The head of migrations/versions. A catalog at this revision opens without an import of Alembic.

Each migration from 0033 on has a variable `oldest_code`, the oldest revision of code that may use the catalog afterwards
(invariant L7). To add something with a default keeps the value. To remove something, or to change a meaning, raises the
value to the revision of the last release, so that code which still needs the former schema is excluded.
"""

OLDEST_CODE: Final = "0032"
"""The highest `oldest_code` of the migrations, for a new catalog."""

# Constraints have fixed names, so that a later migration can drop a constraint by its name on both engines.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite assigns row numbers only if the type of the key is exactly INTEGER.
_SERIAL = BigInteger().with_variant(Integer(), "sqlite")


def _table(name: str, *parts: SchemaItem, **options: Any) -> Table:
    return Table(name, metadata, *parts, **options)


def _uid() -> Column[str]:
    return Column("uid", String, primary_key=True)


def _partial(index: Index, condition: str) -> None:
    """Restrict an index to the rows that meet a condition.

    SQLAlchemy takes the condition as an option of a dialect and imports the dialect. The import of PostgreSQL's dialect
    takes 20 ms, which a catalog on SQLite does not need. Therefore the option is set when the index is created.
    """

    @event.listens_for(index, "before_create")
    def _set_condition(_index: Index, connection: Connection, **_options: object) -> None:
        index.dialect_options[connection.dialect.name]["where"] = text(condition)


def _tags() -> Column[object]:
    return Column("tags", JSON, nullable=False)


def _parties() -> list[Column[Any]]:
    """Return the columns of a `Party`, by name."""
    return [
        Column("subscription", String, nullable=False),
        Column("subscription_key", String, nullable=False, index=True),
        Column("group_name", String, nullable=False),
        Column("gallery", String),
        Column("definition", String),
        Column("version", String),
        Column("disk", String),
    ]


installation = _table(
    "installation",
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("uid", String, nullable=False),
    Column("subscription", String, nullable=False),
    Column("hmac_key", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # The evidence that the catalog is older than its buckets, or null.
    Column("outdated", String),
    # True if an operator accepted an older catalog. Objects that are not in the catalog are kept for ever.
    Column("keeps_unknown", Boolean, nullable=False, server_default=false()),
    # False if older code may have used a zone without a row in `zones`.
    Column("records_every_zone", Boolean, nullable=False, server_default=false()),
    CheckConstraint("id = 1", name="single"),
)

checkpoints = _table(
    "checkpoints",
    Column("sequence", _SERIAL, primary_key=True),
    Column("uid", String, nullable=False),
)

zones = _table(
    "zones",
    Column("region", String, primary_key=True),
    Column("zone", String, primary_key=True),
    Column("uid", String, nullable=False),
    Column("kind", EnumText(ZoneKind), nullable=False),
    Column("place", String, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
)

settings = _table(
    "settings",
    Column("key", String, primary_key=True),
    Column("value", JSON, nullable=False),
    Column("set_at", UtcDateTime, nullable=False),
)

groups = _table(
    "groups",
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

pools = _table(
    "pools",
    _uid(),
    Column("fingerprint_key", LargeBinary, nullable=False),
    # Set in the pool of a subscription and region, for disks without a gallery. Null in the pool of a gallery.
    Column("subscription", String),
    Column("subscription_key", String),
    Column("region", String),
    Index("uq_pools_subscription_key_region", "subscription_key", "region", unique=True),
)

galleries = _table(
    "galleries",
    _uid(),
    Column("group_uid", ForeignKey("groups.uid"), nullable=False, index=True),
    # A copy from the group, because the name of a gallery is unique in the subscription.
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
    # Null if sharing was never set. The permission is also part of the JSON, and is indexed here.
    Column("sharing_permission", EnumText(SharingPermission), index=True),
    Column("sharing", JSON(none_as_null=True)),
    UniqueConstraint("subscription_key", "name_key"),
)

definitions = _table(
    "definitions",
    _uid(),
    Column("gallery_uid", ForeignKey("galleries.uid"), nullable=False),
    Column("name", String, nullable=False),
    Column("name_key", String, nullable=False),
    Column("location", String, nullable=False),
    Column("publisher", String, nullable=False),
    Column("offer", String, nullable=False),
    Column("sku", String, nullable=False),
    # "publisher/offer/sku", folded. None of the three may contain a slash.
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

versions = _table(
    "versions",
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
    # The last time that a worker began a replica. The queue serves the longest unserved version first.
    Column("served_at", UtcDateTime),
    # The OS disk, then the data disks by LUN. Like the target regions, the disks are never queried separately.
    Column("disks", JSON, nullable=False, server_default="[]"),
    Column("replication_mode", EnumText(ReplicationMode), nullable=False, server_default="Full"),
    # The index has the order of versions, so that a page of ten thousand versions reads only this index.
    UniqueConstraint("definition_uid", "major", "minor", "patch"),
)

placements = _table(
    "placements",
    Column("version_uid", ForeignKey("versions.uid", ondelete="CASCADE"), primary_key=True),
    Column("region", String, primary_key=True),
    Column("turns", BigInteger, nullable=False),
)

slots = _table(
    "slots",
    _uid(),
    Column("pool_uid", ForeignKey("pools.uid"), nullable=False),
    Column("region", String, nullable=False),
    Column("storage_account_type", EnumText(StorageAccountType), nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("zone", String, nullable=False),
    Column("bucket", String, nullable=False),
    UniqueConstraint("pool_uid", "region", "storage_account_type", "ordinal"),
)

replicas = _table(
    "replicas",
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
    Column("parent_region", String),
    # Workers search for these columns among thousands of complete replicas.
    Index(None, "state", "retry_at"),
)

# A region that was removed and added again has a new row. The old row may still be Deleting.
_partial(Index("uq_replicas_living", replicas.c.version_uid, replicas.c.slot_uid, unique=True), "state <> 'Deleting'")

segments = _table(
    "segments",
    Column("id", _SERIAL, primary_key=True),
    Column("pool_uid", ForeignKey("pools.uid"), nullable=False),
    Column("name", LargeBinary, nullable=False),
    Column("blocks", Integer, nullable=False),
    Column("stored_bytes", BigInteger, nullable=False),
    Column("checksum", String),
    Column("work_uid", String, nullable=False),
    UniqueConstraint("pool_uid", "name"),
    # Manifests store the ids as u32.
    CheckConstraint("id > 0 AND id < 4294967296", name="u32"),
    # An id is never reused, because packed lists of ids refer to the segment.
    sqlite_autoincrement=True,
)

manifests = _table(
    "manifests",
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

condemned = _table(
    "condemned",
    Column("slot_uid", ForeignKey("slots.uid"), primary_key=True),
    Column("name", LargeBinary, primary_key=True),
    Column("stored_bytes", BigInteger, nullable=False),
    Column("sentence", EnumText(GcState), nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("token", String),
    Column("lease_expires_at", UtcDateTime),
    # Null for a segment that was marked before the catalog had a sequence.
    Column("since_sequence", BigInteger),
)

deletions = _table(
    "deletions",
    Column("slot_uid", ForeignKey("slots.uid"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("token", String, primary_key=True),
    Column("until", UtcDateTime, nullable=False),
)

maintenance_turns = _table(
    "maintenance_turns",
    Column("name", String, primary_key=True),
    Column("done_at", UtcDateTime, nullable=False),
    Column("holder", String),
    Column("token", String),
    Column("lease_expires_at", UtcDateTime),
    Column("outcome", String),
)

zone_gaps = _table(
    "zone_gaps",
    Column("slot_uid", ForeignKey("slots.uid"), primary_key=True),
    Column("zone", String, primary_key=True),
    Column("objects", Integer, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
)

unknown_objects = _table(
    "unknown_objects",
    Column("slot_uid", ForeignKey("slots.uid"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("stored_bytes", BigInteger, nullable=False),
    Column("first_seen_at", UtcDateTime, nullable=False),
)

scrub_passes = _table(
    "scrub_passes",
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

scrub_damages = _table(
    "scrub_damages",
    Column("pass_uid", ForeignKey("scrub_passes.uid"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("is_repaired", Boolean, nullable=False),
)

# Code of the previous release may remove pools, and does not know the tables. So the rows of the tables cascade.
slot_scrubs = _table(
    "slot_scrubs",
    Column("slot_uid", ForeignKey("slots.uid", ondelete="CASCADE"), primary_key=True),
    Column("began_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime, nullable=False),
    Column("percent", Float, nullable=False),
    Column("objects", BigInteger, nullable=False),
    Column("complete_at", UtcDateTime),
)

lost_objects = _table(
    "lost_objects",
    Column("slot_uid", ForeignKey("slots.uid", ondelete="CASCADE"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("found_at", UtcDateTime, nullable=False),
)

disks = _table(
    "disks",
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
    # The LUN of the source disk in its version. Null means the OS disk.
    Column("source_lun", Integer),
    Column("kind", EnumText(DiskKind), nullable=False, server_default="disks"),
    Column("part", String, nullable=False, server_default="os"),
    Column("body_key", String, nullable=False),
    Column("source_file_bytes", BigInteger),
    Column("source_stamp", String),
    Column("os_type", EnumText(OsType)),
    Column("os_state", EnumText(OsState)),
    Column("hyper_v_generation", EnumText(HyperVGeneration)),
    # The resource id and the LUN of the attachment to a machine. A null LUN means the OS disk.
    Column("managed_by", String, index=True),
    Column("machine_lun", Integer),
    # The bytes of the fixed VHD that is uploaded for the disk, and the grant for access by a signed URL.
    Column("upload_bytes", BigInteger),
    Column("grant_uid", String),
    Column("grant_level", EnumText(AccessLevel)),
    Column("grant_expires_at", UtcDateTime),
    # Further fields of the resource by path, which only `wire` interprets.
    Column("kept", JSON, nullable=False, server_default="{}"),
    UniqueConstraint("group_uid", "kind", "name_key", "part"),
    # Counts the recent disks of a version.
    Index(None, "source_version_uid", "created_at"),
)

scale_sets = _table(
    "scale_sets",
    _uid(),
    Column("group_uid", ForeignKey("groups.uid"), nullable=False),
    Column("name", String, nullable=False),
    Column("name_key", String, nullable=False),
    Column("location", String, nullable=False),
    _tags(),
    Column("size", String, nullable=False),
    Column("capacity", Integer, nullable=False),
    # The capacity before the present change of the capacity, to which a failed change returns. Null without a change.
    Column("former_capacity", Integer),
    # Ids are not used again, so that the name of a deleted instance never names another instance.
    Column("next_instance_id", Integer, nullable=False),
    # The image of the request, and the image version or managed image of new instances.
    Column("image_reference", String, nullable=False),
    Column("source_reference", String, nullable=False),
    Column("os_type", EnumText(OsType)),
    Column("hyper_v_generation", EnumText(HyperVGeneration)),
    Column("admin_username", String),
    Column("computer_name_prefix", String),
    Column("upgrade_mode", EnumText(UpgradeMode), nullable=False),
    Column("placement", EnumText(PlacementPolicy), nullable=False),
    Column("allow_remote", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("provisioning_state", EnumText(ProvisioningState), nullable=False),
    Column("kept", JSON, nullable=False, server_default="{}"),
    # The process that changes the set, and the fence of its writes.
    Column("holder", String),
    Column("token", Integer, nullable=False, server_default="0"),
    Column("lease_expires_at", UtcDateTime),
    UniqueConstraint("group_uid", "name_key"),
)

machines = _table(
    "machines",
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
    # Null for a machine that is no instance of a scale set. The lease of the set guards each new instance.
    Column("scale_set_uid", String),
    Column("instance_id", Integer),
    UniqueConstraint("group_uid", "name_key"),
    Index(None, "scale_set_uid", "instance_id", unique=True),
)

works = _table(
    "works",
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
    # Null for a work that was opened before the catalog had a sequence.
    Column("opened_sequence", BigInteger),
    Column("bytes_done", BigInteger, nullable=False, server_default="0"),
    Column("bytes_total", BigInteger, nullable=False, server_default="0"),
    Column("failure", JSON(none_as_null=True)),
)

# A second process adopts the open work instead of a new work.
_partial(Index("uq_works_open", works.c.kind, works.c.slot_uid, works.c.owner_uid, unique=True), "state = 'Open'")

work_pins = _table(
    "work_pins",
    Column("work_uid", ForeignKey("works.uid"), primary_key=True),
    Column("manifest_uid", ForeignKey("manifests.uid"), primary_key=True, index=True),
    Column("position", Integer, nullable=False),
)

ledger = _table(
    "ledger",
    Column("key", String, primary_key=True),
    Column("kind", EnumText(ChargeKind), nullable=False),
    *_parties(),
    Column("source", String, nullable=False),
    Column("target", String, nullable=False),
    Column("replica", Integer, nullable=False),
    Column("delivered_bytes", BigInteger, nullable=False),
    # For code before revision 0036. With a price list, statements compute the amount by the list.
    Column("unit_price", DecimalText, nullable=False),
    Column("amount", DecimalText, nullable=False),
    Column("time", UtcDateTime, nullable=False),
    Column("tags", JSON(none_as_null=True)),
    # The number of a price list. Null for rows of code before revision 0036: the amount is the price.
    Column("price_list", Integer),
    # Null for free bytes.
    Column("meter", String),
)

price_lists = _table(
    "price_lists",
    _uid(),
    Column("number", Integer, nullable=False, unique=True),
    Column("digest", String, nullable=False),
    Column("document", JSON, nullable=False),
    # The first use of the list. The first list applies to all earlier times, too.
    Column("effective_at", UtcDateTime, nullable=False),
)

budgets = _table(
    "budgets",
    _uid(),
    Column("subscription", String, nullable=False),
    Column("subscription_key", String, nullable=False),
    # "2026-12", or "every" for each month without a budget of its own.
    Column("month", String, nullable=False),
    Column("amount", DecimalText, nullable=False),
    Column("currency", String, nullable=False),
    Column("at_limit", EnumText(AtLimit), nullable=False),
    Column("set_at", UtcDateTime, nullable=False),
    # The last month whose charges reached the budget, so that the activity log has one entry for the month.
    Column("reached_month", String),
    UniqueConstraint("subscription_key", "month"),
)

intervals = _table(
    "intervals",
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
    Column("tags", JSON(none_as_null=True)),
)

activity = _table(
    "activity",
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

workers = _table(
    "workers",
    _uid(),
    Column("holder", String, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    # The revision of the worker's code. Null for code before revision 0033.
    Column("code_revision", String),
)

zone_health = _table(
    "zone_health",
    Column("region", String, primary_key=True),
    Column("zone", String, primary_key=True),
    # A host since its boot. The circuit of another host does not count, because its network may differ.
    Column("observer", String, primary_key=True),
    Column("state", EnumText(CircuitState), nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("probe_at", UtcDateTime, nullable=False),
    Column("open_seconds", Float, nullable=False),
    Column("error", String),
)

tenants = _table(
    "tenants",
    _uid(),
    Column("name", String, nullable=False),
    Column("name_key", String, nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
)

subscriptions = _table(
    "subscriptions",
    Column("subscription_key", String, primary_key=True),
    Column("subscription", String, nullable=False),
    Column("tenant_uid", ForeignKey("tenants.uid"), nullable=False),
)

principals = _table(
    "principals",
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
    # A token must belong to exactly one principal.
    UniqueConstraint("issuer", "subject"),
)

secrets = _table(
    "secrets",
    _uid(),
    Column("client_id", String, nullable=False),
    Column("hint", String, nullable=False),
    Column("hashed", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    UniqueConstraint("client_id", "hint"),
)

role_assignments = _table(
    "role_assignments",
    _uid(),
    Column("principal_uid", ForeignKey("principals.uid", ondelete="CASCADE"), nullable=False),
    Column("role", EnumText(Role), nullable=False),
    Column("scope", String, nullable=False),
    Column("scope_key", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("principal_uid", "role", "scope_key"),
)

issuers = _table(
    "issuers",
    _uid(),
    Column("tenant_uid", ForeignKey("tenants.uid"), nullable=False),
    Column("url", String, nullable=False, unique=True),
    Column("audience", String, nullable=False),
    Column("jwks", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

signing_keys = _table(
    "signing_keys",
    Column("kid", String, primary_key=True),
    Column("pem", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("retired_at", UtcDateTime),
    Column("trusted_until", UtcDateTime),
)

recovery_keys = _table(
    "recovery_keys",
    # "installation", "pool/<uid>", "signing-key/<kid>" or "ledger-key/<kid>".
    Column("key_id", String, primary_key=True),
    Column("written_at", UtcDateTime, nullable=False),
)

operations = _table(
    "operations",
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

preemptions = _table(
    "preemptions",
    Column("operation_uid", String, primary_key=True),
    Column("resource_key", String, primary_key=True),
)
"""Resources, by id in lower case, to which a request newer than an operation in progress has written."""

deployments = _table(
    "deployments",
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

inert_resources = _table(
    "inert_resources",
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

# The targets of `inert_resources.refers_to` by id in lower case. A target cannot be deleted.
inert_references = _table(
    "inert_references",
    Column("inert_uid", ForeignKey("inert_resources.uid"), primary_key=True),
    Column("target_key", String, primary_key=True, index=True),
)

# The network interfaces of machines, by id in lower case. An interface need not exist.
machine_interfaces = _table(
    "machine_interfaces",
    Column("machine_uid", ForeignKey("machines.uid", ondelete="CASCADE"), primary_key=True),
    Column("target_key", String, primary_key=True, index=True),
    Column("deleted_with_machine", Boolean, nullable=False),
)

# The last start of each machine. The processes belong to one host.
machine_runs = _table(
    "machine_runs",
    Column("uid", ForeignKey("machines.uid", ondelete="CASCADE"), primary_key=True),
    Column("run_uid", String, nullable=False),
    Column("state", EnumText(PowerState), nullable=False),
    Column("host", String, nullable=False),
    Column("folder", String, nullable=False),
    Column("supervisor", String),
    Column("qemu", String),
    Column("servers", JSON, nullable=False),
    Column("accelerator", String),
    Column("forwards", JSON, nullable=False),
    Column("runs_as", String),
    Column("reason", String),
    Column("started_at", UtcDateTime, nullable=False),
    Column("lease_expires_at", UtcDateTime, nullable=False),
)

# Secrets of OS profiles for the first start. The revisions in the buckets do not contain the secrets.
machine_secrets = _table(
    "machine_secrets",
    Column("uid", ForeignKey("machines.uid", ondelete="CASCADE"), primary_key=True),
    Column("password_hash", String),
    Column("custom_data", String),
)

# Secrets of the OS profile of all instances of a scale set. The revisions in the buckets do not contain the secrets.
scale_set_secrets = _table(
    "scale_set_secrets",
    Column("uid", ForeignKey("scale_sets.uid", ondelete="CASCADE"), primary_key=True),
    Column("password_hash", String),
    Column("custom_data", String),
)

# Triggers add the rows (`engine/revision_triggers.py`).
revision_marks = _table(
    "revision_marks",
    Column("number", _SERIAL, primary_key=True),
    Column("kind", String, nullable=False),
    Column("uid", String, nullable=False),
    # The only region in which the revision is missing. Null means every region, or the slot of the resource.
    Column("region", String),
    # False if the background pass writes the revision. Otherwise the next command does.
    Column("is_urgent", Boolean, nullable=False),
    Index(None, "is_urgent"),
    # Revisions have the numbers, too, and a number is never reused.
    sqlite_autoincrement=True,
)

ledger_checkpoints = _table(
    "ledger_checkpoints",
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("mac", String, nullable=False),
)

ledger_leaves = _table(
    "ledger_leaves",
    # "ledger/<key>", "intervals/<uid>" or "price_lists/<uid>".
    Column("entry", String, primary_key=True),
    Column("position", BigInteger, nullable=False, unique=True),
    Column("hash", LargeBinary, nullable=False),
)

ledger_subtrees = _table(
    "ledger_subtrees",
    # 1 for subtrees of 256 leaves, 2 for 65,536 leaves, and so on.
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
)

ledger_heads = _table(
    "ledger_heads",
    # The root hash in base64, as in the note.
    Column("root", String, primary_key=True),
    Column("size", BigInteger, nullable=False, unique=True),
    Column("note", String, nullable=False),
)

ledger_keys = _table(
    "ledger_keys",
    Column("kid", String, primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("public_key", LargeBinary, nullable=False),
    # Null for a retired key, and after a rebuild without the key.
    Column("private_key", LargeBinary),
    Column("created_at", UtcDateTime, nullable=False),
    Column("retired_at", UtcDateTime),
    # A note of the previous key that names this key. Null for the first key, and after the loss of the previous key.
    Column("endorsement", String),
)
