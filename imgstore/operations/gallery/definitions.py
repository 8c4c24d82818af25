"""Create, show, update and delete image definitions."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from imgstore.domain import names
from imgstore.domain.errors import Conflict
from imgstore.domain.identity.access import DEFINITIONS, Action, Principal, filter_readable, is_allowed
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.requests import DefinitionDetails
from imgstore.domain.resources import (
    Architecture,
    HyperVGeneration,
    ImageDefinition,
    OsState,
    OsType,
)
from imgstore.domain.settings.limits import check_count
from imgstore.domain.views import DefinitionPath
from imgstore.operations import lookup
from imgstore.operations.activity_log import permit, permit_list, record_activity, record_resource_deletion
from imgstore.operations.gallery.groups import nested_resources_error
from imgstore.operations.installation import Installation
from imgstore.policy.allowed_changes import check_definition


def create_definition(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    gallery: str,
    name: str,
    publisher: str,
    offer: str,
    sku: str,
    os_type: OsType,
    os_state: OsState = OsState.GENERALIZED,
    hyper_v_generation: HyperVGeneration = HyperVGeneration.V1,
    architecture: Architecture = Architecture.X64,
    location: str | None = None,
    description: str | None = None,
    tags: Mapping[str, str] | None = None,
    details: DefinitionDetails | None = None,
) -> DefinitionPath:
    """Create a definition, or change the properties of an existing definition that may change.

    Raises:
        InvalidInput: a name is malformed, or a value is out of range.
        ParentNotFound: the gallery does not exist.
        Conflict: the gallery has a definition of the same publisher, offer and sku, or the subscription has the largest
            permitted number of definitions in the region.
        PropertyChangeNotAllowed: the definition exists with other properties.
    """
    names.check_definition_name(name)
    names.check_identifier(publisher, what="publisher", characters_max=names.PUBLISHER_CHARACTERS_MAX)
    names.check_identifier(offer, what="offer", characters_max=names.OFFER_CHARACTERS_MAX)
    names.check_identifier(sku, what="sku", characters_max=names.SKU_CHARACTERS_MAX)
    scope = names.definition_id(installation.subscription, group, gallery, name)
    with (
        record_activity(installation, principal, Action.WRITE, scope),
        installation.catalog.transaction() as transaction,
    ):
        above = lookup.find_parent_gallery(transaction, installation.subscription, group, gallery)
        region = above.location if location is None else installation.regions.get(location, target="location").name
        asked: dict[str, Any] = {
            "location": region,
            "publisher": publisher,
            "offer": offer,
            "sku": sku,
            "os_type": os_type,
            "os_state": os_state,
            "hyper_v_generation": hyper_v_generation,
            "architecture": architecture,
        }
        asked |= (details or DefinitionDetails()).given_values()
        asked |= DefinitionDetails(description=description, tags=tags).given_values()
        now = transaction.now()
        found = transaction.definitions.get(above.uid, name)
        if found is not None:
            standing = transaction.definitions.get_for_update(found.uid)
            wanted = replace(standing, **_fill_missing(asked, standing))
            check_definition(wanted, standing, now)
            transaction.definitions.update(wanted)
            return DefinitionPath(gallery=above, definition=wanted)
        new_uid = installation.effects.new_uid()
        wanted = ImageDefinition(uid=new_uid, gallery_uid=above.uid, name=name, created_at=now, **asked)
        check_definition(wanted, None, now)
        _check_unique(transaction.definitions.by_identifier(above.uid, publisher, offer, sku))
        there = transaction.definitions.count(installation.subscription, region)
        check_count(installation.limits, "definitions_max", there, what="image definitions", region=region)
        transaction.definitions.add(wanted)
        return DefinitionPath(gallery=above, definition=wanted)


def _fill_missing(asked: Mapping[str, Any], standing: ImageDefinition) -> dict[str, Any]:
    """Fill the missing parts of a requested range or plan from the existing definition."""
    whole = dict(asked)
    for name in ("recommended_vcpus", "recommended_memory_gib", "purchase_plan"):
        before = getattr(standing, name)
        if name in asked and before is not None:
            said = {part: value for part, value in asdict(asked[name]).items() if value is not None}
            whole[name] = replace(before, **said)
    return whole


def update_definition(
    installation: Installation,
    principal: Principal,
    change: Callable[[DefinitionPath], ImageDefinition],
    *,
    group: str,
    gallery: str,
    name: str,
) -> DefinitionPath:
    """Change the properties of a definition that may change.

    Args:
        installation: the installation.
        principal: the caller.
        change: makes the new definition from the present definition; pure.
        group: name of the resource group.
        gallery: name of the gallery.
        name: name of the definition.

    Raises:
        NotFound: the definition does not exist.
        InvalidInput: a value is out of range, or an error of `change`.
        PropertyChangeNotAllowed: the new value changes a property that cannot change.
    """
    scope = names.definition_id(installation.subscription, group, gallery, name)
    with (
        record_activity(installation, principal, Action.WRITE, scope),
        installation.catalog.transaction() as transaction,
    ):
        definition_path = lookup.find_definition_path(transaction, installation.subscription, group, gallery, name)
        standing = transaction.definitions.get_for_update(definition_path.definition.uid)
        wanted = change(replace(definition_path, definition=standing))
        check_definition(wanted, standing, transaction.now())
        transaction.definitions.update(wanted)
        return replace(definition_path, definition=wanted)


def _check_unique(other: ImageDefinition | None) -> None:
    if other is not None:
        raise Conflict(
            f"Gallery image: {other.name} identified by (publisher:{other.publisher}, offer:{other.offer}, "
            f"sku:{other.sku}) already exists. Choose a different publisher, offer, sku combination.",
            found=f"the definition {other.name}",
            expected="a combination of publisher, offer and sku that is new in the gallery",
            hint="change the publisher, the offer or the sku",
            target="identifier",
        )


def show_definition(
    installation: Installation, principal: Principal, *, group: str, gallery: str, name: str
) -> DefinitionPath:
    """Return a definition."""
    permit(installation, principal, Action.READ, names.definition_id(installation.subscription, group, gallery, name))
    with installation.catalog.reading() as transaction:
        return lookup.find_definition_path(transaction, installation.subscription, group, gallery, name)


def list_definitions(
    installation: Installation, principal: Principal, *, group: str, gallery: str
) -> list[DefinitionPath]:
    """List the definitions of a gallery by name."""
    return list(page_definitions(installation, principal, PageRequest(), group=group, gallery=gallery).items)


def page_definitions(
    installation: Installation, principal: Principal, request: PageRequest, *, group: str, gallery: str
) -> Page[DefinitionPath]:
    """List a page.

    Raises:
        InvalidInput: the token belongs to another list.
    """
    scope = names.gallery_id(installation.subscription, group, gallery)
    permit_list(installation, principal, scope)
    whole = is_allowed(principal, Action.READ, scope, DEFINITIONS)
    of = f"{scope}/images"
    after = request.start_key(of)
    with installation.catalog.reading() as transaction:
        above = lookup.find_gallery(transaction, installation.subscription, group, gallery)
        found = transaction.definitions.list(above.uid, after=after, limit=request.limit if whole else None)
        found = filter_readable(principal, found, lambda each: f"{scope}/images/{each.name}", whole=whole)
        lines = [DefinitionPath(gallery=above, definition=each) for each in found]
        return Page.from_rows(lines, request, of=of, key=lambda definition_path: definition_path.definition.name)


def delete_definition(installation: Installation, principal: Principal, *, group: str, gallery: str, name: str) -> None:
    """Delete a definition without versions.

    Raises:
        Conflict: the definition has versions.
    """
    scope = names.definition_id(installation.subscription, group, gallery, name)
    with record_resource_deletion(installation, principal, scope), installation.catalog.transaction() as transaction:
        definition_path = lookup.find_definition_path(transaction, installation.subscription, group, gallery, name)
        below = f"Microsoft.Compute/galleries/{definition_path.gallery.name}/images/{definition_path.definition.name}/versions"
        standing = transaction.versions.list(definition_path.definition.uid)
        if standing:
            softly = any(each.soft_deleted_at is not None for each in standing)
            more = "; those deleted softly with `image-version delete --bypass-soft-delete`" * softly
            children = [f"{below}/{each.name}" for each in standing]
            raise nested_resources_error(children, f"delete the definition's image versions first{more}")
        transaction.definitions.delete(definition_path.definition.uid)
