"""Groups, galleries and definitions: idempotent PUT, errors that name the property, and deletion of parents last."""

from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.errors import (
    AccessDenied,
    Conflict,
    ImgstoreError,
    InvalidInput,
    NotFound,
    ParentNotFound,
    PropertyChangeNotAllowed,
)
from imgstore.domain.identity.access import Grant, Principal, Role
from imgstore.domain.names import group_id
from imgstore.domain.resources import Architecture, HyperVGeneration, OsState, OsType
from imgstore.domain.views import DefinitionPath
from imgstore.operations.disks import disks
from imgstore.operations.gallery import definitions, galleries, groups
from imgstore.operations.gallery import versions as gallery_versions
from imgstore.operations.installation import Installation
from tests.support.sample_gallery import ADMIN, DEFINITION, GALLERY, GROUP, delete, make_disk, open_home

pytest_plugins = ["tests.support.published_gallery"]


def everything(installation: Installation) -> list[object]:
    """All that any list shows."""
    shown: list[object] = [*groups.list_groups(installation, ADMIN), *disks.list_disks(installation, ADMIN)]
    for gallery in galleries.list_galleries(installation, ADMIN):
        shown.append(gallery)
        place = {"group": gallery.group, "gallery": gallery.name}
        for line in definitions.list_definitions(installation, ADMIN, **place):
            shown.append(line.definition)
            name = line.definition.name
            shown.extend(gallery_versions.list_versions(installation, ADMIN, definition=name, **place))
    return shown


def refused(installation: Installation, kind: type[ImgstoreError], code: str, text: str, call: Any) -> ImgstoreError:
    """The error of a call that must be refused, with nothing changed by it."""
    before = everything(installation)
    with pytest.raises(kind, match=text) as caught:
        call()
    assert caught.value.error_code == code
    assert caught.value.hint, "what to do is not said"
    assert caught.value.found, "what was found is not said"
    assert everything(installation) == before, "the refused call left something"
    return caught.value


def test_a_group_is_made_once_and_its_tags_change(empty: Installation) -> None:
    first = groups.create_group(empty, ADMIN, name="other", location="West US 2", tags={"a": "1"})
    assert first.location == "westus2"
    assert groups.create_group(empty, ADMIN, name="OTHER", location="westus2") == first
    again = groups.create_group(empty, ADMIN, name="other", location="westus2", tags={"b": "2"})
    assert (again.uid, dict(again.tags)) == (first.uid, {"b": "2"})
    assert [each.name for each in groups.list_groups(empty, ADMIN)] == ["other", GROUP]
    groups.delete_group(empty, ADMIN, name="other")
    with pytest.raises(NotFound):
        groups.show_group(empty, ADMIN, name="other")


def test_group_cannot_change_the_region(empty: Installation) -> None:
    refused(
        empty,
        Conflict,
        "InvalidResourceGroupLocation",
        "already exists",
        lambda: groups.create_group(empty, ADMIN, name=GROUP, location="eastus"),
    )


@pytest.mark.parametrize("name", ["", "a" * 91, "dot.", "sla/sh", "star*"])
def test_a_bad_group_name_is_refused(empty: Installation, name: str) -> None:
    refused(
        empty,
        InvalidInput,
        "InvalidParameter",
        "name is invalid",
        lambda: groups.create_group(empty, ADMIN, name=name, location="eastus"),
    )


def test_an_unknown_region_is_refused_and_makes_no_group(empty: Installation) -> None:
    refused(
        empty,
        InvalidInput,
        "InvalidParameter",
        "atlantis",
        lambda: galleries.create_gallery(empty, ADMIN, group="new", name="g2", location="atlantis"),
    )


def test_putting_a_gallery_again_changes_only_what_is_given(empty: Installation) -> None:
    put = galleries.create_gallery
    first = put(empty, ADMIN, group=GROUP, name=GALLERY, description="one", tags={"a": "1"})
    assert put(empty, ADMIN, group=GROUP, name=GALLERY.upper()) == first
    changed = put(empty, ADMIN, group=GROUP, name=GALLERY, tags={})
    assert (changed.uid, changed.pool_uid, changed.description, dict(changed.tags)) == (
        first.uid,
        first.pool_uid,
        "one",
        {},
    )
    assert galleries.show_gallery(empty, ADMIN, group=GROUP, name=GALLERY) == changed


def test_gallery_cannot_move_and_the_name_is_unique_in_the_subscription(empty: Installation) -> None:
    put = galleries.create_gallery
    refused(
        empty,
        PropertyChangeNotAllowed,
        "PropertyChangeNotAllowed",
        "'location'",
        lambda: put(empty, ADMIN, group=GROUP, name=GALLERY, location="eastus"),
    )
    refused(
        empty,
        Conflict,
        "Conflict",
        f"The gallery name {GALLERY} is not unique within the subscription",
        lambda: put(empty, ADMIN, group="elsewhere", name=GALLERY),
    )
    refused(
        empty,
        InvalidInput,
        "InvalidParameter",
        "dashes, are disallowed",
        lambda: put(empty, ADMIN, group="elsewhere", name="my-gallery"),
    )


def put_definition(installation: Installation, **changed: Any) -> DefinitionPath:
    values: dict[str, Any] = {
        "group": GROUP,
        "gallery": GALLERY,
        "name": DEFINITION,
        "publisher": "p",
        "offer": "o",
        "sku": "s",
        "os_type": OsType.LINUX,
    }
    return definitions.create_definition(installation, ADMIN, **(values | changed))


def test_putting_a_definition_again_changes_only_what_is_given(empty: Installation) -> None:
    first = put_definition(empty).definition
    described = put_definition(empty, description="d").definition
    assert (described.uid, described.description) == (first.uid, "d")
    assert put_definition(empty).definition == described


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"publisher": "q"}, "properties.identifier.publisher"),
        ({"offer": "q"}, "properties.identifier.offer"),
        ({"sku": "q"}, "properties.identifier.sku"),
        ({"os_type": OsType.WINDOWS}, "properties.osType"),
        ({"os_state": OsState.SPECIALIZED}, "properties.osState"),
        ({"hyper_v_generation": HyperVGeneration.V2}, "properties.hyperVGeneration"),
        ({"architecture": Architecture.ARM64}, "properties.architecture"),
        ({"location": "eastus"}, "location"),
    ],
)
def test_identity_of_a_definition_cannot_change(empty: Installation, changed: dict[str, Any], path: str) -> None:
    error = refused(
        empty,
        PropertyChangeNotAllowed,
        "PropertyChangeNotAllowed",
        f"Changing property '{path}' is not allowed",
        lambda: put_definition(empty, **changed),
    )
    assert error.target == path


def test_definition_needs_a_gallery_and_a_unique_identifier(empty: Installation) -> None:
    refused(
        empty,
        ParentNotFound,
        "ParentResourceNotFound",
        "Parent resource 'nowhere' not found",
        lambda: put_definition(empty, gallery="nowhere"),
    )
    refused(
        empty,
        Conflict,
        "Conflict",
        r"identified by \(publisher:p, offer:o, sku:s\) already exists",
        lambda: put_definition(empty, name="other"),
    )


def test_parents_are_not_deleted_before_their_children(published: Installation) -> None:
    make_disk(published, "d1")
    definition = {"group": GROUP, "gallery": GALLERY, "name": DEFINITION}
    refusals: list[tuple[Any, str]] = [
        (lambda: definitions.delete_definition(published, ADMIN, **definition), f"{DEFINITION}/versions/1.0.0"),
        (lambda: galleries.delete_gallery(published, ADMIN, group=GROUP, name=GALLERY), f"images/{DEFINITION}"),
        (lambda: groups.delete_group(published, ADMIN, name=GROUP), "."),
    ]
    for call, child in refusals:
        refused(published, Conflict, "CannotDeleteResource", f"nested resources exist.*{child}", call)
    delete(published)
    definitions.delete_definition(published, ADMIN, **definition)
    galleries.delete_gallery(published, ADMIN, group=GROUP, name=GALLERY)
    refused(
        published,
        Conflict,
        "CannotDeleteResource",
        "d1",
        lambda: groups.delete_group(published, ADMIN, name=GROUP),
    )
    disks.delete_disk(published, ADMIN, group=GROUP, name="d1")
    groups.delete_group(published, ADMIN, name=GROUP)
    assert everything(published) == []


def test_action_without_a_role_is_refused_and_logged(tmp_path: Path) -> None:
    with open_home(tmp_path / "home") as installation:
        scope = group_id(installation.subscription, "mine")
        reader = Principal(name="eve", grants=(Grant(role=Role.READER, scope=scope),))
        with pytest.raises(AccessDenied) as caught:
            galleries.create_gallery(installation, reader, group="mine", name="g2")
        assert caught.value.error_code == "AuthorizationFailed"
        assert everything(installation) == []
        with installation.catalog.reading() as transaction:
            last = transaction.activity.list(1)[0]
        assert (last.principal, last.outcome) == ("eve", "Failed")
