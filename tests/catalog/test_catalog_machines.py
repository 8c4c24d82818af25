"""Machines, and disks that are attached or free."""

from dataclasses import replace

import pytest
from catalog_values import NOON, SUBSCRIPTION, disk, settle, uid

from imgstore.catalog import Catalog
from imgstore.domain.disks.version_disks import HostCaching
from imgstore.domain.errors import Conflict, NotFound, ParentNotFound
from imgstore.domain.machines import DiskAttachment, Machine
from imgstore.domain.resources import HyperVGeneration, OsType
from imgstore.domain.states import ProvisioningState

pytest_plugins = ["catalog_fixtures"]


def machine(name: str = "vm1", group: str = "rg") -> Machine:
    return Machine(
        uid=uid(),
        subscription=SUBSCRIPTION,
        group=group,
        name=name,
        location="westus2",
        tags={"a": "b"},
        image_reference="/subscriptions/x",
        os_type=OsType.LINUX,
        hyper_v_generation=HyperVGeneration.V2,
        admin_username="azureuser",
        computer_name="c",
        generalized=True,
        attachments={
            "os": DiskAttachment(name="o", caching=HostCaching.NONE),
            "lun-3": DiskAttachment(deleted_with_machine=True),
        },
        extra_properties={"zones": ["1"], "properties.priority": "Spot"},
        created_at=NOON,
        provisioning_state=ProvisioningState.CREATING,
    )


def test_machines_are_found_by_name_in_any_case(catalog: Catalog) -> None:
    made = machine("VM1")
    with catalog.transaction() as transaction:
        settle(transaction)
        transaction.machines.add(made)
        assert transaction.machines.get(SUBSCRIPTION, "RG", "vm1") == made
        assert transaction.machines.get_for_update(made.uid) == made
        assert transaction.machines.list(SUBSCRIPTION) == transaction.machines.list(SUBSCRIPTION, "rg") == [made]
        above = transaction.groups.get(SUBSCRIPTION, "rg")
        assert above is not None
        assert "virtualMachines/VM1" in transaction.groups.children(above.uid)
    with pytest.raises(Conflict), catalog.transaction() as transaction:
        transaction.machines.add(machine("vm1"))
    with pytest.raises(ParentNotFound), catalog.transaction() as transaction:
        transaction.machines.add(machine(group="none"))
    with catalog.transaction() as transaction:
        transaction.machines.delete(made.uid)
    with pytest.raises(NotFound), catalog.transaction() as transaction:
        transaction.machines.get_for_update(made.uid)


def test_disk_has_one_machine_and_is_not_deleted_while_attached(catalog: Catalog) -> None:
    first, second = machine("vm1").resource_id, machine("vm2").resource_id
    with catalog.transaction() as transaction:
        world = settle(transaction)
        made = disk(world.slot, "d1")
        transaction.disks.add(made)
        assert transaction.disks.attach(made.uid, first, 3)
        assert not transaction.disks.attach(made.uid, second, 0)
        transaction.disks.update(made)
        (attached,) = transaction.disks.list_attached(first)
        assert (attached.managed_by, attached.machine_lun) == (first, 3), "an update leaves it where it is"
        assert not transaction.disks.begin_deleting(made.uid)
        assert not transaction.disks.begin_deleting(made.uid, attached_to=second)
        transaction.disks.detach(first)
        assert transaction.disks.list_attached(first) == []
        assert transaction.disks.begin_deleting(made.uid)
        assert transaction.disks.begin_deleting(made.uid), "may be repeated"
        assert not transaction.disks.attach(made.uid, second, 0), "what is being deleted is not attached"
        os_disk = disk(world.slot, "d2", managed_by=second)
        data = [disk(world.slot, f"e{lun}", managed_by=second, machine_lun=lun) for lun in (10, 2)]
        for each in (data[0], os_disk, data[1]):
            transaction.disks.add(each)
        assert transaction.disks.list_attached(second) == [os_disk, data[1], data[0]]
        assert transaction.disks.begin_deleting(os_disk.uid, attached_to=second)


def test_machines_are_listed_after_a_name_without_deleting_machines(catalog: Catalog) -> None:
    made = [machine(name) for name in ("Vm1", "vm2", "vm3", "vm4")]
    with catalog.transaction() as transaction:
        settle(transaction)
        for each in made:
            transaction.machines.add(each)
        transaction.machines.update(replace(made[1], provisioning_state=ProvisioningState.DELETING))
        after = ("VM1", made[0].uid)
        assert [each.name for each in transaction.machines.list(SUBSCRIPTION, after=after, limit=2)] == ["vm2", "vm3"]
        seen = transaction.machines.list(SUBSCRIPTION, "RG", after=after, limit=2, visible=True)
        assert [each.name for each in seen] == ["vm3", "vm4"]
        assert transaction.machines.list(SUBSCRIPTION, after=("vm4", made[3].uid)) == []
