"""Parts of lists on both engines: after a key, within a scope, since a time."""

from datetime import timedelta

from catalog_values import NOON, SUBSCRIPTION, disk, group, settle, uid

from imgstore.catalog import Catalog
from imgstore.domain.states import ProvisioningState

pytest_plugins = ["catalog_fixtures"]


def test_groups_after_a_name_and_subscriptions_with_groups(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        for name in ("b", "A", "c"):
            transaction.groups.add(group(name))
        transaction.groups.add(group("b", subscription="other"))
        assert [each.name for each in transaction.groups.list(SUBSCRIPTION)] == ["A", "b", "c"]
        assert [each.name for each in transaction.groups.list(SUBSCRIPTION, after="a", limit=1)] == ["b"]
        assert sorted(transaction.groups.subscriptions()) == sorted([SUBSCRIPTION, "other"])


def test_disks_after_a_name_and_uid(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        transaction.groups.add(group("two"))
        made = [disk(world.slot, uid=uid(), group=where, name=name) for where in ("rg", "two") for name in ("D1", "d2")]
        for each in made:
            transaction.disks.add(each)
        every = transaction.disks.list(SUBSCRIPTION)
        assert [each.name for each in every] == ["D1", "D1", "d2", "d2"]
        for number, each in enumerate(every):
            assert transaction.disks.list(SUBSCRIPTION, after=(each.name, each.uid)) == every[number + 1 :]
        assert (
            transaction.disks.list(SUBSCRIPTION, "two", limit=1) == [each for each in every if each.group == "two"][:1]
        )
        gone = disk(world.slot, uid=uid(), name="gone", provisioning_state=ProvisioningState.DELETING)
        transaction.disks.add(gone)
        assert transaction.disks.list(SUBSCRIPTION, visible=True) == every


def test_disks_of_a_version_and_region_since_a_time(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        world = settle(transaction)
        for minutes, region in ((0, "westus2"), (1, "westus2"), (2, "westus2"), (2, "eastus")):
            for version_uid in ("v", "w"):
                name, began = f"{version_uid}{minutes}{region}", NOON + timedelta(minutes=minutes)
                transaction.disks.add(
                    disk(
                        world.slot,
                        uid=uid(),
                        name=name,
                        location=region,
                        source_version_uid=version_uid,
                        created_at=began,
                    )
                )
        assert transaction.disks.count_created("v", "westus2", since=NOON + timedelta(minutes=1)) == 2
        assert transaction.disks.count_created("v", "northeurope", since=NOON) == 0


def test_activity_of_a_scope_since_a_time(catalog: Catalog) -> None:
    scopes = ["/a/RG", "/a/rg/b", "/a/rg_/b", "/a/rgx", "/", "/a/Öl/b"]
    with catalog.transaction() as transaction:
        for minutes, scope in enumerate(scopes):
            began = NOON + timedelta(minutes=minutes)
            transaction.activity.add(
                principal="p", action="a", scope=scope, outcome="Succeeded", detail=None,
                started_at=began, finished_at=began,
            )  # fmt: skip
        assert [each.scope for each in transaction.activity.list(9, scope="/A/rg")] == ["/a/rg/b", "/a/RG"]
        assert [each.scope for each in transaction.activity.list(9, scope="/a/rg_/")] == ["/a/rg_/b"]
        assert [each.scope for each in transaction.activity.list(9, since=NOON + timedelta(minutes=3))] == [
            "/a/Öl/b",
            "/",
            "/a/rgx",
        ]
        assert [each.scope for each in transaction.activity.list(9, scope="/A/Öl")] == ["/a/Öl/b"]
        assert len(transaction.activity.list(9, scope="/")) == len(scopes)
