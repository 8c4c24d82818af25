"""All fields of galleries and definitions on both engines, with counts, lists and the upgrade from revision 0001."""

from dataclasses import replace

import pytest
from catalog_values import NOON, POOLED_ENGINES, SUBSCRIPTION, definition, gallery, group, settle, uid, version
from sqlalchemy import MetaData

from imgstore.catalog import Catalog
from imgstore.domain.disks.sources import SourceIdentity
from imgstore.domain.disks.version_disks import VersionDisk
from imgstore.domain.effects import Effects
from imgstore.domain.errors import NotFound
from imgstore.domain.names import VersionName
from imgstore.domain.resources import (
    Architecture,
    DiskKind,
    DiskType,
    Feature,
    OsProperties,
    PurchasePlan,
    RecommendedRange,
)
from imgstore.domain.states import ProvisioningState
from tests.support.older_catalog import older_catalog

pytest_plugins = ["catalog_fixtures"]


def test_all_fields_of_a_definition_and_a_gallery_are_read_back(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        made = definition(
            world.gallery.uid,
            "full",
            architecture=Architecture.ARM64,
            eula="e",
            privacy_statement_uri="p",
            release_note_uri="r",
            end_of_life_at=NOON,
            recommended_vcpus=RecommendedRange(min=1, max=4),
            recommended_memory_gib=RecommendedRange(max=8),
            disallowed_disk_types=(DiskType.ULTRA_SSD_LRS, DiskType.PREMIUM_LRS),
            purchase_plan=PurchasePlan(product="x"),
            features=(Feature(name="b", value="1", starts_at_version="1.0.0"), Feature(name="a", value="ä")),
            allow_update_image=True,
        )
        transaction.definitions.add(made)
        policy = replace(world.gallery, soft_delete_enabled=True, soft_delete_retention_days=30)
        transaction.galleries.update(policy)
    with catalog.transaction() as transaction:
        assert transaction.definitions.get_for_update(made.uid) == made
        assert transaction.galleries.get_for_update(policy.uid) == policy
        for held in (transaction.definitions.get_for_update, transaction.galleries.get_for_update):
            with pytest.raises(NotFound):
                held(uid())


def test_counts_belong_to_a_subscription_and_region(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        transaction.groups.add(group("theirs", subscription="other"))
        transaction.galleries.add(gallery(world.pool.uid, "g2", location="eastus"))
        transaction.galleries.add(gallery(world.pool.uid, "g3", subscription="other", group="theirs"))
        transaction.definitions.add(definition(world.gallery.uid, "d2"))
        transaction.definitions.add(definition(world.gallery.uid, "d3", location="eastus"))
        transaction.versions.add(version(world.definition.uid, "2.0.0"))
        transaction.versions.add(version(world.definition.uid, "3.0.0", location="eastus"))
    with catalog.transaction() as transaction:
        counts = [(each.count(SUBSCRIPTION.upper(), "westus2"), each.count(SUBSCRIPTION, "eastus"),
                   each.count("other", "westus2")) for each in (transaction.galleries, transaction.definitions, transaction.versions)]  # fmt: skip
    assert counts == [(1, 1, 1), (2, 1, 0), (2, 1, 0)]


def test_lists_continue_after_a_key(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        transaction.groups.add(group("rg2"))
        for name, where in (("Beta", "rg2"), ("alpha", "rg"), ("zeta", "rg2")):
            transaction.galleries.add(gallery(world.pool.uid, name, group=where))
        for name in ("Debian", "arch", "zorin"):
            transaction.definitions.add(definition(world.gallery.uid, name))
        deleted = version(world.definition.uid, "1.5.0", provisioning_state=ProvisioningState.DELETING)
        for each in (deleted, version(world.definition.uid, "2.0.0"), version(world.definition.uid, "10.0.0")):
            transaction.versions.add(each)
    with catalog.reading() as transaction:
        found = transaction.galleries.list(SUBSCRIPTION, after="ALPHA", limit=2)
        assert [each.name for each in found] == ["Beta", "myGallery"]
        assert [each.name for each in transaction.galleries.list(SUBSCRIPTION, "rg2", after="beta")] == ["zeta"]
        listed = transaction.definitions.list(world.gallery.uid, after="debian", limit=1)
        assert [each.name for each in listed] == ["ubuntu"]
        page = transaction.versions.list(world.definition.uid, after=VersionName(1, 0, 0), limit=1, visible=True)
        assert [str(each.name) for each in page] == ["2.0.0"]
        replicas = transaction.replicas.list_by_version([world.version.uid, deleted.uid])
        assert replicas == {world.version.uid: transaction.replicas.list(world.version.uid), deleted.uid: []}
        assert transaction.replicas.list_by_version([]) == {}


def test_migration_moves_the_only_disk_of_a_version_to_its_os_disk(catalog_url: str) -> None:
    """Upgrade a catalog of revision 0005 with a complete and an incomplete version."""
    with older_catalog(catalog_url, "0005") as session:
        old = MetaData()
        old.reflect(session.connection)
        common = {"name": "deb", "name_key": "deb", "location": "westus2", "tags": {}, "created_at": NOON}
        values: dict[str, dict[str, object]] = {
            "groups": {"uid": "g", "subscription": "s", "subscription_key": "s", **common},
            "pools": {"uid": "p", "fingerprint_key": b""},
            "galleries": {"uid": "y", "group_uid": "g", "subscription_key": "s", "pool_uid": "p", **common},
            "definitions": {
                "uid": "d", "gallery_uid": "y", "publisher": "p", "offer": "o", "sku": "s", "identifier_key": "p/o/s",
                "os_type": "Linux", "os_state": "Generalized", "hyper_v_generation": "V1", "architecture": "x64",
                **common,
            },
        }  # fmt: skip
        for table, row in values.items():
            session.connection.execute(old.tables[table].insert(), row)
        version_row = {
            "definition_uid": "d", "major": 1, "patch": 0, "location": "westus2", "target_regions": [],
            "replica_count": 1, "exclude_from_latest": False, "tags": {}, "source_location": "/srv/a.vhd",
            "source_file_bytes": 1 << 40, "source_stamp": "17", "published_at": NOON, "provisioning_state": "Succeeded",
        }  # fmt: skip
        known = {"source_sha256": "ab" * 32, "virtual_bytes": 1 << 40, "disk_digest": bytes(range(32))}
        unknown = dict.fromkeys(known)
        session.connection.execute(
            old.tables["versions"].insert(),
            [{"uid": "v0", "minor": 0, **version_row, **known}, {"uid": "v1", "minor": 1, **version_row, **unknown}],
        )
    catalog = Catalog.open(catalog_url, Effects())
    try:
        with catalog.reading() as transaction:
            source = SourceIdentity(location="/srv/a.vhd", file_bytes=1 << 40, stamp="17")
            whole = VersionDisk(
                source=source, source_sha256="ab" * 32, virtual_bytes=1 << 40, disk_digest=bytes(range(32))
            )
            assert [each.disks for each in transaction.versions.list("d")] == [(whole,), (VersionDisk(source=source),)]
    finally:
        catalog.close()


@pytest.mark.parametrize("catalog_url", POOLED_ENGINES, indirect=True)
def test_catalog_of_revision_0001_is_upgraded_with_its_rows(catalog_url: str) -> None:
    with older_catalog(catalog_url, "0001") as session:
        at = f"{NOON:%Y-%m-%d %H:%M:%S.%f}{'' if session.is_sqlite else '+00'}"
        values = {
            "groups": {"uid": "g", "subscription": "s", "subscription_key": "s"},
            "pools": {"uid": "p", "fingerprint_key": ""},
            "galleries": {"uid": "y", "group_uid": "g", "subscription_key": "s", "pool_uid": "p"},
            "definitions": {
                "uid": "d", "gallery_uid": "y", "publisher": "p", "offer": "o", "sku": "s", "identifier_key": "p/o/s",
                "os_type": "Linux", "os_state": "Generalized", "hyper_v_generation": "V1", "architecture": "x64",
            },
        }  # fmt: skip
        values |= {
            "slots": {
                "uid": "t", "pool_uid": "p", "region": "westus2", "storage_account_type": "Standard_LRS",
                "ordinal": "0", "zone": "1", "bucket": "b",
            },
            "disks": {
                "uid": "k", "group_uid": "g", "source_version_uid": "v", "source_reference": "/x", "replica": "0",
                "slot_uid": "t", "storage_account_type": "Standard_LRS", "virtual_bytes": "1", "disk_digest": "",
                "provisioning_state": "Succeeded", "source_format": "raw",
            },
        }  # fmt: skip
        common = {"name": "deb", "name_key": "deb", "location": "westus2", "tags": "{}", "created_at": at}
        for table, its in values.items():
            row = its | ({} if table in ("pools", "slots") else common)
            told = ", ".join(f"'{value}'" for value in row.values())
            session.connection.exec_driver_sql(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({told})")
    with_all = Catalog.open(catalog_url, Effects())
    try:
        with with_all.reading() as transaction:
            found = transaction.galleries.by_uid("y")
            assert (found.soft_delete_enabled, found.soft_delete_retention_days) == (False, 7)
            assert transaction.definitions.by_uid("d") == definition(
                "y", "deb", uid="d", publisher="p", offer="o", sku="s", location="westus2"
            )
            disk = transaction.disks.by_uid("k")
            assert (disk.kind, disk.disk_key, disk.body_key) == (DiskKind.DISK, "os", "manifests/v/os")
            assert (disk.source_version_uid, disk.source, disk.os_properties) == ("v", None, OsProperties())
            assert transaction.pools.get("p").subscription is None
    finally:
        with_all.close()
