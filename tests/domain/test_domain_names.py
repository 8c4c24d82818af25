"""Valid names, and references to images."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.errors import InvalidInput
from imgstore.domain.names import (
    ImageReference,
    VersionName,
    check_definition_name,
    check_disk_name,
    check_gallery_name,
    check_group_name,
    check_identifier,
    definition_id,
    disk_id,
    region_key,
    version_id,
)

PART_MAX = 2**31 - 1
parts = st.integers(0, PART_MAX)
versions = st.builds(VersionName, parts, parts, parts)


@given(versions)
def test_version_name_round_trip(version: VersionName) -> None:
    assert VersionName.parse(str(version)) == version


@given(versions, versions)
def test_versions_are_ordered_as_numbers(one: VersionName, other: VersionName) -> None:
    numbers = [tuple(int(part) for part in str(each).split(".")) for each in (one, other)]
    assert (one < other) == (numbers[0] < numbers[1])


def test_ten_is_above_nine() -> None:
    assert VersionName.parse("1.10.0") > VersionName.parse("1.9.9")


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "1.0", "1.0.0.0", "1.0.x", "v1.0.0", "01.0.0", "1.0.00", "1.0.-1", "1. 0.0", "1.0.0\n", " 1.0.0"),
        *("1.0.2147483648", "1.0." + "9" * 5000, "latest", "\u0661.0.0"),
    ],
)
def test_invalid_version_name_is_refused_in_azures_words(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"Major\(int\)\.Minor\(int\)\.Patch\(int\)") as caught:
        VersionName.parse(text)
    assert (caught.value.error_code, caught.value.target) == ("InvalidParameter", "galleryImageVersionName")


@pytest.mark.parametrize("name", ["a", "myGallery", "my_gallery.v2", "0a", "a" * 80])
def test_valid_gallery_names(name: str) -> None:
    assert check_gallery_name(name) == name


@pytest.mark.parametrize("name", ["", "my-gallery", "_a", "a_", ".a", "a.", "a" * 81, "a b", "a\n", "ä", "a/b", ".."])
def test_gallery_names_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="Gallery name is invalid") as caught:
        check_gallery_name(name)
    assert caught.value.target == "galleryName"


@pytest.mark.parametrize("name", ["a", "ubuntu-22.04", "a_", "a" * 80])
def test_valid_definition_and_disk_names(name: str) -> None:
    assert check_definition_name(name) == check_disk_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "a.", ".a", "a" * 81, "a b", "a/b", "..", "a\n"])
def test_definition_and_disk_names_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="image definition name") as caught:
        check_definition_name(name)
    assert caught.value.target == "galleryImageName"
    with pytest.raises(InvalidInput, match="disk name"):
        check_disk_name(name)


@pytest.mark.parametrize("name", ["rg", "rg (test)".replace(" ", ""), "-rg", "a" * 90, "größe"])
def test_valid_group_names(name: str) -> None:
    assert check_group_name(name) == name


@pytest.mark.parametrize("name", ["", "rg.", "a" * 91, "a b", "a/b", ".."])
def test_group_names_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="resource group name") as caught:
        check_group_name(name)
    assert caught.value.target == "resourceGroupName"


@pytest.mark.parametrize(("name", "good"), [("Canonical", True), ("a.b_c-", True), ("a.", False), ("", False)])
def test_identifiers(name: str, good: bool) -> None:
    if good:
        assert check_identifier(name, what="publisher", characters_max=128) == name
        return
    with pytest.raises(InvalidInput, match="publisher") as caught:
        check_identifier(name, what="publisher", characters_max=128)
    assert caught.value.target == "identifier.publisher"


def test_identifiers_have_a_maximum_length() -> None:
    assert check_identifier("a" * 64, what="sku", characters_max=64)
    with pytest.raises(InvalidInput, match="sku"):
        check_identifier("a" * 65, what="sku", characters_max=64)


@pytest.mark.parametrize("spelling", ["westus2", "West US 2", "WestUS2", " west  us 2 ", "WEST\tUS2"])
def test_region_key_ignores_case_and_spaces(spelling: str) -> None:
    assert region_key(spelling) == "westus2"


NEWEST = ImageReference(group="rg", gallery="gal", definition="deb-12")
PINNED = ImageReference(group="rg", gallery="gal", definition="deb-12", version=VersionName(1, 2, 3))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rg/gal/deb-12", NEWEST),
        ("rg/gal/deb-12/latest", NEWEST),
        ("rg/gal/deb-12/Latest", NEWEST),
        ("rg/gal/deb-12/1.2.3", PINNED),
    ],
)
def test_short_references(text: str, expected: ImageReference) -> None:
    assert ImageReference.parse(text) == expected
    assert ImageReference.parse(str(expected)) == expected


def test_resource_id_contains_the_subscription() -> None:
    whole = ImageReference.parse(version_id("sub", "rg", "gal", "deb-12", "1.2.3"))
    assert whole == ImageReference(
        subscription="sub", group="rg", gallery="gal", definition="deb-12", version=VersionName(1, 2, 3)
    )
    assert ImageReference.parse(version_id("sub", "rg", "gal", "deb-12", "latest")).version is None
    assert ImageReference.parse(definition_id("sub", "rg", "gal", "deb-12")).version is None


def test_keywords_of_a_resource_id_are_case_insensitive() -> None:
    text = definition_id("Sub", "Rg", "Gal", "Deb")
    lowered = text.replace("resourceGroups", "RESOURCEGROUPS").replace("Microsoft.Compute", "microsoft.compute")
    assert ImageReference.parse(lowered) == ImageReference.parse(text)
    assert ImageReference.parse(text).subscription == "Sub"


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "gal", "rg/gal", "rg/gal/deb/1.0.0/x", "rg/gal/deb/newest", "rg/my-gal/deb", "/rg/gal/deb"),
        disk_id("sub", "rg", "disk"),
        version_id("sub", "rg", "gal", "deb", "1.0"),
        definition_id("sub", "rg", "gal", "deb") + "/versions",
        definition_id("sub", "rg", "gal", "deb") + "/versions/1.0.0/more",
        definition_id("sub", "rg", "gal", "deb") + "/snapshots/1.0.0",
        definition_id("sub", "rg", "gal", "deb").replace("Microsoft.Compute", "Microsoft.Storage"),
    ],
)
def test_invalid_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        ImageReference.parse(text)
    assert caught.value.found
    assert caught.value.hint
