"""Mark each change of a resource for a revision in the buckets, and mark all present resources.

Revision: 0035, after 0034.
"""

import sqlalchemy as sa
from alembic import op

from imgstore.catalog.engine.revision_triggers import (
    MarkedTable,
    install_region_trigger,
    install_triggers,
    mark_all_rows,
)

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None
oldest_code = "0032"

# A later migration with a new table installs the triggers of that table alone. This list never changes.
_TABLES = (
    MarkedTable(
        table="installation",
        kind="installation",
        identity=('uid',),
        loud=('id', 'subscription', 'created_at', 'outdated', 'keeps_unknown', 'records_every_zone'),
    ),
    MarkedTable(
        table="settings",
        kind="settings",
        identity=('key',),
        loud=('value', 'set_at'),
    ),
    MarkedTable(
        table="zones",
        kind="zones",
        identity=('region', 'zone'),
        loud=('uid', 'kind', 'place', 'recorded_at'),
    ),
    MarkedTable(
        table="tenants",
        kind="tenants",
        identity=('uid',),
        loud=('name', 'name_key', 'created_at'),
    ),
    MarkedTable(
        table="subscriptions",
        kind="subscriptions",
        identity=('subscription_key',),
        loud=('subscription', 'tenant_uid'),
    ),
    MarkedTable(
        table="principals",
        kind="principals",
        identity=('uid',),
        loud=('kind', 'tenant_uid', 'name', 'client_id', 'issuer', 'subject', 'created_at', 'token_generation', 'tokens_valid_after'),
    ),
    MarkedTable(
        table="role_assignments",
        kind="principals",
        identity=('principal_uid',),
        loud=('uid', 'role', 'scope', 'scope_key', 'created_at'),
    ),
    MarkedTable(
        table="secrets",
        kind="secrets",
        identity=('uid',),
        loud=('client_id', 'hint', 'hashed', 'created_at', 'expires_at'),
    ),
    MarkedTable(
        table="issuers",
        kind="issuers",
        identity=('uid',),
        loud=('tenant_uid', 'url', 'audience', 'jwks', 'created_at'),
    ),
    MarkedTable(
        table="groups",
        kind="groups",
        identity=('uid',),
        loud=('subscription', 'subscription_key', 'name', 'name_key', 'location', 'tags', 'created_at'),
    ),
    MarkedTable(
        table="pools",
        kind="pools",
        identity=('uid',),
        loud=('subscription', 'subscription_key', 'region'),
    ),
    MarkedTable(
        table="slots",
        kind="pools",
        identity=('pool_uid',),
        loud=('uid', 'region', 'storage_account_type', 'ordinal', 'zone', 'bucket'),
    ),
    MarkedTable(
        table="galleries",
        kind="galleries",
        identity=('uid',),
        loud=('group_uid', 'subscription_key', 'name', 'name_key', 'location', 'description', 'tags', 'pool_uid', 'created_at', 'soft_delete_enabled', 'soft_delete_retention_days', 'sharing_permission', 'sharing'),
    ),
    MarkedTable(
        table="definitions",
        kind="definitions",
        identity=('uid',),
        loud=('gallery_uid', 'name', 'name_key', 'location', 'publisher', 'offer', 'sku', 'identifier_key', 'os_type', 'os_state', 'hyper_v_generation', 'architecture', 'description', 'tags', 'created_at', 'eula', 'privacy_statement_uri', 'release_note_uri', 'end_of_life_at', 'vcpus_min', 'vcpus_max', 'memory_min_gib', 'memory_max_gib', 'disallowed_disk_types', 'plan_name', 'plan_publisher', 'plan_product', 'features', 'allow_update_image'),
    ),
    MarkedTable(
        table="machines",
        kind="machines",
        identity=('uid',),
        loud=('group_uid', 'name', 'name_key', 'location', 'tags', 'size', 'image_reference', 'os_type', 'hyper_v_generation', 'admin_username', 'computer_name', 'generalized', 'created_at', 'provisioning_state', 'kept'),
    ),
    MarkedTable(
        table="machine_interfaces",
        kind="machines",
        identity=('machine_uid',),
        loud=('target_key', 'deleted_with_machine'),
    ),
    MarkedTable(
        table="inert_resources",
        kind="network-records",
        identity=('uid',),
        loud=('group_uid', 'type', 'name', 'name_key', 'location', 'tags', 'body', 'parts', 'refers_to', 'created_at'),
    ),
    MarkedTable(
        table="inert_references",
        kind="network-records",
        identity=('inert_uid',),
        loud=('target_key',),
    ),
    MarkedTable(
        table="deployments",
        kind="deployments",
        identity=('uid',),
        loud=('group_uid', 'name', 'name_key', 'state', 'parameters', 'outputs', 'resources', 'error', 'started_at', 'finished_at'),
    ),
    MarkedTable(
        table="versions",
        kind="versions",
        identity=('uid',),
        loud=('definition_uid', 'major', 'minor', 'patch', 'location', 'target_regions', 'replica_count', 'exclude_from_latest', 'tags', 'published_at', 'provisioning_state', 'end_of_life_at', 'allow_deletion_of_replicated_locations', 'block_deletion_before_end_of_life', 'soft_deleted_at', 'hard_deletion_at', 'disks', 'replication_mode'),
    ),
    MarkedTable(
        table="replicas",
        kind="versions",
        identity=('version_uid',),
        loud=('uid', 'slot_uid', 'state', 'error', 'completed_at', 'attempts', 'retry_at', 'started_at'),
    ),
    MarkedTable(
        table="manifests",
        kind="versions",
        identity=('owner_uid',),
        loud=('uid', 'slot_uid', 'disk', 'digest', 'body_key', 'virtual_bytes', 'object_bytes', 'disk_digest', 'complete'), root="versions",
    ),
    MarkedTable(
        table="placements",
        kind="placements",
        identity=('version_uid',),
        loud=('region', 'turns'), is_urgent=False,
    ),
    MarkedTable(
        table="disks",
        kind="disks",
        identity=('uid',),
        loud=('group_uid', 'name', 'name_key', 'location', 'tags', 'source_version_uid', 'source_reference', 'replica', 'slot_uid', 'storage_account_type', 'virtual_bytes', 'disk_digest', 'created_at', 'provisioning_state', 'source_format', 'source_lun', 'kind', 'part', 'body_key', 'source_file_bytes', 'source_stamp', 'os_type', 'os_state', 'hyper_v_generation', 'managed_by', 'machine_lun', 'upload_bytes', 'kept'),
    ),
    MarkedTable(
        table="manifests",
        kind="disks",
        identity=('owner_uid',),
        loud=('uid', 'slot_uid', 'disk', 'digest', 'body_key', 'virtual_bytes', 'object_bytes', 'disk_digest', 'complete'), root="disks",
    ),
    MarkedTable(
        table="ledger",
        kind="ledger",
        identity=('key',),
        loud=('kind', 'subscription', 'subscription_key', 'group_name', 'gallery', 'definition', 'version', 'disk', 'source', 'target', 'replica', 'delivered_bytes', 'unit_price', 'amount', 'time'), is_urgent=False,
    ),
    MarkedTable(
        table="intervals",
        kind="intervals",
        identity=('uid',),
        loud=('subscription', 'subscription_key', 'group_name', 'gallery', 'definition', 'version', 'disk', 'owner_uid', 'slot_uid', 'region', 'replica', 'storage_account_type', 'stored_bytes', 'opened_at', 'closed_at'), is_urgent=False,
    ),
)
# The revisions of all other kinds are in each region. The background pass copies the checkpoints of the ledger.
_ELSEWHERE = ("versions", "disks", "ledger", "intervals")


def upgrade() -> None:
    op.create_table(
        "revision_marks",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("region", sa.String(), nullable=True),
        sa.Column("is_urgent", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_revision_marks")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_revision_marks_is_urgent"), "revision_marks", ["is_urgent"])
    op.create_table(
        "ledger_checkpoints",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("mac", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_ledger_checkpoints")),
    )
    connection = op.get_bind()
    install_triggers(connection, _TABLES)
    roots = {each.kind: each for each in reversed(_TABLES) if each.kind not in _ELSEWHERE}
    install_region_trigger(connection, list(roots.values()))
    mark_all_rows(connection, _TABLES)
