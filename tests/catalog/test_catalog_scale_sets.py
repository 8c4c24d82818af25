"""Scale sets, their instances, and the lease of the process that changes a set."""

from dataclasses import replace

import pytest
from catalog_values import NOON, SUBSCRIPTION, settle, uid

from imgstore.catalog import Catalog, Transaction
from imgstore.domain.disks.version_disks import HostCaching
from imgstore.domain.errors import Conflict, InvalidInput, LeaseLost, NotFound, ParentNotFound, WorkLeased
from imgstore.domain.machines import NO_SECRETS, DiskAttachment, Machine, MachineSecrets
from imgstore.domain.resources import HyperVGeneration, OsType
from imgstore.domain.scale_sets import (
    PlacementPolicy,
    RollingPolicy,
    ScaleSet,
    UpgradeMode,
    check_capacity,
    check_scale_set_name,
)
from imgstore.domain.states import ProvisioningState

pytest_plugins = ["catalog_fixtures"]


def scale_set(name: str = "web", group: str = "rg", **changes: object) -> ScaleSet:
    made = ScaleSet(
        uid=uid(),
        subscription=SUBSCRIPTION,
        group=group,
        name=name,
        location="westus2",
        tags={"a": "b"},
        capacity=3,
        former_capacity=0,
        next_instance_id=3,
        image_reference="/subscriptions/x/galleries/g/images/i",
        source_reference="/subscriptions/x/galleries/g/images/i/versions/1.0.0",
        os_type=OsType.LINUX,
        hyper_v_generation=HyperVGeneration.V2,
        admin_username="azureuser",
        computer_name_prefix="web",
        upgrade_mode=UpgradeMode.ROLLING,
        rolling=RollingPolicy(batch_percent=10, pause_seconds=5),
        placement=PlacementPolicy.LEAST_BUSY,
        allow_remote=True,
        attachments={"os": DiskAttachment(caching=HostCaching.NONE)},
        extra_properties={"zones": ["1"]},
        created_at=NOON,
        provisioning_state=ProvisioningState.CREATING,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def instance(of: ScaleSet, instance_id: int) -> Machine:
    return Machine(
        uid=uid(),
        subscription=of.subscription,
        group=of.group,
        name=of.instance_name(instance_id),
        location=of.location,
        image_reference=of.source_reference,
        created_at=NOON,
        provisioning_state=ProvisioningState.CREATING,
        scale_set_uid=of.uid,
        instance_id=instance_id,
    )


def test_scale_sets_are_found_by_name_and_listed(catalog: Catalog) -> None:
    made = [scale_set(name) for name in ("Web", "web2", "web3")]
    with catalog.transaction() as transaction:
        settle(transaction)
        for each in made:
            transaction.scale_sets.add(each)
        assert transaction.scale_sets.get(SUBSCRIPTION, "RG", "web") == made[0]
        changed = replace(made[1], provisioning_state=ProvisioningState.DELETING, former_capacity=None)
        transaction.scale_sets.update(changed)
        transaction.scale_sets.update(replace(made[0], former_capacity=None))
        after = ("WEB", made[0].uid)
        assert transaction.scale_sets.list(SUBSCRIPTION, after=after) == [changed, made[2]]
        assert transaction.scale_sets.list(SUBSCRIPTION, "rg", after=after, limit=1, visible=True) == [made[2]]
        assert {each.uid for each in transaction.scale_sets.list_unfinished()} == {made[1].uid, made[2].uid}
        above = transaction.groups.get(SUBSCRIPTION, "rg")
        assert above is not None
        assert "virtualMachineScaleSets/Web" in transaction.groups.children(above.uid)
    with pytest.raises(Conflict), catalog.transaction() as transaction:
        transaction.scale_sets.add(scale_set("WEB"))
    with pytest.raises(ParentNotFound), catalog.transaction() as transaction:
        transaction.scale_sets.add(scale_set(group="none"))


def test_instances_are_machines_that_no_name_of_a_machine_finds(catalog: Catalog) -> None:
    web = scale_set()
    made = [instance(web, number) for number in (0, 1, 2)]
    alone = replace(made[0], uid=uid(), scale_set_uid=None, instance_id=None)
    with catalog.transaction() as transaction:
        settle(transaction)
        transaction.scale_sets.add(web)
        transaction.machines.add_instances([])
        transaction.machines.add_instances(made)
        assert transaction.machines.get(SUBSCRIPTION, "rg", "web_0") is None
        assert transaction.machines.get(SUBSCRIPTION, "rg", f"{web.uid}/0") is None
        transaction.machines.add(alone)
        assert transaction.machines.get(SUBSCRIPTION, "rg", "web_0") == alone
        assert transaction.machines.list(SUBSCRIPTION) == [alone]
        assert transaction.machines.list_instances(web.uid) == made
        assert transaction.machines.list_instances(web.uid, after=0, limit=1) == [made[1]]
        assert transaction.machines.get_instance(web.uid, 1) == made[1]
        assert made[1].resource_id == f"{web.resource_id}/virtualMachines/1"
        transaction.machines.set_instance_states([made[2].uid], ProvisioningState.DELETING)
        assert transaction.machines.by_uid(made[2].uid).provisioning_state is ProvisioningState.DELETING
        assert transaction.machines.list_deleting() == []
        above = transaction.groups.get(SUBSCRIPTION, "rg")
        assert above is not None
        assert "virtualMachines/web_1" not in transaction.groups.children(above.uid)
    with pytest.raises(Conflict), catalog.transaction() as transaction:
        transaction.machines.add_instances([instance(web, 1)])
    with catalog.transaction() as transaction:
        transaction.machines.delete_instances([each.uid for each in made])
        transaction.machines.delete_instances([made[0].uid])
        transaction.scale_sets.delete(web.uid)
        assert transaction.machines.list(SUBSCRIPTION) == [alone]


def test_instances_have_the_secrets_of_the_set(catalog: Catalog) -> None:
    web, secrets = scale_set(), MachineSecrets(password_hash="$6$x", custom_data="eA==")
    made = instance(web, 0)
    with catalog.transaction() as transaction:
        settle(transaction)
        transaction.scale_sets.add(web)
        transaction.machines.add_instances([made])
        assert transaction.machine_secrets.find(made.uid) == NO_SECRETS
        transaction.scale_set_secrets.put(web.uid, replace(secrets, custom_data=None))
        transaction.scale_set_secrets.put(web.uid, secrets)
        assert transaction.scale_set_secrets.find(web.uid) == transaction.machine_secrets.find(made.uid) == secrets
        assert transaction.scale_set_secrets.find(uid()) == NO_SECRETS


def test_a_set_is_abandoned_when_nobody_continues_its_change(catalog: Catalog) -> None:
    web = scale_set()

    def abandoned(transaction: Transaction) -> list[str]:
        return [each.uid for each in transaction.scale_sets.list_abandoned()]

    with catalog.transaction() as transaction:
        settle(transaction)
        transaction.scale_sets.add(web)
        transaction.scale_sets.update(replace(web, former_capacity=None))
        assert abandoned(transaction) == [], "no change is unfinished"
        transaction.scale_sets.update(replace(web, former_capacity=1))
        assert abandoned(transaction) == [web.uid]
        lease = transaction.scale_sets.lease(web.uid, holder="h/b/1/1", lease_seconds=30)
        assert abandoned(transaction) == [], "a process continues the change"
        transaction.scale_sets.renew(lease, lease_seconds=-1)
        assert abandoned(transaction) == [web.uid], "the lease has ended"


def test_lease_of_a_set_excludes_other_processes_until_it_ends(catalog: Catalog) -> None:
    web = scale_set()
    with catalog.transaction() as transaction:
        settle(transaction)
        transaction.scale_sets.add(web)
        first = transaction.scale_sets.lease(web.uid, holder="h/b/1/1", lease_seconds=30)
        assert transaction.scale_sets.find_holder(web.uid) == "h/b/1/1"
        for holder in ("h/b/2/1", "h/b/1/1"):
            with pytest.raises(WorkLeased) as caught:
                transaction.scale_sets.lease(web.uid, holder=holder, lease_seconds=30)
            assert caught.value.target == web.uid
        transaction.scale_sets.renew(first, lease_seconds=30)
        transaction.scale_sets.update(replace(web, capacity=9))
        assert transaction.scale_sets.guard(first).capacity == 9, "an update leaves the lease"
        second = transaction.scale_sets.lease(web.uid, holder="h/b/2/1", lease_seconds=30, steal_from="h/b/1/1")
        for refused in (transaction.scale_sets.guard, transaction.scale_sets.release):
            if refused == transaction.scale_sets.guard:
                with pytest.raises(LeaseLost):
                    refused(first)
            else:
                refused(first)
        transaction.scale_sets.guard(second)
        transaction.scale_sets.release(second)
        assert transaction.scale_sets.find_holder(web.uid) is None
        with pytest.raises(LeaseLost):
            transaction.scale_sets.renew(second, lease_seconds=30)
        expired = transaction.scale_sets.lease(web.uid, holder="h/b/1/1", lease_seconds=-1)
        transaction.scale_sets.lease(web.uid, holder="h/b/2/1", lease_seconds=30)
        with pytest.raises(LeaseLost):
            transaction.scale_sets.guard(expired)
    with pytest.raises(NotFound), catalog.transaction() as transaction:
        transaction.scale_sets.lease(uid(), holder="h/b/1/1", lease_seconds=30)


def test_round_robin_advances_by_a_batch(catalog: Catalog) -> None:
    with catalog.transaction() as transaction:
        version_uid = settle(transaction).version.uid
        assert transaction.placements.advance_counter(version_uid, "westus2", 250) == 0
        assert transaction.placements.advance_counter(version_uid, "westus2") == 250
        assert transaction.placements.advance_counter(version_uid, "westus2", 3) == 251
        assert transaction.placements.advance_counter(version_uid, "westus2") == 254


def test_names_and_capacities_follow_azure() -> None:
    assert check_scale_set_name("web-1_a.b") == "web-1_a.b"
    for name in ("", "a" * 65, "-a", "a-", "a/b"):
        with pytest.raises(InvalidInput):
            check_scale_set_name(name)
    assert check_capacity(1_000, is_managed_image=False) == 1_000
    assert check_capacity(0, is_managed_image=True) == 0
    for capacity, is_managed_image in ((1_001, False), (601, True), (-1, False)):
        with pytest.raises(InvalidInput, match="1000" if not is_managed_image else "600"):
            check_capacity(capacity, is_managed_image=is_managed_image)
    assert scale_set().computer_name(35) == "web00000Z"
    assert scale_set().computer_name(36) == "web000010"
    assert scale_set(computer_name_prefix=None).computer_name(1) is None
    assert not scale_set().is_from_managed_image
    image = "/subscriptions/x/resourceGroups/rg/providers/Microsoft.Compute/images/i"
    assert scale_set(source_reference=image).is_from_managed_image
