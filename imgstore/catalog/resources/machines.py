"""Machines of all subscriptions. A disk refers to its machine by the machine's resource id."""

import builtins
from typing import Any

from sqlalchemy import select, tuple_

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import MutableRows
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.catalog.resources.groups import get_group_uid, is_group
from imgstore.domain.disks.version_disks import HostCaching
from imgstore.domain.machines import DiskAttachment, Machine
from imgstore.domain.states import ProvisioningState

_machines = schema.machines
_groups = schema.groups
_SELECT = select(_machines, _groups.c.subscription, _groups.c.name.label("group_name")).join(
    _groups, _machines.c.group_uid == _groups.c.uid
)


class Machines(MutableRows[Machine], table=_machines, noun="virtual machine", value=Machine, statement=_SELECT):
    """The machines of all groups."""

    def add(self, machine: Machine) -> None:
        """Add a machine.

        Raises:
            ParentNotFound: the subscription has no such group.
            Conflict: the group has a machine with this name.
        """
        above = get_group_uid(self._session, machine.subscription, machine.group)
        self._session.run(_machines.insert(), self._columns(machine) | {"group_uid": above})

    def get(self, subscription: str, group: str, name: str) -> Machine | None:
        """Return the machine with this name in a group, or None."""
        return self._find(is_group(subscription, group), _machines.c.name_key == fold_name(name))

    def list(
        self,
        subscription: str,
        group: str | None = None,
        *,
        after: tuple[str, str] | None = None,
        limit: int | None = None,
        visible: bool = False,
    ) -> builtins.list[Machine]:
        """Return the machines of a subscription, or of a group, by name and uid.

        Args:
            subscription: the subscription.
            group: only machines of this group.
            after: only machines after this name and uid.
            limit: the maximum number of machines.
            visible: omit machines in state Deleting.
        """
        mine = _groups.c.subscription_key == fold_name(subscription) if group is None else is_group(subscription, group)
        statement = _SELECT.where(mine)
        if visible:
            statement = statement.where(_machines.c.provisioning_state != ProvisioningState.DELETING)
        if after is not None:
            last, uid = after
            statement = statement.where(tuple_(_machines.c.name_key, _machines.c.uid) > tuple_(fold_name(last), uid))
        return self._list(statement.order_by(_machines.c.name_key, _machines.c.uid).limit(limit))

    def list_deleting(self) -> builtins.list[Machine]:
        """Return all machines in state Deleting, of any subscription."""
        leaving = _machines.c.provisioning_state == ProvisioningState.DELETING
        return self._list(_SELECT.where(leaving).order_by(_machines.c.uid))

    def _columns(self, machine: Machine) -> dict[str, Any]:
        """Return the columns except the group."""
        return to_columns(
            _machines,
            machine,
            omit=("group_uid",),
            name_key=fold_name(machine.name),
            tags=dict(machine.tags),
            kept={
                "said": dict(machine.extra_properties),
                "disks": {key: _attachment_values(attachment) for key, attachment in machine.attachments.items()},
            },
        )

    @classmethod
    def from_row(cls, row: Any) -> Machine:
        """Return the machine in the columns of a row, with the names of its group."""
        return to_value(
            Machine,
            row,
            group=row.group_name,
            attachments={key: _attachment(values) for key, values in row.kept.get("disks", {}).items()},
            extra_properties=row.kept.get("said", {}),
        )


def _attachment_values(attachment: DiskAttachment) -> dict[str, Any]:
    return {
        "name": attachment.name,
        "caching": attachment.caching,
        "deleted_with_machine": attachment.deleted_with_machine,
    }


def _attachment(stored: dict[str, Any]) -> DiskAttachment:
    caching = stored["caching"]
    return DiskAttachment(
        name=stored["name"],
        caching=None if caching is None else HostCaching(caching),
        deleted_with_machine=stored["deleted_with_machine"],
    )
