"""Fields by api-version: newer fields are hidden or refused, and fields that a body leaves out keep their values."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.errors import InvalidInput
from imgstore.domain.names import ImageReference, VersionName
from imgstore.domain.requests import DiskOfImageRequest
from imgstore.domain.resources import KEEP, DiskKind, HyperVGeneration, RecommendedRange
from imgstore.domain.tags import NO_TAGS
from imgstore.wire.api_versions import (
    KNOWN,
    NEWEST,
    OLDEST,
    SINCE,
    Kind,
    check_api_version,
    has_field,
    remove_newer_fields,
)
from imgstore.wire.provider_types import versions_of
from imgstore.wire.requests.disk import read_disk
from imgstore.wire.requests.fields import complete_definition, read_definition, read_gallery
from imgstore.wire.requests.version import VersionBody, read_version

REGION = {"name": "eastus", "regionalReplicaCount": 1, "storageAccountType": "Standard_ZRS", "excludeFromLatest": True}
VERSION = {
    "name": "1.0.0",
    "location": "eastus",
    "properties": {
        "publishingProfile": {
            "targetRegions": [REGION],
            "storageAccountType": "Standard_LRS",
            "replicationMode": "Full",
        },
        "safetyProfile": {"allowDeletionOfReplicatedLocations": False, "blockDeletionBeforeEndOfLife": True},
        "storageProfile": {"osDiskImage": {"sizeInGB": 1, "source": {"uri": "https://x.example/a"}}},
    },
}


@pytest.mark.parametrize(
    ("version", "regions", "profiles"),
    [
        ("2018-06-01", {"name", "regionalReplicaCount"}, set()),
        ("2019-03-01", {"name", "regionalReplicaCount", "storageAccountType"}, set()),
        ("2022-03-03", set(REGION), {"allowDeletionOfReplicatedLocations"}),
        (NEWEST, set(REGION), {"allowDeletionOfReplicatedLocations", "blockDeletionBeforeEndOfLife"}),
    ],
)
def test_response_has_only_fields_of_the_api_version(version: str, regions: set[str], profiles: set[str]) -> None:
    before = copy.deepcopy(VERSION)
    shown = remove_newer_fields(VERSION, Kind.VERSION, version)["properties"]
    assert set(shown["publishingProfile"]["targetRegions"][0]) == regions
    assert set(shown.get("safetyProfile", {})) == profiles
    assert ("source" in shown["storageProfile"]["osDiskImage"]) == (version >= "2019-07-01")
    assert before == VERSION


@given(kind=st.sampled_from(Kind), version=st.sampled_from(KNOWN), later=st.sampled_from(KNOWN))
def test_later_api_version_has_all_earlier_fields(kind: Kind, version: str, later: str) -> None:
    for path in SINCE[kind]:
        if has_field(kind, path, version) and later >= version:
            assert has_field(kind, path, later)
            assert has_field(kind, f"{path}.below", version)
    assert remove_newer_fields(remove_newer_fields(VERSION, kind, later), kind, version) == remove_newer_fields(
        VERSION, kind, min(version, later)
    )


@given(kind=st.sampled_from(Kind), version=st.sampled_from(KNOWN), in_lists=st.booleans())
def test_remaining_fields_equal_known_fields(kind: Kind, version: str, *, in_lists: bool) -> None:
    """Compare with `has_field`. The resource has all fields of the table, and old fields beside each new field."""
    whole: dict[str, Any] = {}
    for path in SINCE[kind]:
        place = whole
        for name in path.split("."):
            place = place.setdefault(name, {"always": 1})

    def listed(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        below = {name: listed(each) for name, each in value.items()}
        return {name: [each] if in_lists and isinstance(each, dict) else each for name, each in below.items()}

    def known(value: Any, path: str) -> Any:
        if isinstance(value, list):
            return [known(each, path) for each in value]
        if not isinstance(value, dict):
            return value
        paths = {name: f"{path}.{name}".removeprefix(".") for name in value}
        return {name: known(each, paths[name]) for name, each in value.items() if has_field(kind, paths[name], version)}

    assert remove_newer_fields(listed(whole), kind, version) == known(listed(whole), "")


def test_api_versions_are_sorted_and_known() -> None:
    assert list(KNOWN) == sorted(KNOWN)
    for kind, table in SINCE.items():
        assert set(table.values()) <= set(versions_of(kind))
    assert check_api_version("2099-12-31", "galleries") == "2099-12-31"
    assert check_api_version("2020-09-30-preview", "galleries") == "2020-09-30"


def test_put_sets_all_fields_and_patch_sets_given_fields() -> None:
    body = {"location": "East US", "properties": {}}
    assert read_gallery(body, NEWEST, is_put=True) == {
        "location": "eastus", "description": None, "soft_delete_enabled": False, "soft_delete_retention_days": 7,
        "tags": NO_TAGS,
    }  # fmt: skip
    assert read_gallery(body, OLDEST, is_put=True) == {"location": "eastus", "description": None, "tags": NO_TAGS}
    assert read_gallery({}, NEWEST, is_put=False) == {}
    later = {"properties": {"softDeletePolicy": {"isSoftDeleteEnabled": True}}}
    with pytest.raises(InvalidInput) as raised:
        read_gallery(later, OLDEST, is_put=False)
    assert raised.value.target == "properties.softDeletePolicy"
    assert read_gallery(later, "2021-07-01", is_put=False) == {"soft_delete_enabled": True}


def test_fixed_fields_keep_values_when_left_out() -> None:
    said = read_definition({"location": "eastus", "properties": {"eula": None}}, NEWEST, is_put=True)
    assert not {"eula", "os_type", "features", "purchase_plan"} & set(said)
    assert (said["description"], said["recommended_vcpus"]) == (None, RecommendedRange())


@pytest.mark.parametrize(
    ("body", "target"),
    [
        ({}, "location"),
        ({"location": 7}, "location"),
        ({"location": "eastus", "properties": []}, "properties"),
        ({"location": "eastus", "properties": {"description": {}}}, "properties.description"),
        ({"location": "eastus", "tags": {"a": []}}, "tags.a"),
        ({"location": "eastus", "identity": {"type": "SystemAssigned"}}, "identity.type"),
        (
            {"location": "eastus", "properties": {"softDeletePolicy": {"retentionPeriodInDays": "many"}}},
            "properties.softDeletePolicy.retentionPeriodInDays",
        ),
    ],
)
def test_invalid_gallery_is_refused(body: Any, target: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        read_gallery(body, NEWEST, is_put=True)
    assert raised.value.target == target


def test_new_definition_gets_defaults_of_the_api_version() -> None:
    required = {"os_type": 1, "os_state": 1, "publisher": "p", "offer": "o", "sku": "s"}
    assert "hyper_v_generation" not in complete_definition(required, "2024-03-03")
    made = complete_definition(required, "2025-03-03")
    assert (made["hyper_v_generation"], made["features"][0].value) == (HyperVGeneration.V2, "TrustedLaunchSupported")
    old = complete_definition(required | {"hyper_v_generation": HyperVGeneration.V1}, "2025-03-03")
    assert old["features"] == ()


DISK: Any = {"group": "rg", "name": "d1", "kind": DiskKind.DISK}


def _read(body: Any, api_version: str, *, is_put: bool) -> VersionBody:
    place = {"group": "rg", "gallery": "g", "definition": "d", "version": VersionName(1, 0, 0)}
    return read_version(body, api_version, is_put=is_put, place=place)


def test_put_of_a_version_is_read() -> None:
    read = _read(VERSION, NEWEST, is_put=True)
    assert read.request.target_regions is not None
    assert (read.sources, read.restore, read.request.end_of_life_at) == ({"os": "https://x.example/a"}, False, None)
    assert read.request.block_deletion_before_end_of_life is True
    with pytest.raises(InvalidInput, match="storageAccountType"):
        _read(VERSION, OLDEST, is_put=True)
    assert _read({"location": "eastus", "tags": {}}, NEWEST, is_put=True).restore, "az's undelete"
    assert _read({"properties": {"restore": True}}, NEWEST, is_put=False).restore
    silent = _read({"properties": {}}, NEWEST, is_put=False)
    assert (silent.request.end_of_life_at, silent.request.tags, silent.restore) == (KEEP, None, False)


@pytest.mark.parametrize(
    ("properties", "target"),
    [
        ({"publishingProfile": {"replicationMode": "Sideways"}}, "publishingProfile.replicationMode"),
        (
            {"publishingProfile": {"targetExtendedLocations": [{"name": "x"}]}},
            "publishingProfile.targetExtendedLocations",
        ),
        ({"publishingProfile": {"targetRegions": []}}, "publishingProfile.targetRegions"),
        (
            {"publishingProfile": {"targetRegions": [REGION | {"encryption": {"x": 1}}]}},
            "publishingProfile.targetRegions[0].encryption",
        ),
        ({"publishingProfile": {"replicaCount": True}}, "publishingProfile.replicaCount"),
        ({"storageProfile": {"dataDiskImages": [{"lun": "x"}]}}, "storageProfile.dataDiskImages.lun"),
        ({"storageProfile": {"dataDiskImages": {"lun": 1}}}, "storageProfile.dataDiskImages"),
        ({"securityProfile": {"uefiSettings": {"x": 1}}}, "securityProfile"),
    ],
)
def test_unsupported_field_is_refused_by_path(properties: Any, target: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        _read({"location": "eastus", "properties": properties}, NEWEST, is_put=True)
    assert raised.value.target == f"properties.{target}"


def test_invalid_disk_source_is_refused() -> None:
    reference = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/galleries/g/images/i/versions/1.0.0"
    source: dict[str, Any] = {"createOption": "fromimage", "galleryImageReference": {"id": reference}}
    body = {"location": "eastus", "properties": {"creationData": source}}
    read = read_disk(body, **DISK)
    assert isinstance(read, DiskOfImageRequest)
    assert read.reference == ImageReference.parse(reference)
    changes: list[dict[str, Any]] = [
        {"createOption": "Copy"},
        {"galleryImageReference": {}},
        {"imageReference": {"id": "x"}},
    ]
    for change in changes:
        with pytest.raises(InvalidInput):
            read_disk({"location": "eastus", "properties": {"creationData": source | change}}, **DISK)
