"""Network resources without behaviour, the references between them, and the network interfaces of machines."""

import builtins
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import Row, delete, select, tuple_

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.catalog.resources.groups import get_group_uid, is_group
from imgstore.domain.machines import MACHINE
from imgstore.domain.names import compute_id
from imgstore.domain.network_records import NetworkContent, NetworkRecord

_inert = schema.inert_resources
_references = schema.inert_references
_interfaces = schema.machine_interfaces
_machines = schema.machines
_groups = schema.groups
_SELECT = select(_inert, _groups.c.subscription, _groups.c.name.label("group_name")).join(
    _groups, _inert.c.group_uid == _groups.c.uid
)


class NetworkRecords(Repository):
    """The network resources of all groups."""

    def lock(self, subscription: str) -> None:
        """Lock the network resources of a subscription until the end of the transaction.

        References stay valid under the lock.
        """
        self._session.lock_name(f"inert/{fold_name(subscription)}")

    def add(self, resource: NetworkRecord) -> None:
        """Add a network resource.

        Raises:
            ParentNotFound: the subscription has no such group.
            Conflict: the group has a resource of this type and name.
        """
        above = get_group_uid(self._session, resource.subscription, resource.group)
        self._session.run(_inert.insert(), _values(resource) | {"group_uid": above})
        self._add_references(resource)

    def update(self, resource: NetworkRecord) -> None:
        """Replace the resource with the same uid. The group does not change.

        Raises:
            NotFound: no row has this uid.
        """
        self._replace(_inert, resource.uid, _values(resource), "inert resource")
        self._session.run(delete(_references).where(_references.c.inert_uid == resource.uid))
        self._add_references(resource)

    def get(self, subscription: str, group: str, kind: str, name: str) -> NetworkRecord | None:
        """Return the resource of this type and name in a group, or None."""
        mine = is_group(subscription, group) & (_inert.c.type == kind) & (_inert.c.name_key == fold_name(name))
        row = self._session.first(_SELECT.where(mine))
        return None if row is None else _resource(row)

    def list(
        self,
        subscription: str,
        kind: str,
        group: str | None = None,
        *,
        after: tuple[str, str] | None = None,
        limit: int | None = None,
    ) -> builtins.list[NetworkRecord]:
        """Return at most `limit` resources of a type in a subscription or group, after `after`, by name and uid."""
        mine = _groups.c.subscription_key == fold_name(subscription) if group is None else is_group(subscription, group)
        statement = _SELECT.where(mine, _inert.c.type == kind)
        if after is not None:
            statement = statement.where(tuple_(_inert.c.name_key, _inert.c.uid) > (fold_name(after[0]), after[1]))
        return [
            _resource(row)
            for row in self._session.all(statement.order_by(_inert.c.name_key, _inert.c.uid).limit(limit))
        ]

    def find_referrer(self, targets: Iterable[str], *, but: Collection[str]) -> NetworkRecord | None:
        """Return a resource that refers to any of the ids, or None. Resources with the uids `but` are ignored."""
        keys = [fold_name(target) for target in targets]
        naming = select(_references.c.inert_uid).where(_references.c.target_key.in_(keys))
        others = _SELECT.where(_inert.c.uid.in_(naming), _inert.c.uid.not_in(but))
        row = self._session.first(others.order_by(_inert.c.name_key).limit(1))
        return None if row is None else _resource(row)

    def delete(self, uid: str) -> None:
        """Remove a resource and its references.

        Raises:
            NotFound: no row has this uid.
        """
        self._session.run(delete(_references).where(_references.c.inert_uid == uid))
        self._remove(_inert, uid, "inert resource")

    def remove_in_group(self, above: str) -> None:
        """Remove all network resources of the group with the uid `above`."""
        mine = select(_inert.c.uid).where(_inert.c.group_uid == above)
        self._session.run(delete(_references).where(_references.c.inert_uid.in_(mine)))
        self._session.run(delete(_inert).where(_inert.c.group_uid == above))

    def set_interfaces(self, machine_uid: str, interfaces: Mapping[str, bool]) -> None:
        """Replace the network interfaces of a machine.

        A True value means that the interface is deleted with the machine.
        """
        self._session.run(delete(_interfaces).where(_interfaces.c.machine_uid == machine_uid))
        for target, is_deleted in {fold_name(name): value for name, value in interfaces.items()}.items():
            values = {"machine_uid": machine_uid, "target_key": target, "deleted_with_machine": is_deleted}
            self._session.run(_interfaces.insert(), values)

    def interfaces_of(self, machine_uid: str) -> frozenset[str]:
        """Return the ids, case folded, of the network interfaces of a machine."""
        mine = _interfaces.c.machine_uid == machine_uid
        return frozenset(row.target_key for row in self._session.all(select(_interfaces.c.target_key).where(mine)))

    def list_deleted_with_machine(self, machine_uid: str) -> builtins.list[str]:
        """Return the ids, case folded, of the network interfaces that are deleted with a machine."""
        mine = (_interfaces.c.machine_uid == machine_uid) & _interfaces.c.deleted_with_machine
        found = select(_interfaces.c.target_key).where(mine).order_by(_interfaces.c.target_key)
        return [row.target_key for row in self._session.all(found)]

    def find_machines(self, targets: Iterable[str]) -> dict[str, str]:
        """Return the ids of the machines that use these network interfaces, by interface id, case folded."""
        found = (
            select(
                _interfaces.c.target_key, _machines.c.name, _groups.c.subscription, _groups.c.name.label("group_name")
            )
            .join(_machines, _interfaces.c.machine_uid == _machines.c.uid)
            .join(_groups, _machines.c.group_uid == _groups.c.uid)
            .where(_interfaces.c.target_key.in_([fold_name(target) for target in targets]))
            .order_by(_machines.c.name_key.desc())
        )
        return {
            row.target_key: compute_id(row.subscription, row.group_name, MACHINE, row.name)
            for row in self._session.all(found)
        }

    def _add_references(self, resource: NetworkRecord) -> None:
        for target in dict.fromkeys(map(fold_name, resource.content.references)):
            self._session.run(_references.insert(), {"inert_uid": resource.uid, "target_key": target})


def _values(resource: NetworkRecord) -> dict[str, Any]:
    """Return the columns except the group."""
    content = resource.content
    return to_columns(
        _inert,
        resource,
        omit=("group_uid",),
        name_key=fold_name(resource.name),
        location=content.location,
        tags=dict(content.tags),
        body=dict(content.body),
        parts=list(content.parts),
        refers_to=list(content.references),
    )


def _resource(row: Row[Any]) -> NetworkRecord:
    content = to_value(NetworkContent, row, parts=tuple(row.parts), references=tuple(row.refers_to))
    return to_value(NetworkRecord, row, group=row.group_name, content=content)
