"""Inert resources of every subscription: which of them name which, and which machines name them."""

import builtins
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select, tuple_

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.resources.groups import get_group_uid, is_group
from imgstore.domain.machines import MACHINE
from imgstore.domain.names import compute_id
from imgstore.domain.network_records import NetworkContent, NetworkRecord

if TYPE_CHECKING:
    from sqlalchemy.engine import Row

_inert = schema.inert_resources
_references = schema.inert_references
_interfaces = schema.machine_interfaces
_machines = schema.machines
_groups = schema.groups
_SELECT = select(_inert, _groups.c.subscription, _groups.c.name.label("group_name")).join(
    _groups, _inert.c.group_uid == _groups.c.uid
)


class NetworkRecords(Repository):
    """The inert resources of every group."""

    __slots__ = ()

    def lock(self, subscription: str) -> None:
        """Let nobody else change one of the subscription until the transaction ends: what is named must stay."""
        self._session.lock_name(f"inert/{fold_name(subscription)}")

    def add(self, resource: NetworkRecord) -> None:
        """Write a new one down.

        Raises:
            ParentNotFound: the subscription has no such group.
            Conflict: the group has one of that type and name.
        """
        above = get_group_uid(self._session, resource.subscription, resource.group)
        self._session.run(_inert.insert(), _values(resource) | {"group_uid": above})
        self._add_references(resource)

    def update(self, resource: NetworkRecord) -> None:
        """Replace the one of the same uid, which stays in its group.

        Raises:
            NotFound: no row has this uid.
        """
        self._replace(_inert, resource.uid, _values(resource), "inert resource")
        self._session.run(delete(_references).where(_references.c.inert_uid == resource.uid))
        self._add_references(resource)

    def get(self, subscription: str, group: str, kind: str, name: str) -> NetworkRecord | None:
        """The one of that type and name in that group, if there is one."""
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
        """Those of a type in a subscription, or in one group in it, by name and uid: at most `limit` behind `after`."""
        mine = _groups.c.subscription_key == fold_name(subscription) if group is None else is_group(subscription, group)
        statement = _SELECT.where(mine, _inert.c.type == kind)
        if after is not None:
            statement = statement.where(tuple_(_inert.c.name_key, _inert.c.uid) > (fold_name(after[0]), after[1]))
        return [
            _resource(row)
            for row in self._session.all(statement.order_by(_inert.c.name_key, _inert.c.uid).limit(limit))
        ]

    def find_referrer(self, targets: Iterable[str], *, but: Collection[str]) -> NetworkRecord | None:
        """One that names one of these ids, if there is one; those of the uids `but` may."""
        keys = [fold_name(each) for each in targets]
        naming = select(_references.c.inert_uid).where(_references.c.target_key.in_(keys))
        others = _SELECT.where(_inert.c.uid.in_(naming), _inert.c.uid.not_in(but))
        row = self._session.first(others.order_by(_inert.c.name_key).limit(1))
        return None if row is None else _resource(row)

    def delete(self, uid: str) -> None:
        """Remove the row, and what it names.

        Raises:
            NotFound: no row has this uid.
        """
        self._session.run(delete(_references).where(_references.c.inert_uid == uid))
        self._remove(_inert, uid, "inert resource")

    def remove_in_group(self, above: str) -> None:
        """Remove all of a group, by its uid."""
        mine = select(_inert.c.uid).where(_inert.c.group_uid == above)
        self._session.run(delete(_references).where(_references.c.inert_uid.in_(mine)))
        self._session.run(delete(_inert).where(_inert.c.group_uid == above))

    def set_interfaces(self, machine_uid: str, interfaces: Mapping[str, bool]) -> None:
        """Write down which network interfaces a machine has, by id, and whether each goes with it; no others any more."""
        self._session.run(delete(_interfaces).where(_interfaces.c.machine_uid == machine_uid))
        for target, goes in {fold_name(each): goes for each, goes in interfaces.items()}.items():
            values = {"machine_uid": machine_uid, "target_key": target, "deleted_with_machine": goes}
            self._session.run(_interfaces.insert(), values)

    def interfaces_of(self, machine_uid: str) -> frozenset[str]:
        """The ids, case folded, of the network interfaces that a machine names."""
        mine = _interfaces.c.machine_uid == machine_uid
        return frozenset(row.target_key for row in self._session.all(select(_interfaces.c.target_key).where(mine)))

    def list_deleted_with_machine(self, machine_uid: str) -> builtins.list[str]:
        """The ids, in lower case, of the network interfaces that go when a machine does."""
        mine = (_interfaces.c.machine_uid == machine_uid) & _interfaces.c.deleted_with_machine
        found = select(_interfaces.c.target_key).where(mine).order_by(_interfaces.c.target_key)
        return [row.target_key for row in self._session.all(found)]

    def find_machines(self, targets: Iterable[str]) -> dict[str, str]:
        """Of those of these ids that a machine names, in lower case, the machine's id."""
        found = (
            select(
                _interfaces.c.target_key, _machines.c.name, _groups.c.subscription, _groups.c.name.label("group_name")
            )
            .join(_machines, _interfaces.c.machine_uid == _machines.c.uid)
            .join(_groups, _machines.c.group_uid == _groups.c.uid)
            .where(_interfaces.c.target_key.in_([fold_name(each) for each in targets]))
            .order_by(_machines.c.name_key.desc())
        )
        return {
            row.target_key: compute_id(row.subscription, row.group_name, MACHINE, row.name)
            for row in self._session.all(found)
        }

    def _add_references(self, resource: NetworkRecord) -> None:
        for each in dict.fromkeys(map(fold_name, resource.content.references)):
            self._session.run(_references.insert(), {"inert_uid": resource.uid, "target_key": each})


def _values(resource: NetworkRecord) -> dict[str, Any]:
    """But for the group."""
    content = resource.content
    return {
        "uid": resource.uid,
        "type": resource.type,
        "name": resource.name,
        "name_key": fold_name(resource.name),
        "location": content.location,
        "tags": dict(content.tags),
        "body": dict(content.body),
        "parts": list(content.parts),
        "refers_to": list(content.references),
        "created_at": resource.created_at,
    }


def _resource(row: "Row[Any]") -> NetworkRecord:
    return NetworkRecord(
        uid=row.uid,
        subscription=row.subscription,
        group=row.group_name,
        type=row.type,
        name=row.name,
        content=NetworkContent(
            location=row.location,
            tags=row.tags,
            body=row.body,
            parts=tuple(row.parts),
            references=tuple(row.refers_to),
        ),
        created_at=row.created_at,
    )
