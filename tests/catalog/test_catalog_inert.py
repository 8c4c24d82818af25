"""Inert resources on both engines: found in any case, listed by name, and known by whom they are named."""

import importlib
from dataclasses import replace

from alembic.migration import MigrationContext
from alembic.operations import Operations
from catalog_values import group, uid
from test_catalog_machines import machine

from imgstore.catalog import Catalog
from imgstore.domain.network_records import InertContent, InertResource

pytest_plugins = ["catalog_fixtures"]

NET, NIC = "Microsoft.Network/virtualNetworks", "Microsoft.Network/networkInterfaces"


def test_they_are_found_and_know_who_names_them(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        above = group()
        transaction.groups.add(above)
        transaction.inert.lock(above.subscription)

        def made(kind: str, name: str, content: InertContent) -> InertResource:
            one = InertResource(
                uid=uid(),
                subscription=above.subscription,
                group=above.name,
                type=kind,
                name=name,
                content=content,
                created_at=transaction.now(),
            )
            transaction.inert.add(one)
            return one

        net = made(NET, "Net", InertContent(location="eastus", tags={"a": "b"}, parts=("subnets/s",)))
        subnet = f"{net.resource_id}/subnets/s".lower()
        nic = made(NIC, "net", InertContent(location="eastus", body={"x": [1]}, references=(subnet, subnet)))
        other = made(NIC, "other", InertContent(location="eastus"))
        assert transaction.inert.get(above.subscription, above.name.upper(), NET, "nET") == net
        assert transaction.inert.get(above.subscription, above.name, NIC, "net") == nic
        assert transaction.inert.list(above.subscription, NIC) == [nic, other]
        assert transaction.inert.list(above.subscription, NIC, after=("NET", nic.uid), limit=1) == [other]
        assert transaction.inert.list(above.subscription, NIC, "nowhere") == []
        assert transaction.inert.naming([subnet.upper()], but=[]) == nic
        assert transaction.inert.naming([subnet], but=[nic.uid]) is None
        changed = replace(nic, content=replace(nic.content, references=()))
        transaction.inert.update(changed)
        assert transaction.inert.get(above.subscription, above.name, NIC, "net") == changed
        assert transaction.inert.naming([subnet], but=[]) is None
        transaction.inert.update(nic)
        transaction.inert.delete(nic.uid)
        assert transaction.inert.naming([subnet], but=[]) is None
        transaction.inert.update(replace(other, content=nic.content))
        transaction.inert.remove_all(above.uid)
        assert transaction.inert.list(above.subscription, NIC) == transaction.inert.list(above.subscription, NET) == []
        transaction.groups.delete(above.uid)


def test_machines_name_interfaces(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        above = group()
        transaction.groups.add(above)
        first, second = machine("m1", above.name), machine("m2", above.name)
        for each in (first, second):
            transaction.machines.add(each)
        transaction.inert.attach(first.uid, {"/NIC1": True, "/nic1": True, "/nic2": False})
        transaction.inert.attach(second.uid, {"/nic2": False})
        assert transaction.inert.machines_of(["/Nic1", "/nic2", "/nic3"]) == {
            "/nic1": first.resource_id,
            "/nic2": first.resource_id,
        }
        assert transaction.inert.going_with(first.uid) == ["/nic1"]
        transaction.inert.attach(first.uid, {"/nic3": True})
        assert transaction.inert.going_with(first.uid) == ["/nic3"]
        transaction.machines.delete(first.uid)
        assert transaction.inert.machines_of(["/nic1", "/nic2", "/nic3"]) == {"/nic2": second.resource_id}


def test_references_of_older_code_to_other_groups_are_dropped(catalog: Catalog) -> None:
    """They were stored without the right to join, and would keep the owner of what they name from deleting it."""
    migration = importlib.import_module("imgstore.catalog.migrations.versions.0027_unproven_references")
    with catalog.transaction() as transaction:
        mine, other = group("mine"), group("Other")
        vm = machine("m", other.name)
        for each in (mine, other):
            transaction.groups.add(each)
        transaction.machines.add(vm)
        for each in (mine, other):
            top = f"/subscriptions/{each.subscription}/resourceGroups".lower()
            net, near = (f"{top}/{name}/providers/microsoft.network/virtualnetworks/n" for name in ("mine", "other"))
            one = InertResource(
                uid=uid(),
                subscription=each.subscription,
                group=each.name,
                type=NIC,
                name="nic",
                content=InertContent(location="eastus", references=(net, near)),
                created_at=transaction.now(),
            )
            transaction.inert.add(one)
        transaction.inert.attach(vm.uid, {net: True, near: False})
        with Operations.context(MigrationContext.configure(transaction._session.connection)):
            migration.upgrade()
        found = {each.group: each.content.references for each in transaction.inert.list(mine.subscription, NIC)}
        assert found == {"mine": (net,), "Other": (near,)}
        naming = [transaction.inert.naming([each], but=[]) for each in (net, near)]
        assert [None if each is None else each.group for each in naming] == ["mine", "Other"]
        assert transaction.inert.interfaces_of(vm.uid) == {near}
