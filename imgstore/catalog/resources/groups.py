"""Resource groups."""

import builtins
from typing import Any

from sqlalchemy import ColumnElement, func, select

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.database import Session
from imgstore.catalog.engine.repository import MutableRows
from imgstore.catalog.engine.rows import to_columns
from imgstore.domain.errors import ParentNotFound
from imgstore.domain.names import group_id
from imgstore.domain.resources import Group

_groups = schema.groups


class Groups(MutableRows[Group], table=_groups, noun="group", value=Group):
    """The groups of all subscriptions."""

    def get(self, subscription: str, name: str) -> Group | None:
        """Return the group with this name, or None."""
        return self._find(is_group(subscription, name))

    def list(self, subscription: str, *, after: str | None = None, limit: int | None = None) -> builtins.list[Group]:
        """Return the groups of a subscription, by name: at most `limit`, with names after `after`."""
        statement = select(_groups).where(_groups.c.subscription_key == fold_name(subscription))
        if after is not None:
            statement = statement.where(_groups.c.name_key > fold_name(after))
        return self._list(statement.order_by(_groups.c.name_key).limit(limit))

    def subscriptions(self) -> builtins.list[str]:
        """Return the subscriptions that have groups, in the spelling of one of the groups."""
        spelt = func.min(_groups.c.subscription).label("spelt")
        return [row.spelt for row in self._session.all(select(spelt).group_by(_groups.c.subscription_key))]

    def children(self, uid: str) -> builtins.list[str]:
        """Return the resources in the group as ``disks/<name>``, ``galleries/<name>`` and so on."""
        disks, galleries, machines, sets = schema.disks, schema.galleries, schema.machines, schema.scale_sets
        own = select(disks.c.kind, disks.c.name).distinct().where(disks.c.group_uid == uid)
        above = select(galleries.c.name).where(galleries.c.group_uid == uid).order_by(galleries.c.name)
        alone = (machines.c.group_uid == uid) & machines.c.scale_set_uid.is_(None)
        beside = select(machines.c.name).where(alone).order_by(machines.c.name)
        scaled = select(sets.c.name).where(sets.c.group_uid == uid).order_by(sets.c.name)
        return [
            *(f"virtualMachineScaleSets/{row.name}" for row in self._session.all(scaled)),
            *(f"virtualMachines/{row.name}" for row in self._session.all(beside)),
            *(f"{row.kind}/{row.name}" for row in self._session.all(own.order_by(disks.c.kind, disks.c.name))),
            *(f"galleries/{row.name}" for row in self._session.all(above)),
        ]

    def _columns(self, group: Group) -> dict[str, Any]:
        return to_columns(
            _groups,
            group,
            subscription_key=fold_name(group.subscription),
            name_key=fold_name(group.name),
            tags=dict(group.tags),
        )


def is_group(subscription: str, name: str) -> ColumnElement[bool]:
    """Return the condition for the group with this subscription and name, without regard to case."""
    return (_groups.c.subscription_key == fold_name(subscription)) & (_groups.c.name_key == fold_name(name))


def get_group_uid(session: Session, subscription: str, name: str) -> str:
    """Return the uid of a group in which a resource is to be created.

    Raises:
        ParentNotFound: the subscription has no such group.
    """
    uid: str | None = session.value(select(_groups.c.uid).where(is_group(subscription, name)))
    if uid is None:
        raise missing_group_error(subscription, name)
    return uid


def missing_group_error(subscription: str, name: str) -> ParentNotFound:
    """Return the error for a new resource in a group that does not exist."""
    return ParentNotFound(
        f"Resource group '{name}' could not be found.",
        found=f"no group of that name in subscription {subscription}",
        expected="an existing group",
        hint=f"imgstore group create -n {name} -l REGION",
        target=group_id(subscription, name),
    )
