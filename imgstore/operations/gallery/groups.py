"""Create, show and delete resource groups. A resource's first use creates a missing group."""

from collections.abc import Mapping
from dataclasses import replace

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.errors import Conflict
from imgstore.domain.identity.access import GROUPS, Action, Principal, filter_readable, is_allowed
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.resources import Group
from imgstore.domain.tags import apply_tags
from imgstore.operations import lookup
from imgstore.operations.activity_log import permit, permit_list, record_activity, record_resource_deletion
from imgstore.operations.installation import Installation
from imgstore.operations.network_records import delete_network_records_of_group


def create_group(
    installation: Installation,
    principal: Principal,
    *,
    name: str,
    location: str,
    tags: Mapping[str, str] | None = None,
) -> Group:
    """Create a group, or replace the tags of an existing group.

    Raises:
        InvalidInput: the name is malformed, or the region is unknown.
        Conflict: the group exists in another region.
    """
    names.check_group_name(name)
    region = installation.regions.get(location, target="location").name
    scope = names.group_id(installation.subscription, name)
    with (
        record_activity(installation, principal, Action.WRITE, scope, "Microsoft.Resources/resourceGroups/write"),
        installation.catalog.transaction() as transaction,
    ):
        group = ensure_group(installation, transaction, name, region)
        if group.location != region:
            raise Conflict(
                f"Invalid resource group location '{region}'. The resource group '{group.name}' already exists.",
                found=f"a group in {group.location}",
                expected="the region of the existing group",
                hint=f"leave --location out, or name {group.location}",
                target="location",
                code="InvalidResourceGroupLocation",
            )
        if tags is not None and tags != group.tags:
            group = replace(group, tags=apply_tags(tags, group.tags))
            transaction.groups.update(group)
        return group


def ensure_group(installation: Installation, transaction: Transaction, name: str, location: str) -> Group:
    """Return a group. Create a missing group in `location`, a region's key."""
    names.check_group_name(name)
    group = transaction.groups.get(installation.subscription, name)
    if group is None:
        group = Group(
            uid=installation.effects.new_uid(),
            subscription=installation.subscription,
            name=name,
            location=location,
            created_at=installation.effects.now(),
        )
        transaction.groups.add(group)
    return group


def permit_group(installation: Installation, principal: Principal, name: str) -> None:
    """Check the right to create a missing group for a new resource.

    Raises:
        AccessDenied: the group is missing, and the principal may not create groups.
    """
    scope = names.group_id(installation.subscription, name)
    if is_allowed(principal, Action.WRITE, scope):
        return
    with installation.catalog.reading() as transaction:
        standing = transaction.groups.get(installation.subscription, name)
    if standing is None:
        permit(installation, principal, Action.WRITE, scope, GROUPS)


def show_group(installation: Installation, principal: Principal, *, name: str) -> Group:
    """Return a group."""
    permit(installation, principal, Action.READ, names.group_id(installation.subscription, name))
    with installation.catalog.reading() as transaction:
        return lookup.find_group(transaction, installation.subscription, name)


def list_groups(installation: Installation, principal: Principal) -> list[Group]:
    """List the groups of the subscription that the principal may see, by name."""
    return list(page_groups(installation, principal, PageRequest()).items)


def page_groups(
    installation: Installation,
    principal: Principal,
    request: PageRequest,
    *,
    tag: tuple[str, str | None] | None = None,
) -> Page[Group]:
    """List a page.

    Args:
        installation: the installation.
        principal: the caller.
        request: the requested page.
        tag: list groups with this tag only, and with this value unless None.

    Raises:
        InvalidInput: the token belongs to another list.
    """
    subscription = installation.subscription
    above = f"/subscriptions/{subscription}"
    permit_list(installation, principal, above)
    whole = is_allowed(principal, Action.READ, above, GROUPS)
    of = f"{subscription}/resourceGroups"
    after = request.start_key(of)
    with installation.catalog.reading() as transaction:
        # Tags are JSON, which the two engines search each in its own way; groups are few.
        found = transaction.groups.list(
            subscription, after=after, limit=request.limit if whole and tag is None else None
        )
    readable = filter_readable(
        principal, found, lambda group: names.group_id(group.subscription, group.name), whole=whole
    )
    return Page.from_rows([each for each in readable if tag is None or _has(each, *tag)], request, of=of, key=_name)


def _has(group: Group, tag: str, value: str | None) -> bool:
    return any(name.casefold() == tag.casefold() and value in (None, standing) for name, standing in group.tags.items())


def _name(group: Group) -> str:
    return group.name


def free_group_name(installation: Installation, principal: Principal, wanted: str) -> str:
    """Return `wanted`, or `wanted` with the first number that makes the name free among the groups that the principal may see."""
    taken = {group.name.lower() for group in list_groups(installation, principal)}
    names_free = (f"{wanted}{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, len(taken) + 3))))
    return next(name for name in names_free if name not in taken)


def delete_group(installation: Installation, principal: Principal, *, name: str) -> None:
    """Delete a group without resources. Deployments and networks are records, and are deleted with the group.

    Raises:
        Conflict: the group contains resources. imgstore never deletes the resources of a group with the group.
    """
    scope = names.group_id(installation.subscription, name)
    with (
        record_resource_deletion(installation, principal, scope, "Microsoft.Resources/resourceGroups/delete"),
        installation.catalog.transaction() as transaction,
    ):
        group = lookup.find_group(transaction, installation.subscription, name)
        children = transaction.groups.children(group.uid)
        if children:
            raise nested_resources_error(children, "delete what is in the group first")
        # Records of which nothing was made go with it: deployments, networks.
        transaction.deployments.remove(group.uid)
        delete_network_records_of_group(transaction, group)
        transaction.groups.delete(group.uid)


def nested_resources_error(children: list[str], hint: str) -> Conflict:
    """Make the error for the deletion of a resource that contains other resources."""
    return Conflict(
        "Cannot delete resource while nested resources exist. Some existing nested resource IDs include: "
        f"'{children[0]}'. Please delete all nested resources before deleting this resource.",
        found=f"{len(children)} nested resources: {', '.join(children[:5])}{', ...' * (len(children) > 5)}",
        expected="none",
        hint=hint,
        code="CannotDeleteResource",
    )
