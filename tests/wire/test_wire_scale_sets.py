"""Bodies of scale sets: applied, stored and refused fields, ids of instances, and durations of ISO 8601."""

from typing import Any

import pytest

from imgstore.domain.disks.version_disks import HostCaching
from imgstore.domain.errors import InvalidInput
from imgstore.domain.scale_sets import RollingPolicy, UpgradeMode
from imgstore.domain.text.durations import format_iso_duration, parse_iso_duration
from imgstore.wire.api_versions import Kind, check_api_version
from imgstore.wire.requests.body_fields import read_known_fields
from imgstore.wire.requests.machine import read_secrets, remove_secrets
from imgstore.wire.requests.scale_set import ScaleSetBody, read_instance_ids, read_scale_set

IMAGE = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/galleries/g/images/i/versions/1.0.0"


def body(**profile: Any) -> dict[str, Any]:
    storage = {"imageReference": {"id": IMAGE}, "osDisk": {"createOption": "FromImage", "caching": "ReadOnly"}}
    return {
        "location": "eastus",
        "sku": {"name": "Standard_B1s", "capacity": 3, "tier": "Standard"},
        "properties": {
            "upgradePolicy": {"mode": "rolling", "rollingUpgradePolicy": {"maxBatchInstancePercent": 50}},
            "overprovision": True,
            "virtualMachineProfile": {"storageProfile": storage, **profile},
        },
    }


def read(raw: Any, *, is_put: bool = True, version: str = "2024-07-01") -> ScaleSetBody:
    return read_scale_set(read_known_fields(raw, Kind.SCALE_SET, version), is_put=is_put)


def test_fields_of_a_put() -> None:
    found = read(
        body(
            osProfile={"computerNamePrefix": "web", "adminUsername": "ops", "adminPassword": "Secret-1!"},
            networkProfile={"networkInterfaceConfigurations": [{"name": "nic", "properties": {"primary": "true"}}]},
        )
    )
    assert (found.location, found.size, found.capacity, found.image) == ("eastus", "Standard_B1s", 3, IMAGE)
    assert found.upgrade_mode is UpgradeMode.ROLLING
    assert found.rolling_policy(RollingPolicy(pause_seconds=9)) == RollingPolicy(batch_percent=50, pause_seconds=9)
    assert (found.profile.admin_username, found.profile.computer_name) == ("ops", "web")
    assert found.attachments["os"].caching is HostCaching.READ_ONLY
    kept = found.extra_properties
    assert kept["properties.overprovision"] is True
    assert kept["properties.virtualMachineProfile.osProfile"] == {"computerNamePrefix": "web", "adminUsername": "ops"}
    assert "Secret" not in str(kept)


def test_a_put_of_the_capacity_alone_keeps_the_other_values() -> None:
    """`az vmss scale` sends the location and the sku."""
    found = read({"location": "eastus", "sku": {"name": "Standard_B1s", "capacity": 7}})
    assert (found.capacity, found.tags, found.image, found.upgrade_mode) == (7, None, None, None)
    assert not found.extra_properties


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sku.tier", "Basic"),
        ("sku.capacity", "many"),
        ("identity.type", "SystemAssigned"),
        ("properties.orchestrationMode", "Flexible"),
        ("properties.upgradePolicy.mode", "Sometimes"),
        ("properties.upgradePolicy.rollingUpgradePolicy.maxBatchInstancePercent", 4),
        ("properties.upgradePolicy.rollingUpgradePolicy.maxSurge", True),
        ("properties.upgradePolicy.rollingUpgradePolicy.pauseTimeBetweenBatches", "soon"),
        ("properties.upgradePolicy.rollingUpgradePolicy.pauseTimeBetweenBatches", "PT2H"),
        ("properties.upgradePolicy.automaticOSUpgradePolicy.enableAutomaticOSUpgrade", True),
        ("properties.automaticRepairsPolicy.enabled", True),
        ("properties.overprovision", "perhaps"),
        ("properties.singlePlacementGroup", 1),
        ("properties.virtualMachineProfile.networkProfile", "lan"),
        ("properties.virtualMachineProfile.securityProfile.encryptionAtHost", True),
        ("properties.virtualMachineProfile.storageProfile.osDisk.createOption", "Empty"),
        ("properties.virtualMachineProfile.storageProfile.osDisk.deleteOption", "Detach"),
        ("properties.virtualMachineProfile.storageProfile.osDisk.diskSizeGB", 64),
        ("properties.virtualMachineProfile.storageProfile.osDisk.managedDisk.diskEncryptionSet.id", "/set"),
        ("properties.virtualMachineProfile.storageProfile.osDisk.managedDisk.storageAccountType", "Floppy_LRS"),
        ("properties.virtualMachineProfile.extensionProfile.extensions", [{"name": "x"}]),
    ],
)
def test_refused_values_name_their_path(path: str, value: Any) -> None:
    raw = body()
    here = raw
    *above, name = path.split(".")
    for each in above:
        here = here.setdefault(each, {})
    here[name] = value
    with pytest.raises(InvalidInput) as refused:
        read(raw)
    target = refused.value.target or "no path"
    assert path.startswith(target) or target.startswith(path)


def test_fields_that_are_newer_than_the_api_version() -> None:
    raw = body()
    raw["properties"]["orchestrationMode"] = "Uniform"
    with pytest.raises(InvalidInput, match="orchestrationMode"):
        read(raw, version="2019-12-01")


def test_api_versions_begin_in_2018() -> None:
    assert check_api_version("2018-04-01", "virtualMachineScaleSets") == "2018-04-01"
    assert check_api_version("2018-04-01", "virtualMachineScaleSets/virtualMachines") == "2018-04-01"
    with pytest.raises(InvalidInput, match="No registered resource provider"):
        check_api_version("2017-12-01", "virtualMachineScaleSets")


def test_secrets_of_a_set_are_removed() -> None:
    profile = {"OSPROFILE": {"adminPASSWORD": "Secret-1!", "customData": "aGk=", "adminUsername": "ops"}}
    raw = body(**profile, userData="aGk=")
    assert read_secrets(raw, "properties.virtualMachineProfile") == ("Secret-1!", b"hi")
    assert remove_secrets(raw)["properties"]["virtualMachineProfile"]["OSPROFILE"] == {"adminUsername": "ops"}
    assert "userData" not in remove_secrets(raw)["properties"]["virtualMachineProfile"]


def test_ids_of_instances() -> None:
    assert read_instance_ids({"instanceIds": ["0", "12"]}) == [0, 12]
    everything: tuple[Any, ...] = (None, {}, {"instanceIds": ["*"]})
    for raw in everything:
        assert read_instance_ids(raw) is None
    with pytest.raises(InvalidInput):
        read_instance_ids(None, needed=True)
    wrong: tuple[Any, ...] = ("0", ["-1"], ["x"], [None])
    for ids in wrong:
        with pytest.raises(InvalidInput):
            read_instance_ids({"instanceIds": ids})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("PT0S", 0), ("PT30S", 30), ("PT2M30S", 150), ("PT1H", 3600), ("P1D", 86400), ("P1DT1H", 90000), ("PT90M", 5400)],
)
def test_durations_of_iso_8601(text: str, seconds: int) -> None:
    assert parse_iso_duration(text) == seconds
    assert parse_iso_duration(format_iso_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "P", "PT", "P1DT", "30", "PT1.5S", "P1M", "PT-1S", "pt1s", "PT1S1M"])
def test_texts_that_are_no_duration(text: str) -> None:
    assert parse_iso_duration(text) is None
