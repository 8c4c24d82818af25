"""Target regions of a request: defaults, and refusals with Azure's messages and targets."""

import pytest

from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import StorageAccountType, TargetRegion, TargetRegionRequest, VersionUpdate
from imgstore.domain.settings.limits import PRESETS, Limits
from imgstore.policy.target_regions import resolve_targets
from imgstore.regions import load_regions

LRS, ZRS, PREMIUM = (
    StorageAccountType.STANDARD_LRS,
    StorageAccountType.STANDARD_ZRS,
    StorageAccountType.PREMIUM_LRS,
)
REGIONS = load_regions(None, {})


def asked(
    *targets: TargetRegionRequest,
    location: str = "westus2",
    count: int | None = None,
    kind: StorageAccountType | None = None,
    limits: Limits = PRESETS["azure-2019"],
) -> tuple[str, tuple[TargetRegion, ...]]:
    update = VersionUpdate(target_regions=targets, replica_count=count, storage_account_type=kind)
    return resolve_targets(location, update, (), REGIONS, limits)


def region(name: str, count: int | None = None, kind: StorageAccountType | None = None) -> TargetRegionRequest:
    return TargetRegionRequest(name=name, regional_replica_count=count, storage_account_type=kind)


def target(name: str, count: int = 1, kind: StorageAccountType = LRS) -> TargetRegion:
    return TargetRegion(name=name, regional_replica_count=count, storage_account_type=kind)


def test_default_target_is_the_source_region() -> None:
    assert asked(location="West US 2") == ("westus2", (target("westus2"),))


def test_missing_values_come_from_the_request_or_the_defaults() -> None:
    assert asked(region("westus2"), region("southcentralus", 3, ZRS), count=2, kind=PREMIUM) == (
        "westus2",
        (target("westus2", 2, PREMIUM), target("southcentralus", 3, ZRS)),
    )


def test_order_and_exclusion_are_kept() -> None:
    excluded = TargetRegionRequest(name="East US", exclude_from_latest=True)
    _, targets = asked(excluded, region("WestUS2"))
    assert [(each.name, each.exclude_from_latest) for each in targets] == [("eastus", True), ("westus2", False)]


@pytest.mark.parametrize("count", [1, 10])
def test_limits_of_the_range_are_allowed(count: int) -> None:
    assert asked(region("westus2", count))[1] == (target("westus2", count),)


@pytest.mark.parametrize("count", [-1, 0, 10 + 1])
@pytest.mark.parametrize("by_region", [True, False])
def test_count_out_of_range_is_refused(count: int, by_region: bool) -> None:
    with pytest.raises(InvalidInput) as caught:
        asked(region("westus2", count if by_region else None), count=None if by_region else count)
    assert caught.value.message == (
        f"The value {count} of parameter regionalReplicaCount is out of range. The value must be between 1 and 10, "
        "inclusive."
    )
    assert refusal(caught.value) == ("InvalidParameter", 400, "regionalReplicaCount")


def test_limits_of_replicas_per_region_and_version() -> None:
    limits = PRESETS["azure-2026"]
    assert asked(region("westus2", 100), limits=limits)[1] == (target("westus2", 100),)
    with pytest.raises(InvalidInput, match="must be between 1 and 100, inclusive") as caught:
        asked(region("westus2", 101), limits=limits)
    assert "replicas_per_version_max under [limits] in settings.toml" in (caught.value.hint or "")
    assert "about 50 machines" in (caught.value.hint or "")
    assert len(asked(region("westus2", 60), region("eastus", 40), limits=limits)[1]) == 2
    with pytest.raises(InvalidInput, match="limit of 100 replicas of an image version over all regions") as caught:
        asked(region("westus2", 60), region("eastus", 41), limits=limits)
    assert refusal(caught.value) == ("InvalidParameter", 400, "targetRegions")
    assert caught.value.found == "101 replicas in 2 regions"
    assert "replicas_per_version_max" in (caught.value.hint or "")


def test_unknown_source_region_is_refused() -> None:
    with pytest.raises(InvalidInput, match="marsnorth") as caught:
        asked(location="marsnorth")
    assert refusal(caught.value)[2] == "location"


def test_unknown_target_region_is_refused() -> None:
    with pytest.raises(InvalidInput, match="marsnorth") as caught:
        asked(region("westus2"), region("marsnorth"))
    assert refusal(caught.value)[2] == "targetRegions"


def test_repeated_region_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        asked(region("westus2"), region("West US 2", 3))
    assert caught.value.message == "Duplicate regions are not allowed in target publishing regions."
    assert refusal(caught.value) == ("InvalidParameter", 400, "targetRegions")
    assert caught.value.found == "westus2"


def test_source_region_must_be_a_target() -> None:
    with pytest.raises(InvalidInput) as caught:
        asked(region("eastus"), region("northeurope"), location="westus2")
    assert caught.value.message == (
        "Gallery image version publishing profile regions 'eastus, northeurope' must contain the location of image "
        "version 'West US 2'."
    )
    assert refusal(caught.value) == ("InvalidParameter", 400, "targetRegions")
    assert "westus2" in (caught.value.hint or "")


def test_unsupported_storage_account_type_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        asked(region("westus2"), region("eastus"), kind=ZRS)
    assert caught.value.message == "The storage account type Standard_ZRS is not supported in region 'East US'."
    assert caught.value.found == "Standard_ZRS in a region of 1 zone"
    assert caught.value.expected == " or ".join(REGIONS.get("eastus").storage_account_types)
    assert refusal(caught.value) == ("InvalidParameter", 400, "storageAccountType")


def refusal(error: InvalidInput) -> tuple[str, int, str | None]:
    assert error.hint, "each error has a hint"
    return error.error_code, error.status, error.target
