"""Create, show, update and delete galleries."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.errors import Conflict
from imgstore.domain.identity.access import GALLERIES, Action, Principal, filter_readable, is_allowed
from imgstore.domain.identity.sharing import CommunityInfo, SharingPermission, change_profile
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.resources import Gallery, Pool
from imgstore.domain.settings.limits import check_count
from imgstore.operations import lookup
from imgstore.operations.activity_log import permit, permit_list, record_activity, record_resource_deletion
from imgstore.operations.gallery.groups import ensure_group, nested_resources_error, permit_group
from imgstore.operations.installation import Installation
from imgstore.policy.allowed_changes import check_gallery

FINGERPRINT_KEY_BYTES = 32

_TOLD: Final = 20
"""Largest number of ids in the error about resources that use a deleted gallery's content."""


def create_gallery(
    installation: Installation,
    principal: Principal,
    *,
    group: str,
    name: str,
    location: str | None = None,
    description: str | None = None,
    tags: Mapping[str, str] | None = None,
    soft_delete_enabled: bool | None = None,
    soft_delete_retention_days: int | None = None,
    permission: SharingPermission | None = None,
    community: CommunityInfo | None = None,
) -> Gallery:
    """Create a gallery with a pool of its own, or change the properties of an existing gallery that may change.

    Args:
        installation: the installation.
        principal: the caller.
        group: name of the resource group; a missing group is created.
        name: name of the gallery.
        location: None uses the group's region, or the first of regions.yaml for a new group.
        description: None keeps the present value.
        tags: None keeps the present values.
        soft_delete_enabled: None keeps the present value; for a new gallery False.
        soft_delete_retention_days: None keeps the present value; for a new gallery 7.
        permission: kind of sharing; None keeps the present value.
        community: public information, for the community permission.

    Raises:
        InvalidInput: a name is malformed, a region is unknown, or a value is out of range.
        Conflict: the subscription has a gallery of that name in another group, or has the largest permitted number of
            galleries in the region.
        PropertyChangeNotAllowed: the gallery exists in another region.
    """
    names.check_gallery_name(name)
    region = None if location is None else installation.regions.get(location, target="location").name
    said: dict[str, Any] = {
        "description": description,
        "tags": tags,
        "soft_delete_enabled": soft_delete_enabled,
        "soft_delete_retention_days": soft_delete_retention_days,
    }
    asked = {name: value for name, value in said.items() if value is not None}
    scope = names.gallery_id(installation.subscription, group, name)
    permit_group(installation, principal, group)
    with (
        record_activity(installation, principal, Action.WRITE, scope),
        installation.catalog.transaction() as transaction,
    ):
        first = next(iter(installation.regions.regions))
        above = ensure_group(installation, transaction, group, region or first)
        standing = transaction.galleries.get(installation.subscription, group, name)
        if standing is not None:
            asked |= {} if region is None else {"location": region}
            asked |= {} if permission is None else {"sharing": change_profile(standing.sharing, permission, community)}
            return _change_gallery(transaction, standing, lambda gallery: replace(gallery, **asked))
        _check_unique(installation, principal, transaction.galleries.by_name(installation.subscription, name), name)
        pool = Pool(
            uid=installation.effects.new_uid(),
            fingerprint_key=installation.effects.random_bytes(FINGERPRINT_KEY_BYTES),
        )
        transaction.pools.add(pool)
        asked |= {} if permission is None else {"sharing": change_profile(None, permission, community)}
        gallery = Gallery(
            uid=installation.effects.new_uid(),
            subscription=installation.subscription,
            group=above.name,
            name=name,
            location=region or above.location,
            pool_uid=pool.uid,
            created_at=installation.effects.now(),
            **asked,
        )
        check_gallery(gallery, None)
        there = transaction.galleries.count(installation.subscription, gallery.location)
        check_count(installation.limits, "galleries_max", there, what="galleries", region=gallery.location)
        transaction.galleries.add(gallery)
        return gallery


def update_gallery(
    installation: Installation, principal: Principal, change: Callable[[Gallery], Gallery], *, group: str, name: str
) -> Gallery:
    """Change the properties of a gallery that may change.

    Args:
        installation: the installation.
        principal: the caller.
        change: makes the new gallery from the present gallery; pure.
        group: name of the resource group.
        name: name of the gallery.

    Raises:
        NotFound: the gallery does not exist.
        InvalidInput: a value is out of range, or an error of `change`.
        PropertyChangeNotAllowed: the new value changes a property that cannot change.
    """
    scope = names.gallery_id(installation.subscription, group, name)
    with (
        record_activity(installation, principal, Action.WRITE, scope),
        installation.catalog.transaction() as transaction,
    ):
        return _change_gallery(
            transaction, lookup.find_gallery(transaction, installation.subscription, group, name), change
        )


def _change_gallery(transaction: Transaction, found: Gallery, change: Callable[[Gallery], Gallery]) -> Gallery:
    standing = transaction.galleries.get_for_update(found.uid)
    wanted = change(standing)
    check_gallery(wanted, standing)
    transaction.galleries.update(wanted)
    return wanted


def _check_unique(installation: Installation, principal: Principal, other: Gallery | None, name: str) -> None:
    if other is not None:
        scope = names.gallery_id(other.subscription, other.group, other.name)
        where = (
            f" {other.name} in the resource group {other.group}" if is_allowed(principal, Action.READ, scope) else ""
        )
        raise Conflict(
            f"The gallery name {name} is not unique within the subscription '{installation.subscription}'.",
            found=f"a gallery{where or ' of that name'}",
            expected="a name that is new in the subscription",
            hint="choose another name",
            target="galleryName",
        )


def show_gallery(installation: Installation, principal: Principal, *, group: str, name: str) -> Gallery:
    """Return a gallery."""
    permit(installation, principal, Action.READ, names.gallery_id(installation.subscription, group, name))
    with installation.catalog.reading() as transaction:
        return lookup.find_gallery(transaction, installation.subscription, group, name)


def list_galleries(installation: Installation, principal: Principal, *, group: str | None = None) -> list[Gallery]:
    """List the galleries of a group or of the subscription that the principal may see, by name."""
    return list(page_galleries(installation, principal, PageRequest(), group=group).items)


def page_galleries(
    installation: Installation, principal: Principal, request: PageRequest, *, group: str | None = None
) -> Page[Gallery]:
    """List a page.

    Raises:
        InvalidInput: the token belongs to another list.
    """
    subscription = installation.subscription
    above = names.group_id(subscription, group) if group is not None else f"/subscriptions/{subscription}"
    permit_list(installation, principal, above)
    whole = is_allowed(principal, Action.READ, above, GALLERIES)
    of = f"{names.group_id(subscription, group) if group is not None else subscription}/galleries"
    after = request.start_key(of)
    with installation.catalog.reading() as transaction:
        if group is not None:
            lookup.find_group(transaction, subscription, group)
        found = transaction.galleries.list(subscription, group, after=after, limit=request.limit if whole else None)
        found = filter_readable(
            principal, found, lambda each: names.gallery_id(each.subscription, each.group, each.name), whole=whole
        )
        return Page.from_rows(found, request, of=of, key=lambda gallery: gallery.name)


def delete_gallery(installation: Installation, principal: Principal, *, group: str, name: str) -> None:
    """Delete a gallery without definitions.

    The gallery's pool stays while disks, snapshots or images use its content. The activity log names the resources.

    Raises:
        Conflict: the gallery has definitions.
    """
    scope = names.gallery_id(installation.subscription, group, name)
    with record_resource_deletion(installation, principal, scope), installation.catalog.transaction() as transaction:
        gallery = lookup.find_gallery(transaction, installation.subscription, group, name)
        children = [
            f"Microsoft.Compute/galleries/{gallery.name}/images/{each.name}"
            for each in transaction.definitions.list(gallery.uid)
        ]
        if children:
            raise nested_resources_error(children, "delete the gallery's image definitions first")
        transaction.galleries.delete(gallery.uid)
        standing = _list_users_of_pool(transaction, principal, gallery.pool_uid)
    if standing:
        installation.note(gallery.name, f"its bytes stay as far as these need them: {', '.join(standing)}")


def _list_users_of_pool(transaction: Transaction, principal: Principal, pool_uid: str) -> list[str]:
    """Return the resources that use a pool: ids of disks, snapshots and images that the principal may see, and counts."""
    slots = transaction.slots.list(pool_uid)
    ids = sorted({disk.resource_id for slot in slots for disk in transaction.disks.in_slot(slot.uid)})
    told = [each for each in ids if is_allowed(principal, Action.READ, each)][:_TOLD]
    shallow = sum(len(transaction.replicas.in_slot(slot.uid)) for slot in slots)
    counts = {"others": len(ids) - len(told), "Shallow image versions of other galleries": shallow}
    return [*told, *(f"{count} {what}" for what, count in counts.items() if count)]
