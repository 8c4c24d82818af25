import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import StorageAccountType, TargetRegionRequest
from imgstore.wire.requests.arguments import parse_storage_account_type, parse_tags, parse_target_regions


def region(name: str, count: int | None = None, kind: StorageAccountType | None = None) -> TargetRegionRequest:
    return TargetRegionRequest(name=name, regional_replica_count=count, storage_account_type=kind)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("eastus", region("eastus")),
        ("West US 2", region("West US 2")),
        ("southcentralus=2", region("southcentralus", 2)),
        ("westus2=1=standard_zrs", region("westus2", 1, StorageAccountType.STANDARD_ZRS)),
        ("westus2=PREMIUM_lrs", region("westus2", None, StorageAccountType.PREMIUM_LRS)),
        (" West US 2 = 3 = Standard_LRS ", region("West US 2", 3, StorageAccountType.STANDARD_LRS)),
        ("eastus=0", region("eastus", 0)),
        ("eastus=-1", region("eastus", -1)),
    ],
)
def test_target_region_grammar(word: str, expected: TargetRegionRequest) -> None:
    assert parse_target_regions([word]) == (expected,)


def test_target_regions_keep_the_order_of_the_request() -> None:
    assert [each.name for each in parse_target_regions(["b", "a=2", "c"])] == ["b", "a", "c"]


@pytest.mark.parametrize("word", ["", "=2", "a=", "a=2=", "a=two", "a=2=standard_zrs=x", "a=standard_zrs=2", "a==2"])
def test_invalid_target_region_is_refused(word: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_target_regions([word])
    assert caught.value.found is not None
    assert caught.value.expected is not None
    assert caught.value.hint is not None


@given(st.sampled_from(list(StorageAccountType)), st.data())
def test_storage_account_types_are_case_insensitive(kind: StorageAccountType, data: st.DataObject) -> None:
    typed = "".join(data.draw(st.sampled_from([letter.lower(), letter.upper()])) for letter in kind.value)
    assert parse_storage_account_type(typed) is kind


def test_unknown_storage_account_type_lists_the_known_types() -> None:
    with pytest.raises(InvalidInput, match="Standard_GRS") as caught:
        parse_storage_account_type("Standard_GRS")
    assert "Standard_ZRS" in str(caught.value.expected)


def test_tags() -> None:
    assert parse_tags(["a=1", "b=x=y", "c", "d="]) == {"a": "1", "b": "x=y", "c": "", "d": ""}
    assert parse_tags([""]) == {}
    with pytest.raises(InvalidInput, match="the key is missing"):
        parse_tags(["=1"])
