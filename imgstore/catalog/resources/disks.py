"""Managed disks, snapshots and disks of managed images: a row for each disk.

A disk outlives its source. Therefore the reference to the source is not a foreign key.
"""

import builtins
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, FromClause, Insert, Row, bindparam, delete, func, select, tuple_, update

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import Rows
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.catalog.resources.groups import get_group_uid, is_group, missing_group_error
from imgstore.catalog.storage.slots import SLOT_COLUMNS, slot_from_row
from imgstore.domain.disks.signed_urls import DiskGrant
from imgstore.domain.disks.sources import SourceIdentity
from imgstore.domain.disks.version_disks import OS_DISK
from imgstore.domain.machines import MACHINE
from imgstore.domain.resources import DiskKind, ManagedDisk, OsProperties
from imgstore.domain.states import ProvisioningState

_disks = schema.disks
_groups = schema.groups
_SELECT = (
    select(_disks, *SLOT_COLUMNS, _groups.c.subscription, _groups.c.name.label("group_name"))
    .join(_groups, _disks.c.group_uid == _groups.c.uid)
    .join(schema.slots, _disks.c.slot_uid == schema.slots.c.uid)
)

_GRANT = ("grant_uid", "grant_level", "grant_expires_at")
_OWN = [column for column in _disks.c if column.name not in ("group_uid", *_GRANT)]


def build_insert(tables: FromClause = _groups, **given: ColumnElement[Any]) -> Insert:
    """Return an INSERT of a disk with `insert_parameters`. The statement adds no row if the group does not exist.

    Args:
        tables: the tables of the SELECT, which must give one row with the group.
        given: the columns whose values come from these tables.
    """
    values = [given.get(column.name, bindparam(column.name, type_=column.type)) for column in _OWN]
    of_group = (_groups.c.subscription_key == bindparam("of_subscription"), _groups.c.name_key == bindparam("of_group"))
    chosen = select(_groups.c.uid, *values).select_from(tables).where(*of_group)
    return _disks.insert().from_select(["group_uid", *(column.name for column in _OWN)], chosen)


_ADD = build_insert().execution_options(preserve_rowcount=True)

_IMAGES_AT_ONCE: Final = 500
"""The number of images in a statement with three parameters for each. The smaller limit is that of SQLite: 32,766."""

_ATTACHMENT: Final = ("managed_by", "machine_lun")
"""Only `attach` and `detach` change these columns, because the caller of `update` may have read the disk earlier."""


class Disks(Rows[ManagedDisk], table=_disks, noun="disk", value=ManagedDisk, statement=_SELECT):
    """The managed disks, snapshots and disks of managed images of all subscriptions."""

    def add(self, disk: ManagedDisk) -> None:
        """Add a disk.

        Raises:
            ParentNotFound: the subscription has no such group.
            Conflict: the group has a disk of this kind, name and part.
        """
        if self._session.run(_ADD, insert_parameters(disk)).rowcount == 0:
            raise missing_group_error(disk.subscription, disk.group)

    def add_all(self, disks: Sequence[ManagedDisk]) -> None:
        """Add disks of one group.

        Raises:
            ParentNotFound: the subscription has no such group.
            Conflict: the group has a disk of this kind, name and part.
        """
        if disks:
            above = get_group_uid(self._session, disks[0].subscription, disks[0].group)
            self._session.run(_disks.insert(), [_values(disk) | {"group_uid": above} for disk in disks])

    def complete(self, disks: Sequence[ManagedDisk]) -> None:
        """Set the state Succeeded and the source format of new disks."""
        rows = [{"of_uid": disk.uid, "found_format": disk.source_format} for disk in disks]
        values = {
            "provisioning_state": ProvisioningState.SUCCEEDED, "source_format": bindparam("found_format")
        }  # fmt: skip
        if rows:
            self._session.run(update(_disks).where(_disks.c.uid == bindparam("of_uid")).values(**values), rows)

    def delete_all(self, uids: Sequence[str]) -> None:
        """Remove disks. A missing row is ignored."""
        for begin in range(0, len(uids), _IMAGES_AT_ONCE):
            some = uids[begin : begin + _IMAGES_AT_ONCE]
            self._session.run(delete(_disks).where(_disks.c.uid.in_(some)))

    def update(self, disk: ManagedDisk) -> None:
        """Replace the disk with the same uid, except its attachment to a machine.

        Raises:
            NotFound: no row has this uid.
        """
        values = {key: value for key, value in _values(disk).items() if key not in _ATTACHMENT}
        self._replace(_disks, disk.uid, values, "disk")

    def set_grant(self, disk: ManagedDisk, grant: DiskGrant | None) -> bool:
        """Set or remove the grant of a disk.

        Return False if the state of the disk is no longer `disk.provisioning_state`.
        """
        values = {
            "grant_uid": grant.uid if grant else None,
            "grant_level": grant.level if grant else None,
            "grant_expires_at": grant.expires_at if grant else None,
        }
        mine = (_disks.c.uid == disk.uid) & (_disks.c.provisioning_state == disk.provisioning_state)
        return bool(self._session.change(_disks.update().where(mine).values(values)))

    def get(
        self, subscription: str, group: str, name: str, kind: DiskKind = DiskKind.DISK, part: str = OS_DISK
    ) -> ManagedDisk | None:
        """Return the disk with this name in a group, or None."""
        called = (_disks.c.kind == kind) & (_disks.c.name_key == fold_name(name)) & (_disks.c.part == part)
        return self._find(is_group(subscription, group), called)

    def list(
        self,
        subscription: str,
        group: str | None = None,
        kind: DiskKind = DiskKind.DISK,
        name: str | None = None,
        *,
        part: str | None = None,
        after: tuple[str, str] | None = None,
        limit: int | None = None,
        visible: bool = False,
    ) -> builtins.list[ManagedDisk]:
        """Return the disks of a kind in a subscription, or in a group, by name and uid.

        Each disk of a managed image is an item of its own.

        Args:
            subscription: the subscription.
            group: only disks of this group.
            kind: the kind of the disks.
            name: only disks with this name, which are all disks of a managed image.
            part: only this disk of each managed image.
            after: only disks after this name and uid.
            limit: the maximum number of disks.
            visible: omit disks in state Deleting.
        """
        mine = _groups.c.subscription_key == fold_name(subscription) if group is None else is_group(subscription, group)
        statement = _SELECT.where(mine, _disks.c.kind == kind)
        if name is not None:
            statement = statement.where(_disks.c.name_key == fold_name(name))
        if part is not None:
            statement = statement.where(_disks.c.part == part)
        if visible:
            statement = statement.where(_disks.c.provisioning_state != ProvisioningState.DELETING)
        if after is not None:
            last, uid = after
            statement = statement.where(tuple_(_disks.c.name_key, _disks.c.uid) > tuple_(fold_name(last), uid))
        return self._list(statement.order_by(_disks.c.name_key, _disks.c.uid).limit(limit))

    def list_by_image(self, os_disks: Sequence[ManagedDisk]) -> dict[str, builtins.list[ManagedDisk]]:
        """Return all disks of the managed images with these OS disks, by image id in lower case.

        Disks in state Deleting are omitted.
        """
        keys = sorted(
            {(fold_name(disk.subscription), fold_name(disk.group), fold_name(disk.name)) for disk in os_disks}
        )
        found: dict[str, builtins.list[ManagedDisk]] = {disk.resource_id.lower(): [] for disk in os_disks}
        for begin in range(0, len(keys), _IMAGES_AT_ONCE):
            place = tuple_(_groups.c.subscription_key, _groups.c.name_key, _disks.c.name_key)
            statement = _SELECT.where(
                place.in_(keys[begin : begin + _IMAGES_AT_ONCE]),
                _disks.c.kind == DiskKind.IMAGE,
                _disks.c.provisioning_state != ProvisioningState.DELETING,
            )
            for disk in self._list(statement):
                found[disk.resource_id.lower()].append(disk)
        return found

    def count_created(self, version_uid: str, region: str, *, since: datetime) -> int:
        """Count the disks that were created from a version in a region since a time."""
        of_version = (_disks.c.source_version_uid == version_uid) & (_disks.c.created_at >= since)
        there = (_disks.c.kind == DiskKind.DISK) & (_disks.c.location == region)
        statement = select(func.count()).select_from(_disks).where(of_version, there)
        return int(self._session.value(statement))

    def in_slot(self, slot_uid: str) -> builtins.list[ManagedDisk]:
        """Return the disks of all kinds in a slot, by name."""
        return self._list(_SELECT.where(_disks.c.slot_uid == slot_uid).order_by(_disks.c.name_key, _disks.c.uid))

    def list_awaiting_upload(self) -> set[str]:
        """Return the uids of disks that wait for an upload, or for the ingest of an upload."""
        waits = _disks.c.upload_bytes.is_not(None) & (_disks.c.provisioning_state == ProvisioningState.CREATING)
        return {row.uid for row in self._session.all(select(_disks.c.uid).where(waits))}

    def list_deleting(self) -> builtins.list[ManagedDisk]:
        """Return all disks in state Deleting, of any kind and subscription."""
        leaving = _disks.c.provisioning_state == ProvisioningState.DELETING
        return self._list(_SELECT.where(leaving).order_by(_disks.c.uid))

    def states_in_slot(self, slot_uid: str) -> dict[str, ProvisioningState]:
        """Return the states of the disks in a slot, by uid."""
        statement = select(_disks.c.uid, _disks.c.provisioning_state).where(_disks.c.slot_uid == slot_uid)
        return {row.uid: row.provisioning_state for row in self._session.all(statement)}

    def list_attached(self, machine_id: str) -> builtins.list[ManagedDisk]:
        """Return the disks that are attached to a machine: the OS disk, then the data disks by LUN."""
        found = self._list(_SELECT.where(_disks.c.managed_by == machine_id))
        return sorted(found, key=lambda disk: -1 if disk.machine_lun is None else disk.machine_lun)

    def list_of_scale_set(self, scale_set_id: str) -> builtins.list[ManagedDisk]:
        """Return the disks of all instances of a scale set in any state, by creation time."""
        mine = _disks.c.managed_by.startswith(f"{scale_set_id}/{MACHINE}/", autoescape=True)
        return self._list(_SELECT.where(mine).order_by(_disks.c.created_at, _disks.c.uid))

    def count_by_slot(self, version_uid: str, region: str) -> dict[str, int]:
        """Count the live OS disks of a version in each slot of a region, by uid of the slot. Slots without disks are omitted."""
        live = (
            (_disks.c.source_version_uid == version_uid)
            & (_disks.c.location == region)
            & (_disks.c.kind == DiskKind.DISK)
            & _disks.c.source_lun.is_(None)
            & (_disks.c.provisioning_state != ProvisioningState.DELETING)
        )
        statement = select(_disks.c.slot_uid, func.count().label("disks")).where(live).group_by(_disks.c.slot_uid)
        return {row.slot_uid: row.disks for row in self._session.all(statement)}

    def attach(self, uid: str, machine_id: str, lun: int | None) -> bool:
        """Attach a disk that is ready and not attached. Return False for other disks."""
        ready = (_disks.c.provisioning_state == ProvisioningState.SUCCEEDED) & _disks.c.managed_by.is_(None)
        values = {"managed_by": machine_id, "machine_lun": lun}
        return self._session.change(update(_disks).where(_disks.c.uid == uid, ready).values(**values)) > 0

    def detach(self, machine_id: str, uid: str | None = None) -> None:
        """Detach a disk of a machine, or all disks."""
        values = {"managed_by": None, "machine_lun": None}
        which = _disks.c.managed_by == machine_id
        self._session.run(
            update(_disks).where(which if uid is None else which & (_disks.c.uid == uid)).values(**values)
        )

    def begin_deleting(self, uid: str, *, attached_to: str | None = None) -> bool:
        """Set the state of a disk to Deleting, unless another machine than `attached_to` uses the disk.

        Returns:
            Whether the state was changed.
        """
        free = _disks.c.managed_by.is_(None) | (_disks.c.managed_by == attached_to)
        deleting = update(_disks).values(provisioning_state=ProvisioningState.DELETING)
        return self._session.change(deleting.where(_disks.c.uid == uid, free)) > 0

    @classmethod
    def from_row(cls, row: Any) -> ManagedDisk:
        """Return the disk in the columns of a row, with its slot and the names of its group."""
        return to_value(
            ManagedDisk,
            row,
            group=row.group_name,
            disk_key=row.part,
            source=_source(row),
            os_properties=to_value(OsProperties, row),
            slot=slot_from_row(row),
            grant=_grant(row),
            extra_properties=row.kept,
        )


def insert_parameters(disk: ManagedDisk) -> dict[str, Any]:
    """Return the parameters of `build_insert`: the columns of a disk, and the names that find its group."""
    return _values(disk) | {"of_subscription": fold_name(disk.subscription), "of_group": fold_name(disk.group)}


def _values(disk: ManagedDisk) -> dict[str, Any]:
    """Return the columns except the group, which never changes, and the grant, which only `set_grant` writes."""
    return to_columns(
        _disks,
        disk,
        omit=("group_uid", *_GRANT),
        name_key=fold_name(disk.name),
        part=disk.disk_key,
        tags=dict(disk.tags),
        source_file_bytes=disk.source.file_bytes if disk.source else None,
        source_stamp=disk.source.stamp if disk.source else None,
        os_type=disk.os_properties.os_type,
        os_state=disk.os_properties.os_state,
        hyper_v_generation=disk.os_properties.hyper_v_generation,
        slot_uid=disk.slot.uid,
        kept=dict(disk.extra_properties),
    )


def _grant(row: Row[Any]) -> DiskGrant | None:
    if row.grant_uid is None:
        return None
    return DiskGrant(uid=row.grant_uid, level=row.grant_level, expires_at=row.grant_expires_at)


def _source(row: Row[Any]) -> SourceIdentity | None:
    if row.source_stamp is None:
        return None
    return SourceIdentity(location=row.source_reference, file_bytes=row.source_file_bytes, stamp=row.source_stamp)
