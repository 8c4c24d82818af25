"""Generic updates of az: each form, the result, and the error of each invalid argument."""

import copy

import pytest

from imgstore.domain.errors import InvalidInput, PropertyChangeNotAllowed
from imgstore.wire.json_text import Json
from imgstore.wire.requests.generic_update import Edit, Verb, apply_edits, changed_paths, check_changes


def resource() -> Json:
    return {
        "name": "1.0.0",
        "location": "westus",
        "tags": {"team": "images"},
        "properties": {
            "description": "d",
            "publishingProfile": {
                "targetRegions": [
                    {"name": "West US", "regionalReplicaCount": 1},
                    {"name": "East US", "regionalReplicaCount": 2},
                ],
                "excludeFromLatest": True,
            },
        },
    }


def edit(verb: str, *words: str) -> Edit:
    return Edit(verb=Verb(verb), words=words)


def edited(*edits: Edit, force_string: bool = False) -> Json:
    before = resource()
    after = apply_edits(before, edits, force_string=force_string)
    assert before == resource(), "the resource itself was changed"
    return after


def changes(*edits: Edit, force_string: bool = False) -> dict[str, Json]:
    return {
        path: new for path, (_, new) in changed_paths(resource(), edited(*edits, force_string=force_string)).items()
    }


REGIONS = "properties.publishingProfile.targetRegions"


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (["description=hi there"], {"properties.description": "hi there"}),
        (["properties.description=a=b"], {"properties.description": "a=b"}),
        (["recommended.memory.max=8"], {"properties.recommended.memory.max": 8}),
        (["publishingprofile.ExcludeFromLatest=false"], {"properties.publishingProfile.excludeFromLatest": False}),
        (["tags.a=1", "tags.b=x"], {"tags.a": 1, "tags.b": "x"}),
        (['tags."a.b"=x'], {"tags.a.b": "x"}),
        (["tags={}"], {"tags.team": None}),
        (["location=eastus"], {"location": "eastus"}),
        (["description="], {"properties.description": ""}),
    ],
)
def test_set(words: list[str], changed: dict[str, Json]) -> None:
    assert changes(edit("set", *words)) == changed


@pytest.mark.parametrize("index", ["1", "-1", "name=East US", "name=eastus", "NAME=EastUS"])
def test_set_reaches_into_a_list(index: str) -> None:
    after = edited(edit("set", f"publishingProfile.targetRegions[{index}].regionalReplicaCount=5"))
    assert [each["regionalReplicaCount"] for each in after["properties"]["publishingProfile"]["targetRegions"]] == [
        1,
        5,
    ]


def test_force_string_keeps_texts() -> None:
    assert changes(edit("set", "tags.a=1"), force_string=True) == {"tags.a": "1"}


def test_add_makes_one_object_of_pairs_and_a_missing_list() -> None:
    added = changes(edit("add", "publishingProfile.targetRegions", "name=uksouth", "regionalReplicaCount=3"))
    assert added[REGIONS][2:] == [{"name": "uksouth", "regionalReplicaCount": 3}]
    assert changes(edit("add", "features", "name=A", "value=x")) == {
        "properties.features": [{"name": "A", "value": "x"}]
    }
    assert changes(edit("add", "disallowed.diskTypes", "Standard_LRS", "Premium_LRS")) == {
        "properties.disallowed.diskTypes": ["Standard_LRS", "Premium_LRS"]
    }


def test_remove_deletes_a_property_or_an_element() -> None:
    assert changes(edit("remove", "description")) == {"properties.description": None}
    assert changes(edit("remove", "tags.TEAM")) == {"tags.team": None}
    for words in (["publishingProfile.targetRegions", "0"], ["publishingProfile.targetRegions[name=westus]"]):
        left = changes(edit("remove", *words))[REGIONS]
        assert [each["name"] for each in left] == ["East US"]


def test_edits_are_applied_in_order() -> None:
    path = "publishingProfile.targetRegions"
    first = changes(edit("remove", path, "0"), edit("add", path, "name=uksouth"), edit("set", f"{path}[1].name=ukwest"))
    assert [each["name"] for each in first[REGIONS]] == ["East US", "ukwest"]


@pytest.mark.parametrize(
    ("verb", "words", "text", "target"),
    [
        ("set", ["description"], "is not an assignment", "description"),
        ("set", ["=x"], "is not an assignment", "=x"),
        ("set", [], "is not an assignment", ""),
        ("set", ["a..b=x"], "not a path", "a..b"),
        ("set", ["[0]=x"], "not a path", "[0]"),
        ("set", ["description.more=x"], "without properties", "description.more"),
        ("set", ["publishingProfile.targetRegions[2].name=x"], r"\[2\]", "publishingProfile.targetRegions[2].name"),
        ("set", ["description[0]=x"], "not a list", "description[0]"),
        ("add", ["features"], "values to add", "features"),
        ("add", ["description", "x"], "not a list", "description"),
        ("remove", ["eula"], "Couldn't find 'eula'", "eula"),
        ("remove", ["recommended.memory"], "Couldn't find 'recommended'", "recommended.memory"),
        ("remove", ["publishingProfile.targetRegions", "7"], r"\[7\]", "publishingProfile.targetRegions"),
        ("remove", ["publishingProfile.targetRegions", "0", "1"], "optional index", "publishingProfile.targetRegions"),
        ("remove", ["publishingProfile.targetRegions[name=mars]"], r"\[name=mars\]",
         "publishingProfile.targetRegions[name=mars]"),
    ],
)  # fmt: skip
def test_invalid_edit_is_refused_by_path(verb: str, words: list[str], text: str, target: str) -> None:
    with pytest.raises(InvalidInput, match=text) as caught:
        edited(edit(verb, *words))
    assert (caught.value.error_code, caught.value.target) == ("InvalidParameter", target)
    assert caught.value.found
    assert caught.value.hint


def test_change_is_allowed_at_or_below_a_named_path_only() -> None:
    before, after = resource(), resource()
    after["tags"]["x"] = "y"
    check_changes(before, after, {"tags"})
    with pytest.raises(PropertyChangeNotAllowed, match=r"Changing property 'tags\.x' is not allowed") as caught:
        check_changes(before, after, {"tag", "properties.description"})
    assert (caught.value.target, caught.value.found, caught.value.expected) == ("tags.x", '"y"', "nothing")
    assert "properties.description" in (caught.value.hint or "")


def test_empty_object_equals_missing_object() -> None:
    after = copy.deepcopy(resource())
    after["properties"]["recommended"] = {"memory": {}}
    assert changed_paths(resource(), after) == {}
    assert changed_paths({"a": True}, {"a": 1}) == {"a": (True, 1)}
