"""The rules of galleries and definitions: properties, permitted changes, limits and lists."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from imgstore.catalog.engine.database import Session
from imgstore.domain.effects import Effects
from imgstore.domain.errors import Conflict, ImgstoreError, InvalidInput, NotFound, PropertyChangeNotAllowed
from imgstore.domain.paging import PageRequest
from imgstore.domain.requests import DefinitionDetails, DiskOfImageRequest
from imgstore.domain.resources import (
    Architecture,
    DiskType,
    Feature,
    Gallery,
    HyperVGeneration,
    ImageDefinition,
    OsType,
    PurchasePlan,
    RecommendedRange,
)
from imgstore.domain.settings.limits import Limits
from imgstore.domain.views import DefinitionPath
from imgstore.operations.disks import disks
from imgstore.operations.gallery import definitions, galleries
from imgstore.operations.gallery import versions as gallery_versions
from imgstore.operations.installation import Installation
from tests.support.manual_clock import ManualClock
from tests.support.sample_gallery import (
    ADMIN,
    DEFINITION,
    GALLERY,
    GROUP,
    SampleImages,
    create_sample_gallery,
    delete,
    make_disk,
    open_home,
    publish,
)

pytest_plugins = ["tests.support.published_gallery"]

LATER = datetime(2999, 1, 1, tzinfo=UTC)
EVERYTHING = DefinitionDetails(
    description="d",
    tags={"a": "1"},
    eula="https://e",
    privacy_statement_uri="https://p",
    release_note_uri="https://r",
    end_of_life_at=LATER,
    recommended_vcpus=RecommendedRange(min=1, max=4),
    recommended_memory_gib=RecommendedRange(max=64),
    disallowed_disk_types=(DiskType.PREMIUM_LRS, DiskType.ULTRA_SSD_LRS),
    purchase_plan=PurchasePlan(name="n", publisher="q", product="r"),
    features=(Feature(name="SecurityType", value="TrustedLaunch"),),
)


def put(installation: Installation, details: DefinitionDetails | None = None, **changed: Any) -> ImageDefinition:
    values: dict[str, Any] = {
        "group": GROUP, "gallery": GALLERY, "name": "full", "publisher": "p", "offer": "o", "sku": "full",
        "os_type": OsType.LINUX, "architecture": Architecture.ARM64, "hyper_v_generation": HyperVGeneration.V2,
    }  # fmt: skip
    return definitions.create_definition(installation, ADMIN, details=details, **(values | changed)).definition


def show(installation: Installation, name: str = "full") -> ImageDefinition:
    return definitions.show_definition(installation, ADMIN, group=GROUP, gallery=GALLERY, name=name).definition


def refused(kind: type[ImgstoreError], code: str, text: str, call: Any) -> ImgstoreError:
    with pytest.raises(kind, match=text) as caught:
        call()
    assert caught.value.error_code == code
    assert caught.value.found, "what was found is not said"
    assert caught.value.hint, "what to do is not said"
    return caught.value


# -- what a definition tells ------------------------------------------------------------------------------------------


def test_definition_keeps_all_properties(empty: Installation) -> None:
    made = put(empty, EVERYTHING)
    assert show(empty) == made
    assert DefinitionDetails(**{name: getattr(made, name) for name in EVERYTHING.given_values()}) == EVERYTHING
    assert put(empty) == made, "what is not said again stays"
    assert put(empty, EVERYTHING) == made
    ends = DefinitionDetails(recommended_vcpus=RecommendedRange(max=8), recommended_memory_gib=RecommendedRange(min=2))
    again = put(empty, ends)
    assert (again.recommended_vcpus, again.recommended_memory_gib) == (
        RecommendedRange(min=1, max=8),
        RecommendedRange(min=2, max=64),
    )
    assert put(empty, DefinitionDetails(purchase_plan=PurchasePlan(name="n"))) == again


@pytest.mark.parametrize(
    ("details", "target", "text"),
    [
        (DefinitionDetails(recommended_vcpus=RecommendedRange(min=4, max=2)), "properties.recommended.vCPUs",
         r"value 4 of properties\.recommended\.vCPUs\.min is greater than the value 2 of properties.*vCPUs\.max"),
        (DefinitionDetails(recommended_memory_gib=RecommendedRange(min=9, max=8)), "properties.recommended.memory",
         r"value 9 of properties\.recommended\.memory\.min is greater than the value 8 of properties.*memory\.max"),
        (DefinitionDetails(recommended_vcpus=RecommendedRange(min=0)), "properties.recommended.vCPUs.min", "at least 1"),
        (DefinitionDetails(recommended_memory_gib=RecommendedRange(max=-1)), "properties.recommended.memory.max", "least 1"),
        (DefinitionDetails(end_of_life_at=datetime(2020, 1, 1, tzinfo=UTC)), "endOfLifeDate",
         r"^EndOfLifeDate must be set to a future date\."),
        (DefinitionDetails(features=(Feature(name="A", value="1"), Feature(name="a", value="2"))), "galleryImage.properties.features",
         "features of an image definition are invalid"),
    ],
)  # fmt: skip
def test_invalid_definitions_are_refused(
    empty: Installation, details: DefinitionDetails, target: str, text: str
) -> None:
    error = refused(InvalidInput, "InvalidParameter", text, lambda: put(empty, details))
    assert error.target == target
    with pytest.raises(NotFound):
        show(empty)


def test_definition_remains_after_the_end_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    monkeypatch.setattr(Session, "now", lambda _session: clock.now())
    with open_home(tmp_path / "home", effects=Effects(now=clock.now)) as installation:
        create_sample_gallery(installation)
        ends = clock.now() + timedelta(seconds=10)
        put(installation, DefinitionDetails(end_of_life_at=ends))
        clock.advance(10)
        assert put(installation, DefinitionDetails(description="new", end_of_life_at=ends)).description == "new"
        text = "must be set to a future date"
        soon = DefinitionDetails(end_of_life_at=clock.now() - timedelta(seconds=1))
        refused(InvalidInput, "InvalidParameter", text, lambda: put(installation, soon))


# -- what may change --------------------------------------------------------------------------------------------------


def update(installation: Installation, name: str = "full", **changes: Any) -> ImageDefinition:
    def change(line: DefinitionPath) -> ImageDefinition:
        return replace(line.definition, **changes)

    return definitions.update_definition(
        installation, ADMIN, change, group=GROUP, gallery=GALLERY, name=name
    ).definition


CHANGES: list[dict[str, Any]] = [
    {"description": None},
    {"tags": {"b": "2"}},
    {"release_note_uri": "https://new"},
    {"end_of_life_at": LATER + timedelta(days=1)},
    {"recommended_vcpus": RecommendedRange(min=2)},
    {"recommended_memory_gib": RecommendedRange()},
    {"allow_update_image": True, "features": (Feature(name="A", value="x", starts_at_version="2.0.0"),)},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: next(iter(changes)))
def test_changeable_properties_of_a_definition_as_in_azure(empty: Installation, changes: dict[str, Any]) -> None:
    made = put(empty, EVERYTHING)
    assert update(empty, **changes) == replace(made, **changes)
    assert show(empty) == replace(made, **changes)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"eula": "https://other"}, "properties.eula"),
        ({"privacy_statement_uri": None}, "properties.privacyStatementUri"),
        ({"disallowed_disk_types": ()}, "properties.disallowed.diskTypes"),
        ({"purchase_plan": None}, "properties.purchasePlan"),
        ({"os_type": OsType.WINDOWS}, "properties.osType"),
        ({"architecture": Architecture.X64}, "properties.architecture"),
        ({"sku": "x"}, "properties.identifier.sku"),
        ({"location": "eastus"}, "location"),
        ({"features": ()}, "properties.features"),
    ],
)
def test_other_properties_of_a_definition_cannot_change(
    empty: Installation, changes: dict[str, Any], path: str
) -> None:
    made = put(empty, EVERYTHING)
    text = f"^Changing property '{path}' is not allowed"
    code = "PropertyChangeNotAllowed"
    error = refused(PropertyChangeNotAllowed, code, text, lambda: update(empty, **changes))
    assert (error.target, error.status) == (path, 409)
    assert show(empty) == made
    if None not in changes.values() and "location" not in changes:
        said = {name: value for name, value in changes.items() if name in EVERYTHING.given_values()}
        base = {name: value for name, value in changes.items() if name not in said}
        refused(PropertyChangeNotAllowed, code, text, lambda: put(empty, DefinitionDetails(**said), **base))
        assert show(empty) == made


def test_an_update_is_checked_as_a_create(empty: Installation) -> None:
    made = put(empty, EVERYTHING)
    upside_down: dict[str, Any] = {"recommended_vcpus": RecommendedRange(min=8, max=4)}
    refused(InvalidInput, "InvalidParameter", "is greater than", lambda: update(empty, **upside_down))
    assert show(empty) == made
    with pytest.raises(NotFound):
        update(empty, name="nowhere")


def change_gallery(installation: Installation, **changes: Any) -> Gallery:
    def change(gallery: Gallery) -> Gallery:
        return replace(gallery, **changes)

    return galleries.update_gallery(installation, ADMIN, change, group=GROUP, name=GALLERY)


def test_changeable_properties_of_a_gallery(empty: Installation) -> None:
    before = galleries.show_gallery(empty, ADMIN, group=GROUP, name=GALLERY)
    assert (before.soft_delete_enabled, before.soft_delete_retention_days) == (False, 7)
    changes: dict[str, Any] = {
        "description": "d", "tags": {"a": "b"}, "soft_delete_enabled": True, "soft_delete_retention_days": 30,
    }  # fmt: skip
    assert change_gallery(empty, **changes) == replace(before, **changes)
    put_again = galleries.create_gallery(empty, ADMIN, group=GROUP, name=GALLERY, soft_delete_enabled=False)
    assert put_again == replace(before, **changes | {"soft_delete_enabled": False})
    assert galleries.show_gallery(empty, ADMIN, group=GROUP, name=GALLERY) == put_again


@pytest.mark.parametrize("days", [0, -1, 366])
def test_a_retention_out_of_range(empty: Installation, days: int) -> None:
    calls: list[Any] = [
        lambda: change_gallery(empty, soft_delete_retention_days=days),
        lambda: galleries.create_gallery(empty, ADMIN, group=GROUP, name="g9", soft_delete_retention_days=days),
    ]
    for call in calls:
        error = refused(InvalidInput, "InvalidParameter", "must be between 1 and 365, inclusive", call)
        assert error.target == "softDeletePolicy.retentionPeriodInDays"
    assert [each.name for each in galleries.list_galleries(empty, ADMIN)] == [GALLERY]


def test_a_gallery_is_not_moved(empty: Installation) -> None:
    code = "PropertyChangeNotAllowed"
    call: Any = lambda: change_gallery(empty, location="eastus")  # noqa: E731
    assert refused(PropertyChangeNotAllowed, code, "Changing property 'location'", call).target == "location"
    elsewhere: Any = lambda: galleries.create_gallery(empty, ADMIN, group="other", name=GALLERY.upper())  # noqa: E731
    refused(Conflict, "Conflict", "is not unique within the subscription", elsewhere)


# -- disallowed types of disks ----------------------------------------------------------------------------------------


def test_disk_of_a_disallowed_type_is_refused(empty: Installation, samples: SampleImages) -> None:
    put(empty, DefinitionDetails(disallowed_disk_types=(DiskType.STANDARD_ZRS,)))
    publish(empty, samples.first, targets=["southcentralus", "westus2=1=Standard_ZRS"], definition="full")
    version = gallery_versions.list_versions(empty, ADMIN, group=GROUP, gallery=GALLERY, definition="full")[0]
    reference: dict[str, Any] = {"group": GROUP, "reference": _reference("full")}
    error = refused(
        Conflict,
        "Conflict",
        "Disks of type Standard_ZRS are not allowed by the image definition 'full'",
        lambda: disks.create_disk(empty, ADMIN, DiskOfImageRequest(name="d1", location="westus2", **reference)),
    )
    assert error.target == "properties.disallowed.diskTypes"
    assert disks.list_disks(empty, ADMIN) == []
    made = disks.create_disk(empty, ADMIN, DiskOfImageRequest(name="d1", location="southcentralus", **reference))
    assert made.source_version_uid == version.version.uid


def _reference(name: str) -> Any:
    from imgstore.domain.names import ImageReference

    return ImageReference.parse(f"{GROUP}/{GALLERY}/{name}")


# -- limits -----------------------------------------------------------------------------------------------------------


def test_limits_of_resources_are_enforced(tmp_path: Path, samples: SampleImages) -> None:
    limits = Limits(galleries_max=1, definitions_max=2, versions_max=1)
    with open_home(tmp_path / "home", limits=limits) as installation:
        create_sample_gallery(installation)
        create_sample_gallery(installation)
        another: dict[str, Any] = {"group": GROUP, "name": "g2"}
        error = refused(
            Conflict,
            "QuotaExceeded",
            "limit of 1 galleries in a subscription and region is reached in 'southcentralus'",
            lambda: galleries.create_gallery(installation, ADMIN, **another),
        )
        assert "raise galleries_max under [limits]" in (error.hint or "")
        galleries.create_gallery(installation, ADMIN, location="eastus", **another)

        put(installation, name="second", sku="second")
        text = "limit of 2 image definitions"
        refused(Conflict, "QuotaExceeded", text, lambda: put(installation, name="third", sku="third"))
        put(installation, name="third", sku="third", location="eastus")

        publish(installation, samples.first, "1.0.0", targets=["southcentralus"])
        publish(installation, samples.first, "1.0.0", targets=["southcentralus"])
        refused(
            Conflict,
            "QuotaExceeded",
            "limit of 1 image versions",
            lambda: publish(installation, samples.first, "2.0.0", targets=["southcentralus"]),
        )
        delete(installation, "1.0.0")
        publish(installation, samples.first, "2.0.0", targets=["southcentralus"])


def test_replicas_are_limited_by_the_policy(tmp_path: Path, samples: SampleImages) -> None:
    with open_home(tmp_path / "home", limits=Limits(replicas_per_region_max=1)) as installation:
        create_sample_gallery(installation)
        text = "must be between 1 and 1, inclusive"
        call: Any = lambda: publish(installation, samples.first, targets=["southcentralus=2"])  # noqa: E731
        error = refused(InvalidInput, "InvalidParameter", text, call)
        assert "replicas_per_region_max" in (error.hint or "")


def test_limits_are_read_from_the_settings_of_the_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    file = home / "settings.toml"
    file.write_text('[limits]\npreset = "azure-2026"\ngalleries_max = 1\n')
    with open_home(home) as installation:
        assert (installation.limits.replicas_per_version_max, installation.limits.galleries_max) == (100, 1)
        galleries.create_gallery(installation, ADMIN, group=GROUP, name="a1")
        call: Any = lambda: galleries.create_gallery(installation, ADMIN, group=GROUP, name="a2")  # noqa: E731
        assert str(file) in (refused(Conflict, "QuotaExceeded", "limit of 1 galleries", call).hint or "")
    for text, found in (("[limits]\ngaleries = 1", "the key galeries"), ("[limits", "Expected")):
        file.write_text(text)
        with pytest.raises(InvalidInput, match=r"settings\.toml cannot be (used|read)") as caught, open_home(home):
            pass
        assert found in (caught.value.found or "")
    file.write_bytes(b"\xff")
    with pytest.raises(InvalidInput, match=r"settings\.toml cannot be (used|read)"), open_home(home):
        pass


# -- listing ----------------------------------------------------------------------------------------------------------


def walked(page: Any, size: int, **place: Any) -> list[list[Any]]:
    """All the pages of a list."""
    pages: list[list[Any]] = []
    token: str | None = None
    while not pages or token is not None:
        found = page(ADMIN, PageRequest(items_max=size, token=token), **place)
        pages.append(list(found.items))
        token = found.next_token
    return pages


def test_galleries_are_listed_by_pages_over_all_groups_and_in_one(empty: Installation) -> None:
    for group, name in (("b", "g2"), ("a", "G3"), ("b", "a1"), ("a", "z")):
        galleries.create_gallery(empty, ADMIN, group=group, name=name, location="southcentralus")

    def page(*args: Any, **place: Any) -> Any:
        return galleries.page_galleries(empty, *args, **place)

    assert [[each.name for each in part] for part in walked(page, 2)] == [["a1", "g1"], ["g2", "G3"], ["z"]]
    assert [[each.name for each in part] for part in walked(page, 1, group="b")] == [["a1"], ["g2"]]
    token = page(ADMIN, PageRequest(items_max=1)).next_token
    of_another: Any = lambda: page(ADMIN, PageRequest(token=token), group="b")  # noqa: E731
    refused(InvalidInput, "InvalidParameter", "token does not belong to this list", of_another)


def test_definitions_and_versions_are_listed_by_pages(empty: Installation, samples: SampleImages) -> None:
    for name in ("a", "z", "M"):
        put(empty, name=name, sku=name)

    def page(*args: Any, **place: Any) -> Any:
        return definitions.page_definitions(empty, *args, group=GROUP, gallery=GALLERY, **place)

    listed = [[line.definition.name for line in part] for part in walked(page, 3)]
    assert listed == [["a", "M", DEFINITION], ["z"]]

    for version in ("2.0.0", "10.0.0", "1.9.0", "1.10.0"):
        publish(empty, samples.first, version, targets=["southcentralus"])
    make_disk(empty, "d1", version="1.10.0")

    def versions_page(*args: Any) -> Any:
        return gallery_versions.page_versions(empty, *args, group=GROUP, gallery=GALLERY, definition=DEFINITION)

    def told(parts: Sequence[Sequence[Any]]) -> list[list[str]]:
        return [[str(view.version.name) for view in part] for part in parts]

    assert told(walked(versions_page, 2)) == [["1.9.0", "1.10.0"], ["2.0.0", "10.0.0"]]
    first = versions_page(ADMIN, PageRequest(items_max=2))
    delete(empty, "1.10.0")
    delete(empty, "2.0.0")
    rest = versions_page(ADMIN, PageRequest(items_max=2, token=first.next_token))
    assert told([rest.items]) == [["10.0.0"]], "a page goes on behind a key, though what had it is gone"
