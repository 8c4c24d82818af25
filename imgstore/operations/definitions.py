"""Image definitions."""

from collections.abc import Mapping
from dataclasses import replace

from imgstore.domain import names
from imgstore.domain.access import Action, Principal, authorize
from imgstore.domain.errors import Conflict, PropertyChangeNotAllowed
from imgstore.domain.resources import NO_TAGS, Architecture, HyperVGeneration, ImageDefinition, OsState, OsType
from imgstore.operations import finding
from imgstore.operations.finding import Lineage
from imgstore.operations.groups import nested_resources
from imgstore.operations.installation import Installation
from imgstore.operations.recording import recorded

_IMMUTABLE = {
    "location": "location",
    "properties.identifier.publisher": "publisher",
    "properties.identifier.offer": "offer",
    "properties.identifier.sku": "sku",
    "properties.osType": "os_type",
    "properties.osState": "os_state",
    "properties.hyperVGeneration": "hyper_v_generation",
    "properties.architecture": "architecture",
}


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
    architecture: str = "x64",
    location: str | None = None,
    description: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Lineage:
    """Make a definition, or give an existing one a new description or tags.

    Raises:
        InvalidInput: a name is none.
        ParentNotFound: no such gallery.
        Conflict: the gallery has a definition of the same publisher, offer and sku.
        PropertyChangeNotAllowed: the definition exists with other properties.
    """
    names.check_definition_name(name)
    names.check_identifier(publisher, what="publisher", characters_max=names.PUBLISHER_CHARACTERS_MAX)
    names.check_identifier(offer, what="offer", characters_max=names.OFFER_CHARACTERS_MAX)
    names.check_identifier(sku, what="sku", characters_max=names.SKU_CHARACTERS_MAX)
    scope = names.definition_id(installation.subscription, group, gallery, name)
    with (
        recorded(installation, principal, Action.WRITE, scope, "Microsoft.Compute/galleries/images/write"),
        installation.catalog.transaction() as facts,
    ):
        above = finding.parent_gallery(facts, installation.subscription, group, gallery)
        region = above.location if location is None else installation.regions.get(location, target="location").name
        wanted = ImageDefinition(
            uid=installation.effects.new_uid(),
            gallery_uid=above.uid,
            name=name,
            location=region,
            publisher=publisher,
            offer=offer,
            sku=sku,
            os_type=os_type,
            os_state=os_state,
            hyper_v_generation=hyper_v_generation,
            architecture=Architecture(architecture),
            description=description,
            tags=dict(tags) if tags else NO_TAGS,
            created_at=installation.effects.now(),
        )
        standing = facts.definitions.get(above.uid, name)
        if standing is not None:
            _check_same(standing, wanted)
            changed = replace(
                standing,
                description=standing.description if description is None else description,
                tags=standing.tags if tags is None else dict(tags),
            )
            facts.definitions.update(changed)
            return Lineage(gallery=above, definition=changed)
        _check_unique(facts.definitions.by_identifier(above.uid, publisher, offer, sku))
        facts.definitions.add(wanted)
        return Lineage(gallery=above, definition=wanted)


def _check_same(standing: ImageDefinition, wanted: ImageDefinition) -> None:
    for path, attribute in _IMMUTABLE.items():
        before, after = getattr(standing, attribute), getattr(wanted, attribute)
        if before != after:
            raise PropertyChangeNotAllowed(path, found=str(after), expected=str(before))


def _check_unique(other: ImageDefinition | None) -> None:
    if other is not None:
        raise Conflict(
            f"Gallery image: {other.name} identified by (publisher:{other.publisher}, offer:{other.offer}, "
            f"sku:{other.sku}) already exists. Choose a different publisher, offer, sku combination.",
            found=f"the definition {other.name}",
            expected="a publisher, offer and sku that no definition of the gallery has together",
            hint="change one of the three",
            target="identifier",
        )


def show_definition(
    installation: Installation, principal: Principal, *, group: str, gallery: str, name: str
) -> Lineage:
    """The definition of that name."""
    authorize(principal, Action.READ, names.definition_id(installation.subscription, group, gallery, name))
    with installation.catalog.reading() as facts:
        return finding.lineage(facts, installation.subscription, group, gallery, name)


def list_definitions(installation: Installation, principal: Principal, *, group: str, gallery: str) -> list[Lineage]:
    """The definitions of a gallery, by name."""
    authorize(principal, Action.READ, names.gallery_id(installation.subscription, group, gallery))
    with installation.catalog.reading() as facts:
        above = finding.gallery(facts, installation.subscription, group, gallery)
        return [Lineage(gallery=above, definition=each) for each in facts.definitions.list(above.uid)]


def delete_definition(installation: Installation, principal: Principal, *, group: str, gallery: str, name: str) -> None:
    """Remove a definition that has no versions.

    Raises:
        Conflict: it has versions.
    """
    scope = names.definition_id(installation.subscription, group, gallery, name)
    with (
        recorded(installation, principal, Action.DELETE, scope, "Microsoft.Compute/galleries/images/delete"),
        installation.catalog.transaction() as facts,
    ):
        line = finding.lineage(facts, installation.subscription, group, gallery, name)
        below = f"Microsoft.Compute/galleries/{line.gallery.name}/images/{line.definition.name}/versions"
        standing = facts.versions.list(line.definition.uid)
        if standing:
            softly = any(each.soft_deleted_at is not None for each in standing)
            more = "; those deleted softly with `image-version delete --bypass-soft-delete`" * softly
            children = [f"{below}/{each.name}" for each in standing]
            raise nested_resources(children, f"delete the definition's image versions first{more}")
        facts.definitions.delete(line.definition.uid)
