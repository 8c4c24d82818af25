"""Create the tables of the first catalog.

Revision: 0001, after none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "activity",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("principal", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_activity")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "groups",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("subscription", sa.String(), nullable=False),
        sa.Column("subscription_key", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("name_key", sa.String(), nullable=False),
        sa.Column("location", sa.String(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_groups")),
        sa.UniqueConstraint("subscription_key", "name_key", name=op.f("uq_groups_subscription_key_name_key")),
    )
    op.create_table(
        "installation",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("subscription", sa.String(), nullable=False),
        sa.Column("hmac_key", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_installation_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_installation")),
    )
    op.create_table(
        "intervals",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("subscription", sa.String(), nullable=False),
        sa.Column("subscription_key", sa.String(), nullable=False),
        sa.Column("group_name", sa.String(), nullable=False),
        sa.Column("gallery", sa.String(), nullable=True),
        sa.Column("definition", sa.String(), nullable=True),
        sa.Column("version", sa.String(), nullable=True),
        sa.Column("disk", sa.String(), nullable=True),
        sa.Column("owner_uid", sa.String(), nullable=False),
        sa.Column("slot_uid", sa.String(), nullable=False),
        sa.Column("region", sa.String(), nullable=False),
        sa.Column("replica", sa.Integer(), nullable=False),
        sa.Column("storage_account_type", sa.String(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_intervals")),
    )
    op.create_index(op.f("ix_intervals_slot_uid"), "intervals", ["slot_uid"], unique=False)
    op.create_index(op.f("ix_intervals_subscription_key"), "intervals", ["subscription_key"], unique=False)
    op.create_table(
        "ledger",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subscription", sa.String(), nullable=False),
        sa.Column("subscription_key", sa.String(), nullable=False),
        sa.Column("group_name", sa.String(), nullable=False),
        sa.Column("gallery", sa.String(), nullable=True),
        sa.Column("definition", sa.String(), nullable=True),
        sa.Column("version", sa.String(), nullable=True),
        sa.Column("disk", sa.String(), nullable=True),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("replica", sa.Integer(), nullable=False),
        sa.Column("delivered_bytes", sa.BigInteger(), nullable=False),
        sa.Column("unit_price", sa.String(), nullable=False),
        sa.Column("amount", sa.String(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_ledger")),
    )
    op.create_index(op.f("ix_ledger_subscription_key"), "ledger", ["subscription_key"], unique=False)
    op.create_table(
        "pools",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("fingerprint_key", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_pools")),
    )
    op.create_table(
        "galleries",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("group_uid", sa.String(), nullable=False),
        sa.Column("subscription_key", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("name_key", sa.String(), nullable=False),
        sa.Column("location", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=True),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("pool_uid", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["group_uid"], ["groups.uid"], name=op.f("fk_galleries_group_uid")),
        sa.ForeignKeyConstraint(["pool_uid"], ["pools.uid"], name=op.f("fk_galleries_pool_uid")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_galleries")),
        sa.UniqueConstraint("subscription_key", "name_key", name=op.f("uq_galleries_subscription_key_name_key")),
    )
    op.create_index(op.f("ix_galleries_group_uid"), "galleries", ["group_uid"], unique=False)
    op.create_table(
        "segments",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("pool_uid", sa.String(), nullable=False),
        sa.Column("name", sa.LargeBinary(), nullable=False),
        sa.Column("blocks", sa.Integer(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.Column("checksum", sa.String(), nullable=True),
        sa.Column("work_uid", sa.String(), nullable=False),
        sa.CheckConstraint("id > 0 AND id < 4294967296", name=op.f("ck_segments_u32")),
        sa.ForeignKeyConstraint(["pool_uid"], ["pools.uid"], name=op.f("fk_segments_pool_uid")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_segments")),
        sa.UniqueConstraint("pool_uid", "name", name=op.f("uq_segments_pool_uid_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "slots",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("pool_uid", sa.String(), nullable=False),
        sa.Column("region", sa.String(), nullable=False),
        sa.Column("storage_account_type", sa.String(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("zone", sa.String(), nullable=False),
        sa.Column("bucket", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["pool_uid"], ["pools.uid"], name=op.f("fk_slots_pool_uid")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_slots")),
        sa.UniqueConstraint(
            "pool_uid",
            "region",
            "storage_account_type",
            "ordinal",
            name=op.f("uq_slots_pool_uid_region_storage_account_type_ordinal"),
        ),
    )
    op.create_table(
        "definitions",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("gallery_uid", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("name_key", sa.String(), nullable=False),
        sa.Column("location", sa.String(), nullable=False),
        sa.Column("publisher", sa.String(), nullable=False),
        sa.Column("offer", sa.String(), nullable=False),
        sa.Column("sku", sa.String(), nullable=False),
        sa.Column("identifier_key", sa.String(), nullable=False),
        sa.Column("os_type", sa.String(), nullable=False),
        sa.Column("os_state", sa.String(), nullable=False),
        sa.Column("hyper_v_generation", sa.String(), nullable=False),
        sa.Column("architecture", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=True),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["gallery_uid"], ["galleries.uid"], name=op.f("fk_definitions_gallery_uid")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_definitions")),
        sa.UniqueConstraint("gallery_uid", "identifier_key", name=op.f("uq_definitions_gallery_uid_identifier_key")),
        sa.UniqueConstraint("gallery_uid", "name_key", name=op.f("uq_definitions_gallery_uid_name_key")),
    )
    op.create_table(
        "disks",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("group_uid", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("name_key", sa.String(), nullable=False),
        sa.Column("location", sa.String(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("source_version_uid", sa.String(), nullable=False),
        sa.Column("source_reference", sa.String(), nullable=False),
        sa.Column("replica", sa.Integer(), nullable=False),
        sa.Column("slot_uid", sa.String(), nullable=False),
        sa.Column("storage_account_type", sa.String(), nullable=False),
        sa.Column("virtual_bytes", sa.BigInteger(), nullable=False),
        sa.Column("disk_digest", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("provisioning_state", sa.String(), nullable=False),
        sa.Column("source_format", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["group_uid"], ["groups.uid"], name=op.f("fk_disks_group_uid")),
        sa.ForeignKeyConstraint(["slot_uid"], ["slots.uid"], name=op.f("fk_disks_slot_uid")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_disks")),
        sa.UniqueConstraint("group_uid", "name_key", name=op.f("uq_disks_group_uid_name_key")),
    )
    op.create_index(op.f("ix_disks_slot_uid"), "disks", ["slot_uid"], unique=False)
    op.create_index(op.f("ix_disks_source_version_uid"), "disks", ["source_version_uid"], unique=False)
    op.create_table(
        "manifests",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("slot_uid", sa.String(), nullable=False),
        sa.Column("owner_uid", sa.String(), nullable=False),
        sa.Column("disk", sa.String(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("body_key", sa.String(), nullable=False),
        sa.Column("virtual_bytes", sa.BigInteger(), nullable=False),
        sa.Column("object_bytes", sa.BigInteger(), nullable=False),
        sa.Column("disk_digest", sa.LargeBinary(), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("segment_ids", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["slot_uid"], ["slots.uid"], name=op.f("fk_manifests_slot_uid")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_manifests")),
        sa.UniqueConstraint("owner_uid", "slot_uid", "disk", name=op.f("uq_manifests_owner_uid_slot_uid_disk")),
    )
    op.create_index(op.f("ix_manifests_slot_uid_body_key"), "manifests", ["slot_uid", "body_key"], unique=False)
    op.create_table(
        "works",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("slot_uid", sa.String(), nullable=False),
        sa.Column("owner_uid", sa.String(), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("holder", sa.String(), nullable=True),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["slot_uid"], ["slots.uid"], name=op.f("fk_works_slot_uid")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_works")),
    )
    op.create_index(op.f("ix_works_slot_uid"), "works", ["slot_uid"], unique=False)
    op.create_index(
        "uq_works_open",
        "works",
        ["kind", "slot_uid", "owner_uid"],
        unique=True,
        sqlite_where=sa.text("state = 'Open'"),
        postgresql_where=sa.text("state = 'Open'"),
    )
    op.create_table(
        "versions",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("definition_uid", sa.String(), nullable=False),
        sa.Column("major", sa.Integer(), nullable=False),
        sa.Column("minor", sa.Integer(), nullable=False),
        sa.Column("patch", sa.Integer(), nullable=False),
        sa.Column("location", sa.String(), nullable=False),
        sa.Column("target_regions", sa.JSON(), nullable=False),
        sa.Column("replica_count", sa.Integer(), nullable=False),
        sa.Column("exclude_from_latest", sa.Boolean(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("source_location", sa.String(), nullable=False),
        sa.Column("source_file_bytes", sa.BigInteger(), nullable=False),
        sa.Column("source_stamp", sa.String(), nullable=False),
        sa.Column("source_sha256", sa.String(), nullable=True),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("provisioning_state", sa.String(), nullable=False),
        sa.Column("virtual_bytes", sa.BigInteger(), nullable=True),
        sa.Column("disk_digest", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["definition_uid"], ["definitions.uid"], name=op.f("fk_versions_definition_uid")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_versions")),
        sa.UniqueConstraint(
            "definition_uid", "major", "minor", "patch", name=op.f("uq_versions_definition_uid_major_minor_patch")
        ),
    )
    op.create_table(
        "work_pins",
        sa.Column("work_uid", sa.String(), nullable=False),
        sa.Column("manifest_uid", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["manifest_uid"], ["manifests.uid"], name=op.f("fk_work_pins_manifest_uid")),
        sa.ForeignKeyConstraint(["work_uid"], ["works.uid"], name=op.f("fk_work_pins_work_uid")),
        sa.PrimaryKeyConstraint("work_uid", "manifest_uid", name=op.f("pk_work_pins")),
    )
    op.create_index(op.f("ix_work_pins_manifest_uid"), "work_pins", ["manifest_uid"], unique=False)
    op.create_table(
        "placements",
        sa.Column("version_uid", sa.String(), nullable=False),
        sa.Column("region", sa.String(), nullable=False),
        sa.Column("turns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_uid"], ["versions.uid"], name=op.f("fk_placements_version_uid"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("version_uid", "region", name=op.f("pk_placements")),
    )
    op.create_table(
        "replicas",
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("version_uid", sa.String(), nullable=False),
        sa.Column("slot_uid", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("bytes_done", sa.BigInteger(), nullable=False),
        sa.Column("bytes_total", sa.BigInteger(), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["slot_uid"], ["slots.uid"], name=op.f("fk_replicas_slot_uid")),
        sa.ForeignKeyConstraint(["version_uid"], ["versions.uid"], name=op.f("fk_replicas_version_uid")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_replicas")),
    )
    op.create_index(op.f("ix_replicas_slot_uid"), "replicas", ["slot_uid"], unique=False)
    op.create_index(op.f("ix_replicas_version_uid"), "replicas", ["version_uid"], unique=False)
    op.create_index(
        "uq_replicas_living",
        "replicas",
        ["version_uid", "slot_uid"],
        unique=True,
        sqlite_where=sa.text("state <> 'Deleting'"),
        postgresql_where=sa.text("state <> 'Deleting'"),
    )
