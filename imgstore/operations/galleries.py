"""Galleries."""

from collections.abc import Mapping
from dataclasses import replace

from imgstore.domain import names
from imgstore.domain.access import Action, Principal, authorize
from imgstore.domain.errors import Conflict, PropertyChangeNotAllowed
from imgstore.domain.resources import NO_TAGS, Gallery, Pool
from imgstore.operations import finding
from imgstore.operations.groups import ensure_group, nested_resources
from imgstore.operations.installation import Installation
from imgstore.operations.recording import recorded

FINGERPRINT_KEY_BYTES = 32


def create_gallery(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    location: str | None = None,
    description: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Gallery:
    """Make a gallery with a pool of its own, or give an existing one a new description or tags.

    Args:
        installation: where.
        principal: who.
        group: the group's name; made where it is missing.
        name: the gallery's.
        location: None is the group's region, or the first of regions.yaml for a new group.
        description: None leaves it as it is.
        tags: None leaves them as they are.

    Raises:
        InvalidInput: a name or a region is none.
        Conflict: the subscription has a gallery of that name in another group.
        PropertyChangeNotAllowed: the gallery exists in another region.
    """
    names.check_gallery_name(name)
    region = None if location is None else installation.regions.get(location, target="location").name
    scope = names.gallery_id(installation.subscription, group, name)
    with (
        recorded(installation, principal, Action.WRITE, scope, "Microsoft.Compute/galleries/write"),
        installation.catalog.transaction() as facts,
    ):
        first = next(iter(installation.regions.regions))
        above = ensure_group(installation, facts, group, region or first)
        standing = facts.galleries.get(installation.subscription, group, name)
        if standing is not None:
            if region not in (None, standing.location):
                raise PropertyChangeNotAllowed("location", found=str(region), expected=standing.location)
            changed = replace(
                standing,
                description=standing.description if description is None else description,
                tags=standing.tags if tags is None else dict(tags),
            )
            facts.galleries.update(changed)
            return changed
        _check_unique(installation, facts.galleries.by_name(installation.subscription, name), name)
        pool = Pool(
            uid=installation.effects.new_uid(),
            fingerprint_key=installation.effects.random_bytes(FINGERPRINT_KEY_BYTES),
        )
        facts.pools.add(pool)
        gallery = Gallery(
            uid=installation.effects.new_uid(),
            subscription=installation.subscription,
            group=above.name,
            name=name,
            location=region or above.location,
            description=description,
            tags=dict(tags) if tags else NO_TAGS,
            pool_uid=pool.uid,
            created_at=installation.effects.now(),
        )
        facts.galleries.add(gallery)
        return gallery


def _check_unique(installation: Installation, other: Gallery | None, name: str) -> None:
    if other is not None:
        raise Conflict(
            f"The gallery name {name} is not unique within the subscription '{installation.subscription}'.",
            found=f"a gallery {other.name} in the resource group {other.group}",
            expected="a name that no gallery of the subscription has",
            hint="choose another name",
            target="galleryName",
        )


def show_gallery(installation: Installation, principal: Principal, *, group: str, name: str) -> Gallery:
    """The gallery of that name."""
    authorize(principal, Action.READ, names.gallery_id(installation.subscription, group, name))
    with installation.catalog.reading() as facts:
        return finding.gallery(facts, installation.subscription, group, name)


def list_galleries(installation: Installation, principal: Principal, *, group: str | None = None) -> list[Gallery]:
    """The galleries of a group, or of the subscription, by name."""
    authorize(principal, Action.READ, f"/subscriptions/{installation.subscription}")
    with installation.catalog.reading() as facts:
        if group is not None:
            finding.group(facts, installation.subscription, group)
        return facts.galleries.list(installation.subscription, group)


def delete_gallery(installation: Installation, principal: Principal, *, group: str, name: str) -> None:
    """Remove a gallery that has no definitions. Its pool stays while disks stand on it.

    Raises:
        Conflict: it has definitions.
    """
    scope = names.gallery_id(installation.subscription, group, name)
    with (
        recorded(installation, principal, Action.DELETE, scope, "Microsoft.Compute/galleries/delete"),
        installation.catalog.transaction() as facts,
    ):
        gallery = finding.gallery(facts, installation.subscription, group, name)
        children = [
            f"Microsoft.Compute/galleries/{gallery.name}/images/{each.name}"
            for each in facts.definitions.list(gallery.uid)
        ]
        if children:
            raise nested_resources(children, "delete the gallery's image definitions first")
        facts.galleries.delete(gallery.uid)
