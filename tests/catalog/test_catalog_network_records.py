"""Network records on both engines: lookups without case, lists by name, and references."""

import importlib
from dataclasses import replace

from alembic.migration import MigrationContext
from alembic.operations import Operations
from catalog_values import group, uid
from test_catalog_machines import machine

from imgstore.catalog import Catalog
from imgstore.domain.network_records import NetworkContent, NetworkRecord

pytest_plugins = ["catalog_fixtures"]

NET, NIC = "Microsoft.Network/virtualNetworks", "Microsoft.Network/networkInterfaces"


def test_network_records_and_their_references_are_found(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        above = group()
        transaction.groups.add(above)
        transaction.network_records.lock(above.subscription)

        def made(kind: str, name: str, content: NetworkContent) -> NetworkRecord:
            one = NetworkRecord(
                uid=uid(),
                subscription=above.subscription,
                group=above.name,
                type=kind,
                name=name,
                content=content,
                created_at=transaction.now(),
            )
            transaction.network_records.add(one)
            return one

        net = made(NET, "Net", NetworkContent(location="eastus", tags={"a": "b"}, parts=("subnets/s",)))
        subnet = f"{net.resource_id}/subnets/s".lower()
        nic = made(NIC, "net", NetworkContent(location="eastus", body={"x": [1]}, references=(subnet, subnet)))
        other = made(NIC, "other", NetworkContent(location="eastus"))
        assert transaction.network_records.get(above.subscription, above.name.upper(), NET, "nET") == net
        assert transaction.network_records.get(above.subscription, above.name, NIC, "net") == nic
        assert transaction.network_records.list(above.subscription, NIC) == [nic, other]
        assert transaction.network_records.list(above.subscription, NIC, after=("NET", nic.uid), limit=1) == [other]
        assert transaction.network_records.list(above.subscription, NIC, "nowhere") == []
        assert transaction.network_records.find_referrer([subnet.upper()], but=[]) == nic
        assert transaction.network_records.find_referrer([subnet], but=[nic.uid]) is None
        changed = replace(nic, content=replace(nic.content, references=()))
        transaction.network_records.update(changed)
        assert transaction.network_records.get(above.subscription, above.name, NIC, "net") == changed
        assert transaction.network_records.find_referrer([subnet], but=[]) is None
        transaction.network_records.update(nic)
        transaction.network_records.delete(nic.uid)
        assert transaction.network_records.find_referrer([subnet], but=[]) is None
        transaction.network_records.update(replace(other, content=nic.content))
        transaction.network_records.remove_in_group(above.uid)
        assert (
            transaction.network_records.list(above.subscription, NIC)
            == transaction.network_records.list(above.subscription, NET)
            == []
        )
        transaction.groups.delete(above.uid)


def test_machines_refer_to_interfaces(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        above = group()
        transaction.groups.add(above)
        first, second = machine("m1", above.name), machine("m2", above.name)
        for each in (first, second):
            transaction.machines.add(each)
        transaction.network_records.set_interfaces(first.uid, {"/NIC1": True, "/nic1": True, "/nic2": False})
        transaction.network_records.set_interfaces(second.uid, {"/nic2": False})
        assert transaction.network_records.find_machines(["/Nic1", "/nic2", "/nic3"]) == {
            "/nic1": first.resource_id,
            "/nic2": first.resource_id,
        }
        assert transaction.network_records.list_deleted_with_machine(first.uid) == ["/nic1"]
        transaction.network_records.set_interfaces(first.uid, {"/nic3": True})
        assert transaction.network_records.list_deleted_with_machine(first.uid) == ["/nic3"]
        transaction.machines.delete(first.uid)
        assert transaction.network_records.find_machines(["/nic1", "/nic2", "/nic3"]) == {"/nic2": second.resource_id}


def test_references_of_older_code_to_other_groups_are_dropped(catalog: Catalog) -> None:
    """The references were stored without the right to join, and would prevent the owner from deleting the target."""
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
            one = NetworkRecord(
                uid=uid(),
                subscription=each.subscription,
                group=each.name,
                type=NIC,
                name="nic",
                content=NetworkContent(location="eastus", references=(net, near)),
                created_at=transaction.now(),
            )
            transaction.network_records.add(one)
        transaction.network_records.set_interfaces(vm.uid, {net: True, near: False})
        with Operations.context(MigrationContext.configure(transaction._session.connection)):
            migration.upgrade()
        found = {
            each.group: each.content.references for each in transaction.network_records.list(mine.subscription, NIC)
        }
        assert found == {"mine": (net,), "Other": (near,)}
        naming = [transaction.network_records.find_referrer([each], but=[]) for each in (net, near)]
        assert [None if each is None else each.group for each in naming] == ["mine", "Other"]
        assert transaction.network_records.interfaces_of(vm.uid) == {near}
