"""Galleries and definitions survive a round trip through `show`, and values of a wrong type are refused."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import (
    Architecture,
    DiskType,
    Feature,
    Gallery,
    ImageDefinition,
    OsType,
    PurchasePlan,
    RecommendedRange,
)
from imgstore.domain.views import DefinitionPath
from imgstore.wire.requests.gallery_update import edit_definition, edit_gallery
from imgstore.wire.requests.generic_update import Edit, Verb

NOW = datetime(2018, 1, 1, tzinfo=UTC)
GALLERY = Gallery(uid="g", subscription="s", group="rg", name="g1", location="westus", pool_uid="p", created_at=NOW)
DEFINITION = ImageDefinition(
    uid="d", gallery_uid="g", name="ubuntu", location="westus", publisher="p", offer="o", sku="s",
    os_type=OsType.LINUX, created_at=NOW,
)  # fmt: skip

texts = st.text(min_size=1, max_size=8)
some_text = st.none() | texts
tags: st.SearchStrategy[Mapping[str, str]] = st.dictionaries(texts, st.text(max_size=5), max_size=3)
ends = st.none() | st.integers(1, 2**31 - 1)
ranges = st.builds(RecommendedRange, min=ends, max=ends)
features = st.builds(Feature, name=texts, value=st.text(max_size=5), starts_at_version=st.none() | st.just("1.2.3"))
instants = st.datetimes(
    timezones=st.just(UTC),
    min_value=datetime(1970, 1, 2),  # noqa: DTZ001 - hypothesis adds the zone
    max_value=datetime(9998, 1, 1),  # noqa: DTZ001
)
details = st.fixed_dictionaries(
    {
        "description": some_text,
        "tags": tags,
        "eula": some_text,
        "release_note_uri": some_text,
        "end_of_life_at": st.none() | instants,
        "recommended_vcpus": ranges,
        "recommended_memory_gib": ranges,
        "disallowed_disk_types": st.lists(st.sampled_from(DiskType), unique=True, max_size=2).map(tuple),
        "purchase_plan": st.none() | st.just(PurchasePlan(name="n", product="r")),
        "architecture": st.sampled_from(Architecture),
        "features": st.lists(features, max_size=3).map(tuple),
        "allow_update_image": st.booleans(),
    }
)


@given(details)
def test_definition_without_edits_is_unchanged(told: dict[str, Any]) -> None:
    definition = replace(DEFINITION, **told)
    assert edit_definition(DefinitionPath(gallery=GALLERY, definition=definition), []) == definition


@given(some_text, tags, st.booleans(), st.integers(1, 365))
def test_gallery_without_edits_is_unchanged(
    description: str | None, tags: Mapping[str, str], enabled: bool, days: int
) -> None:
    gallery = replace(
        GALLERY,
        description=description,
        tags=tags,
        soft_delete_enabled=enabled,
        soft_delete_retention_days=days,
    )
    assert edit_gallery(gallery, []) == gallery


def setting(*words: str) -> list[Edit]:
    return [Edit(verb=Verb.SET, words=words)]


@pytest.mark.parametrize(
    ("word", "target"),
    [
        ("softDeletePolicy.isSoftDeleteEnabled=perhaps", "properties.softDeletePolicy.isSoftDeleteEnabled"),
        ("softDeletePolicy.retentionPeriodInDays=1.5", "properties.softDeletePolicy.retentionPeriodInDays"),
        ("softDeletePolicy.retentionPeriodInDays=true", "properties.softDeletePolicy.retentionPeriodInDays"),
        ("softDeletePolicy.retentionPeriodInDays=4294967296", "properties.softDeletePolicy.retentionPeriodInDays"),
        ("description=[]", "properties.description"),
        ("tags.a={}", "tags.a"),
        ("tags=x", "tags"),
    ],
)
def test_value_of_a_wrong_type_is_refused_by_path(word: str, target: str) -> None:
    with pytest.raises(InvalidInput, match="is invalid") as caught:
        edit_gallery(GALLERY, setting(word))
    assert caught.value.target == target
    assert caught.value.found
    assert caught.value.expected


def test_null_removes_a_value() -> None:
    gallery = replace(GALLERY, description="d", tags={"a": "b", "c": "d"})
    assert edit_gallery(gallery, setting("tags.a=null", "description=null")) == replace(GALLERY, tags={"c": "d"})
