"""Machines of all subscriptions. A disk refers to its machine by the machine's resource id.

An instance of a scale set is a machine, too. Its key contains a slash, so that no name of a machine finds an instance, and
an instance may have the name of a machine.
"""

import builtins
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import delete, select, tuple_, update

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

_IS_ALONE: Final = _machines.c.scale_set_uid.is_(None)
_UIDS_AT_ONCE: Final = 500


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
        return self._find(is_group(subscription, group), _machines.c.name_key == fold_name(name), _IS_ALONE)

    def get_instance(self, scale_set_uid: str, instance_id: int) -> Machine | None:
        """Return an instance of a scale set, or None."""
        return self._find(_machines.c.scale_set_uid == scale_set_uid, _machines.c.instance_id == instance_id)

    def add_instances(self, instances: Sequence[Machine]) -> None:
        """Add instances of a scale set.

        Raises:
            ParentNotFound: the subscription has no such group.
            Conflict: the set has an instance with this id.
        """
        if instances:
            above = get_group_uid(self._session, instances[0].subscription, instances[0].group)
            self._session.run(_machines.insert(), [self._columns(each) | {"group_uid": above} for each in instances])

    def list_instances(
        self, scale_set_uid: str, *, after: int | None = None, limit: int | None = None
    ) -> builtins.list[Machine]:
        """Return the instances of a scale set by id: at most `limit`, with ids above `after`."""
        statement = _SELECT.where(_machines.c.scale_set_uid == scale_set_uid)
        if after is not None:
            statement = statement.where(_machines.c.instance_id > after)
        return self._list(statement.order_by(_machines.c.instance_id).limit(limit))

    def set_instance_states(self, uids: Sequence[str], state: ProvisioningState) -> None:
        """Set the provisioning state of instances."""
        for begin in range(0, len(uids), _UIDS_AT_ONCE):
            some = _machines.c.uid.in_(uids[begin : begin + _UIDS_AT_ONCE])
            self._session.run(update(_machines).where(some).values(provisioning_state=state))

    def delete_instances(self, uids: Sequence[str]) -> None:
        """Remove instances. A missing row is ignored."""
        for begin in range(0, len(uids), _UIDS_AT_ONCE):
            some = uids[begin : begin + _UIDS_AT_ONCE]
            self._session.run(delete(_machines).where(_machines.c.uid.in_(some)))

    def list(
        self,
        subscription: str,
        group: str | None = None,
        *,
        after: tuple[str, str] | None = None,
        limit: int | None = None,
        visible: bool = False,
    ) -> builtins.list[Machine]:
        """Return the machines of a subscription, or of a group, by name and uid. Instances of scale sets are omitted.

        Args:
            subscription: the subscription.
            group: only machines of this group.
            after: only machines after this name and uid.
            limit: the maximum number of machines.
            visible: omit machines in state Deleting.
        """
        mine = _groups.c.subscription_key == fold_name(subscription) if group is None else is_group(subscription, group)
        statement = _SELECT.where(mine, _IS_ALONE)
        if visible:
            statement = statement.where(_machines.c.provisioning_state != ProvisioningState.DELETING)
        if after is not None:
            last, uid = after
            statement = statement.where(tuple_(_machines.c.name_key, _machines.c.uid) > tuple_(fold_name(last), uid))
        return self._list(statement.order_by(_machines.c.name_key, _machines.c.uid).limit(limit))

    def list_deleting(self) -> builtins.list[Machine]:
        """Return all machines in state Deleting, of any subscription, without instances of scale sets."""
        leaving = _machines.c.provisioning_state == ProvisioningState.DELETING
        return self._list(_SELECT.where(leaving, _IS_ALONE).order_by(_machines.c.uid))

    def _columns(self, machine: Machine) -> dict[str, Any]:
        """Return the columns except the group."""
        return to_columns(
            _machines,
            machine,
            omit=("group_uid",),
            name_key=_key(machine),
            tags=dict(machine.tags),
            kept={
                "said": dict(machine.extra_properties),
                "disks": {key: attachment_values(attachment) for key, attachment in machine.attachments.items()},
            },
        )

    @classmethod
    def from_row(cls, row: Any) -> Machine:
        """Return the machine in the columns of a row, with the names of its group."""
        return to_value(
            Machine,
            row,
            group=row.group_name,
            attachments={key: attachment_from_values(values) for key, values in row.kept.get("disks", {}).items()},
            extra_properties=row.kept.get("said", {}),
        )


def _key(machine: Machine) -> str:
    if machine.scale_set_uid is None:
        return fold_name(machine.name)
    return f"{machine.scale_set_uid}/{machine.instance_id}"


def attachment_values(attachment: DiskAttachment) -> dict[str, Any]:
    """Return the settings of a disk as JSON."""
    return {
        "name": attachment.name,
        "caching": attachment.caching,
        "deleted_with_machine": attachment.deleted_with_machine,
    }


def attachment_from_values(stored: dict[str, Any]) -> DiskAttachment:
    """Return the settings of a disk from JSON."""
    caching = stored["caching"]
    return DiskAttachment(
        name=stored["name"],
        caching=None if caching is None else HostCaching(caching),
        deleted_with_machine=stored["deleted_with_machine"],
    )
