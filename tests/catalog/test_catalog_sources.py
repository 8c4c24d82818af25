"""Disks, snapshots and disks of managed images in one table, pools of subscriptions, and manifests by content."""

import pytest
from catalog_values import SUBSCRIPTION, disk, manifest, settle, slot, uid

from imgstore.catalog import Catalog
from imgstore.domain.disks.sources import SourceIdentity
from imgstore.domain.errors import Conflict
from imgstore.domain.resources import DiskKind, HyperVGeneration, OsProperties, OsState, OsType, Pool
from imgstore.domain.storage.digests import digest_of

pytest_plugins = ["catalog_fixtures"]


def test_disks_of_every_kind_share_a_table_and_not_their_names(catalog: Catalog) -> None:
    said = OsProperties(os_type=OsType.LINUX, os_state=OsState.SPECIALIZED, hyper_v_generation=HyperVGeneration.V2)
    source = SourceIdentity(location="/srv/d.vhd", file_bytes=512, stamp="7")
    with catalog.transaction() as transaction:
        world = settle(transaction)
        plain = disk(world.slot, "x")
        snapshot = disk(
            world.slot,
            "X",
            kind=DiskKind.SNAPSHOT,
            source_version_uid=None,
            source_reference=source.location,
            source=source,
            os_properties=said,
        )
        parts = [disk(world.slot, "x", kind=DiskKind.IMAGE, disk_key=part) for part in ("os", "lun-0")]
        for each in (plain, snapshot, *parts):
            transaction.disks.add(each)
        assert transaction.disks.get(SUBSCRIPTION, "rg", "x", DiskKind.SNAPSHOT) == snapshot
        assert transaction.disks.get(SUBSCRIPTION, "rg", "X") == plain
        assert transaction.disks.get(SUBSCRIPTION, "rg", "x", DiskKind.IMAGE, "lun-0") == parts[1]
        assert transaction.disks.list(SUBSCRIPTION, "rg") == [plain]
        found = transaction.disks.list(SUBSCRIPTION, "rg", DiskKind.IMAGE, "X")
        assert sorted(each.disk_key for each in found) == ["lun-0", "os"]
        assert {each.uid for each in transaction.disks.in_slot(world.slot.uid)} == {
            each.uid for each in (plain, snapshot, *parts)
        }
        above = transaction.groups.get(SUBSCRIPTION, "rg")
        assert above is not None
        assert transaction.groups.children(above.uid) == ["disks/x", "images/x", "snapshots/X", "galleries/myGallery"]
    with pytest.raises(Conflict), catalog.transaction() as transaction:
        transaction.disks.add(disk(world.slot, "X", kind=DiskKind.IMAGE, disk_key="lun-0"))


def test_a_subscription_has_one_pool_a_region(catalog: Catalog) -> None:
    def asked(region: str, subscription: str = SUBSCRIPTION) -> Pool:
        return Pool(uid=uid(), fingerprint_key=bytes(32), subscription=subscription, region=region)

    # Invariant S1.
    with catalog.transaction() as transaction:
        settle(transaction)
        first = asked("westus2")
        assert transaction.pools.get_or_add(first) == first
        assert transaction.pools.get_or_add(asked("westus2", SUBSCRIPTION.upper())) == first
        other = asked("eastus")
        assert transaction.pools.get_or_add(other) == other
        assert [pool for pool in transaction.pools.list() if pool.subscription] == sorted(
            [first, other], key=lambda pool: pool.uid
        )


def test_manifests_are_found_by_their_content(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        row = manifest(world.slot.uid, body_key="manifests/v/os", digest=digest_of(b"m"))
        transaction.manifests.add(row)
        assert transaction.manifests.find_by_body(world.slot.uid, "manifests/v/os") is None, "it is not complete"
        transaction.manifests.complete(row.uid)
        assert transaction.manifests.find_by_body(world.slot.uid, "manifests/v/os") == row
        assert transaction.manifests.find_by_digest(world.slot.uid, digest_of(b"m")) == row
        assert transaction.manifests.find_by_digest(world.slot.uid, digest_of(b"n")) is None


def test_manifest_of_the_owner_of_a_content_is_preferred(catalog: Catalog) -> None:
    """The order of uids does not matter. A disk that only refers to the content is not pinned."""
    with catalog.transaction() as transaction:
        world = settle(transaction)
        own, *others = (
            manifest(world.slot.uid, uid=uid, owner_uid=owner, body_key="manifests/v/os")
            for uid, owner in (("m", "v"), ("a", "d1"), ("z", "d2"))
        )
        for row in (own, *others):
            transaction.manifests.add(row)
            transaction.manifests.complete(row.uid)
        assert transaction.manifests.find_by_body(world.slot.uid, "manifests/v/os") == own
        transaction.manifests.delete(own.uid)
        assert transaction.manifests.find_by_body(world.slot.uid, "manifests/v/os") in others


def test_equal_content_is_found_in_all_slots_of_the_pool(catalog: Catalog) -> None:
    """The damage of a Shallow version is repaired from equal content of any owner."""
    content = digest_of(b"content")
    with catalog.transaction() as transaction:
        world, stranger = settle(transaction), settle(transaction, "theirs")
        beside = slot(transaction, world.pool.uid, "eastus")
        source = manifest(world.slot.uid, body_key="manifests/disk/os", digest=content)
        shallow = manifest(world.slot.uid, body_key="manifests/version/os", digest=content)
        elsewhere = manifest(beside.uid, body_key="manifests/version/os", digest=content)
        unfinished = manifest(beside.uid, body_key="manifests/late/os", digest=content)
        another = manifest(world.slot.uid, body_key="manifests/other/os", digest=digest_of(b"another"))
        outside = manifest(stranger.slot.uid, body_key="manifests/version/os", digest=content)
        for row in (source, shallow, elsewhere, unfinished, another, outside):
            transaction.manifests.add(row)
            if row is not unfinished:
                transaction.manifests.complete(row.uid)
        found = transaction.manifests.list_with_digest(world.pool.uid, content)
        assert {each.uid for each in found} == {source.uid, shallow.uid, elsewhere.uid}
        assert transaction.manifests.list_with_digest(stranger.pool.uid, content) == [outside]
        assert transaction.manifests.list_with_digest(world.pool.uid, digest_of(b"nobody's")) == []
        first = transaction.manifests.find_by_digest(world.slot.uid, content)
        assert first in (source, shallow)
        assert first == min((source, shallow), key=lambda row: row.uid), "one of two, the same each time"
        transaction.manifests.delete(source.uid)
        assert transaction.manifests.find_by_digest(world.slot.uid, content) == shallow
