"""Store, show, list and delete network records: network resources that are stored and have no effect.

A resource that a network record names must exist, and cannot be deleted while a record or a machine names the resource.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain import names
from imgstore.domain.errors import Conflict, InvalidInput, NotFound
from imgstore.domain.identity.access import (
    Action,
    Principal,
    authorize_link,
    filter_readable,
    is_allowed,
    operation_name,
)
from imgstore.domain.machines import Machine
from imgstore.domain.network_records import (
    INTERFACES,
    NETWORK_TYPES,
    NetworkContent,
    NetworkRecord,
    NetworkResourceId,
    network_resource_id,
)
from imgstore.domain.paging import Page, PageRequest
from imgstore.domain.resources import Group
from imgstore.domain.tags import NO_TAGS, apply_tags
from imgstore.domain.views import NetworkRecordView
from imgstore.operations import lookup
from imgstore.operations.activity_log import permit, permit_list, record_activity
from imgstore.operations.installation import Installation

Change = Callable[[NetworkRecordView | None], NetworkContent]
"""A function from the present record, or None for a new record, to the new content."""

_IN_USE: Final = {
    "Microsoft.Network/virtualNetworks": "InUseSubnetCannotBeDeleted",
    "Microsoft.Network/networkSecurityGroups": "InUseNetworkSecurityGroupCannotBeDeleted",
    "Microsoft.Network/publicIPAddresses": "PublicIPAddressCannotBeDeleted",
    "Microsoft.Network/loadBalancers": "LoadBalancerInUse",
    "Microsoft.Network/networkInterfaces": "NicInUse",
}
"""The error codes of Azure by resource type. The HTTP status is always 400."""


class InUse(InvalidInput):
    """The error for the deletion of a network resource that is in use. The HTTP status of Azure is 400."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkScope:
    """The names of a network record, or of a part of a record."""

    group: str
    type: str
    """One of `NETWORK_TYPES`."""
    name: str
    part: str = ""
    """The part of the record that a request names, such as ``subnets/default``."""

    def scope(self, installation: Installation) -> str:
        """Return the resource id of the record or of the part."""
        whole = network_resource_id(installation.subscription, self.group, self.type, self.name)
        return f"{whole}/{self.part}" if self.part else whole


def put_network_record(
    installation: Installation,
    principal: Principal,
    place: NetworkScope,
    change: Change,
    *,
    action: Action = Action.WRITE,
) -> tuple[bool, NetworkRecordView]:
    """Create or update a network record. A lock of the subscription prevents lost updates.

    Args:
        installation: the installation.
        principal: the caller.
        place: the names of the record or of a part.
        change: a function that returns the new content. The function may raise an error.
        action: the action to authorize. The deletion of a part writes the remaining parts.

    Returns:
        Whether the record is new, and the record.

    Raises:
        InvalidInput: the name or the region is invalid, or the record names a missing resource.
        InUse: another record or a machine names a removed part.
        NotFound: there is no such group.
        Conflict: the record exists in another region.
    """
    names.check_network_name(place.name)
    scope = place.scope(installation)
    with record_activity(installation, principal, action, scope), installation.catalog.transaction() as transaction:
        transaction.network_records.lock(installation.subscription)
        above = lookup.find_group(transaction, installation.subscription, place.group)
        standing = transaction.network_records.get(installation.subscription, place.group, place.type, place.name)
        content = change(None if standing is None else _view(transaction, standing))
        region = installation.regions.get(content.location, target="location").name
        made = NetworkRecord(
            uid=standing.uid if standing else installation.effects.new_uid(),
            subscription=installation.subscription,
            group=above.name,
            type=place.type,
            name=standing.name if standing else place.name,
            content=replace(
                content, location=region, tags=apply_tags(content.tags, standing.content.tags if standing else NO_TAGS)
            ),
            created_at=standing.created_at if standing else installation.effects.now(),
        )
        _check_references(transaction, principal, standing, made)
        if standing is None:
            transaction.network_records.add(made)
        else:
            _check_stays(standing, made)
            _check_unused(transaction, made, sorted(set(_ids(standing)) - set(_ids(made))), but=[made.uid])
            transaction.network_records.update(made)
        return standing is None, _view(transaction, made)


def show_network_record(installation: Installation, principal: Principal, place: NetworkScope) -> NetworkRecordView:
    """Return a network record. For a part, return the record that contains the part.

    Raises:
        NotFound: there is no such group or record.
    """
    permit(installation, principal, Action.READ, place.scope(installation))
    with installation.catalog.reading() as transaction:
        lookup.find_group(transaction, installation.subscription, place.group)
        found = transaction.network_records.get(installation.subscription, place.group, place.type, place.name)
        if found is None:
            raise network_record_not_found(installation, place)
        return _view(transaction, found)


def page_network_records(
    installation: Installation, principal: Principal, request: PageRequest, kind: str, group: str | None = None
) -> Page[NetworkRecordView]:
    """Return a page of the readable network records of a type, by name, in a group or in the subscription.

    Raises:
        InvalidInput: the token belongs to another list.
    """
    subscription = installation.subscription
    above = names.group_id(subscription, group) if group is not None else f"/subscriptions/{subscription}"
    permit_list(installation, principal, above)
    whole = is_allowed(principal, Action.READ, above, kind)
    of = f"{above}/{kind}"
    key = request.start_key(of)
    after = None if key is None else (key.partition("/")[0], key.partition("/")[2])
    with installation.catalog.reading() as transaction:
        if group is not None:
            lookup.find_group(transaction, subscription, group)
        limit = request.limit if whole else None
        found = transaction.network_records.list(subscription, kind, group, after=after, limit=limit)
        seen = filter_readable(principal, found, lambda each: each.resource_id, whole=whole)
        page = Page.from_rows(seen, request, of=of, key=lambda each: f"{each.name}/{each.uid}")
        return Page(items=_views(transaction, page.items), next_token=page.next_token)


def delete_network_record(installation: Installation, principal: Principal, place: NetworkScope) -> None:
    """Delete a network record.

    Raises:
        NotFound: there is no such group or record.
        InUse: another record or a machine names the record.
    """
    scope = place.scope(installation)
    with (
        record_activity(installation, principal, Action.DELETE, scope),
        installation.catalog.transaction() as transaction,
    ):
        transaction.network_records.lock(installation.subscription)
        lookup.find_group(transaction, installation.subscription, place.group)
        standing = transaction.network_records.get(installation.subscription, place.group, place.type, place.name)
        if standing is None:
            raise network_record_not_found(installation, place)
        _check_unused(transaction, standing, _ids(standing), but=[standing.uid])
        transaction.network_records.delete(standing.uid)


def network_record_not_found(installation: Installation, place: NetworkScope) -> NotFound:
    """Return the error for a missing network record, with the message of Azure."""
    scope = place.scope(installation)
    kind = operation_name(Action.READ, scope).rpartition("/")[0]
    name = scope.partition(f"/{place.type}/")[2]
    return NotFound(
        f"The Resource '{kind}/{name}' under resource group '{place.group}' was not found.",
        hint="list the existing resources with `az network ... list`",
        target=scope,
        code="ResourceNotFound",
    )


def delete_network_records_of_group(transaction: Transaction, group: Group) -> None:
    """Delete all network records of a group in the transaction that deletes the group.

    Raises:
        InUse: a record or a machine outside the group names a record of the group.
    """
    transaction.network_records.lock(group.subscription)
    mine = [
        each
        for kind in NETWORK_TYPES
        for each in transaction.network_records.list(group.subscription, kind, group.name)
    ]
    uids = [each.uid for each in mine]
    for each in mine:
        _check_unused(transaction, each, _ids(each), but=uids)
    transaction.network_records.remove_in_group(group.uid)


def authorize_interfaces(
    transaction: Transaction, principal: Principal, machine_id: str, standing: Machine | None, interfaces: Iterable[str]
) -> None:
    """Authorize the network interfaces of a machine before any check of the machine.

    Args:
        transaction: the open transaction.
        principal: the caller that writes the machine.
        machine_id: the resource id of the machine.
        standing: the machine, if it exists. Interfaces of the existing machine need no right.
        interfaces: the ids of the interfaces, as in the request.

    Raises:
        AccessDenied: an interface is new to the machine, and the principal may not join the interface.
    """
    before = frozenset[str]() if standing is None else transaction.network_records.interfaces_of(standing.uid)
    for each in interfaces:
        if each.casefold() not in before:
            authorize_link(principal, Action.JOIN, each, by=machine_id)


def find_interfaces_to_delete(transaction: Transaction, machine: Machine) -> list[NetworkRecord]:
    """Find the existing network interfaces that are deleted together with a machine.

    Interfaces of other subscriptions are not known here.
    """
    meant = [
        NetworkResourceId.parse(word) for word in transaction.network_records.list_deleted_with_machine(machine.uid)
    ]
    mine = [each for each in meant if each and each.subscription.casefold() == machine.subscription.casefold()]
    found = [transaction.network_records.get(each.subscription, each.group, each.type, each.name) for each in mine]
    return [each for each in found if each is not None and each.type == INTERFACES]


def delete_interfaces(transaction: Transaction, going: Sequence[NetworkRecord]) -> None:
    """Delete network interfaces in the transaction that deletes the machine, after the row of the machine.

    An interface of another machine stays.
    """
    for each in going:
        transaction.network_records.lock(each.subscription)
        if not transaction.network_records.find_machines(_ids(each)):
            transaction.network_records.delete(each.uid)


def _view(transaction: Transaction, resource: NetworkRecord) -> NetworkRecordView:
    return _views(transaction, [resource])[0]


def _views(transaction: Transaction, resources: Sequence[NetworkRecord]) -> tuple[NetworkRecordView, ...]:
    named = [each.resource_id for each in resources if each.type == INTERFACES]
    machines = transaction.network_records.find_machines(named) if named else {}
    return tuple(
        NetworkRecordView(resource=each, machine_id=machines.get(each.resource_id.casefold())) for each in resources
    )


def _ids(resource: NetworkRecord) -> list[str]:
    """Return the resource ids of a record and of all parts."""
    return [resource.resource_id, *(f"{resource.resource_id}/{part}" for part in resource.content.parts)]


def _check_references(
    transaction: Transaction, principal: Principal, standing: NetworkRecord | None, made: NetworkRecord
) -> None:
    """Check that the resources named by a record exist, and authorize new references.

    A new reference needs the right to join the resource, since the reference prevents the deletion of the resource.
    """
    before = frozenset(standing.content.references if standing else ())
    for word in made.content.references:
        if word not in before:
            authorize_link(principal, Action.JOIN, word, by=made.resource_id)
        meant = NetworkResourceId.parse(word)
        # Resources of other subscriptions need not be kept in this installation.
        if meant is None or meant.subscription.lower() != made.subscription.lower():
            continue
        found = transaction.network_records.get(meant.subscription, meant.group, meant.type, meant.name)
        is_there = found is not None and (not meant.part or meant.part in found.content.parts)
        if not is_there:
            raise InvalidInput(
                f"Resource {word} referenced by resource {made.resource_id} was not found. Please make sure that the "
                "referenced resource exists, and that both resources are in the same region.",
                found="no such resource",
                expected="an existing resource",
                hint="create the resource first, or correct the id",
                target=made.resource_id,
                code="InvalidResourceReference",
            )


def _check_stays(standing: NetworkRecord, made: NetworkRecord) -> None:
    was, wanted = standing.content.location, made.content.location
    if was != wanted:
        raise Conflict(
            f"The resource '{made.name}' already exists in location '{was}' in resource group '{made.group}'. A "
            f"resource with the same name cannot be created in location '{wanted}'. Please select a new resource name.",
            found=was,
            expected="the region of the existing resource",
            hint=f"use the region {was}, or another resource name",
            target=made.resource_id,
            code="InvalidResourceLocation",
        )


def _check_unused(
    transaction: Transaction, resource: NetworkRecord, going: Collection[str], *, but: Collection[str]
) -> None:
    naming = transaction.network_records.find_referrer(going, but=but)
    user = (
        next(iter(transaction.network_records.find_machines(going).values()), None)
        if naming is None
        else naming.resource_id
    )
    if user is not None:
        raise InUse(
            f"{resource.type.rpartition('/')[2]} '{resource.name}' can not be deleted because it is in use by {user}.",
            found=user,
            expected="a resource that is not in use",
            hint="first delete or change the resource that uses this resource",
            target=resource.resource_id,
            code=_IN_USE[resource.type],
        )
