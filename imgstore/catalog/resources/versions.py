"""Image versions in the order of their numbers."""

import builtins
from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select, tuple_

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import MutableRows
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.domain.disks.sources import SourceIdentity
from imgstore.domain.disks.version_disks import HostCaching, VersionDisk
from imgstore.domain.names import VersionName
from imgstore.domain.resources import ImageVersion, StorageAccountType, TargetRegion
from imgstore.domain.states import ProvisioningState, ReplicaState

_versions = schema.versions
_NUMBER = (_versions.c.major, _versions.c.minor, _versions.c.patch)


class Versions(MutableRows[ImageVersion], table=_versions, noun="image version", value=ImageVersion):
    """The versions of all definitions."""

    def get(self, definition_uid: str, name: VersionName) -> ImageVersion | None:
        """Return the version with this name, or None."""
        return self._find(
            _versions.c.definition_uid == definition_uid,
            _versions.c.major == name.major,
            _versions.c.minor == name.minor,
            _versions.c.patch == name.patch,
        )

    def list(
        self,
        definition_uid: str,
        *,
        after: VersionName | None = None,
        limit: int | None = None,
        visible: bool = False,
    ) -> builtins.list[ImageVersion]:
        """Return at most `limit` versions of a definition with names above `after`, lowest first.

        The statement reads a single index. With `visible`, versions are omitted for which `ImageVersion.is_visible` is
        False.
        """
        statement = select(_versions).where(_versions.c.definition_uid == definition_uid).order_by(*_NUMBER)
        if visible:
            is_kept = _versions.c.provisioning_state != ProvisioningState.DELETING
            statement = statement.where(is_kept, _versions.c.soft_deleted_at.is_(None))
        if after is not None:
            statement = statement.where(tuple_(*_NUMBER) > tuple_(after.major, after.minor, after.patch))
        return self._list(statement.limit(limit))

    def list_all(self) -> builtins.list[ImageVersion]:
        """Return the versions of all definitions, by definition and number."""
        order = (_versions.c.definition_uid, *_NUMBER)
        return self._list(select(_versions).order_by(*order))

    def list_complete_in(
        self, definition_uid: str, region: str, *, below: VersionName | None = None, limit: int
    ) -> builtins.list[ImageVersion]:
        """Return at most `limit` versions with a complete replica in a region, below `below`, highest first."""
        here = (
            select(1)
            .select_from(schema.replicas.join(schema.slots))
            .where(
                schema.replicas.c.version_uid == _versions.c.uid,
                schema.replicas.c.state == ReplicaState.COMPLETED,
                schema.slots.c.region == region,
            )
        )
        statement = select(_versions).where(_versions.c.definition_uid == definition_uid, here.exists())
        if below is not None:
            statement = statement.where(tuple_(*_NUMBER) < tuple_(below.major, below.minor, below.patch))
        downward = statement.order_by(*(column.desc() for column in _NUMBER)).limit(limit)
        return self._list(downward)

    def count(self, subscription: str, location: str) -> int:
        """Count the versions of a subscription in a region. Lock the number until the end of the transaction."""
        self._session.lock_name(f"versions/{fold_name(subscription)}/{location}")
        mine = schema.galleries.c.subscription_key == fold_name(subscription)
        tables = _versions.join(schema.definitions).join(schema.galleries)
        statement = select(func.count()).select_from(tables).where(mine, _versions.c.location == location)
        return int(self._session.value(statement))

    def list_soft_deleted(self, definition_uid: str | None = None) -> builtins.list[ImageVersion]:
        """Return the soft-deleted versions of a definition, or of all, by number.

        Versions in state Deleting are included.
        """
        statement = select(_versions).where(_versions.c.soft_deleted_at.is_not(None))
        if definition_uid is not None:
            statement = statement.where(_versions.c.definition_uid == definition_uid)
        return self._list(statement.order_by(*_NUMBER, _versions.c.uid))

    def list_deleting(self) -> builtins.list[ImageVersion]:
        """Return all versions in state Deleting, of any subscription."""
        leaving = _versions.c.provisioning_state == ProvisioningState.DELETING
        return self._list(select(_versions).where(leaving).order_by(_versions.c.uid))

    def _columns(self, version: ImageVersion) -> dict[str, Any]:
        return to_columns(
            _versions,
            version,
            omit=("served_at",),
            major=version.name.major,
            minor=version.name.minor,
            patch=version.name.patch,
            target_regions=[_target_values(target) for target in version.target_regions],
            disks=[_disk_values(disk) for disk in version.disks],
            tags=dict(version.tags),
        )

    @classmethod
    def from_row(cls, row: Any) -> ImageVersion:
        """Return the version in the columns of a row."""
        return to_value(
            ImageVersion,
            row,
            name=VersionName(row.major, row.minor, row.patch),
            target_regions=tuple(_target(values) for values in row.target_regions),
            disks=tuple(disk_from_json(values) for values in row.disks),
        )


def _target_values(target: TargetRegion) -> dict[str, Any]:
    return {
        "name": target.name,
        "regional_replica_count": target.regional_replica_count,
        "storage_account_type": target.storage_account_type.value,
        "exclude_from_latest": target.exclude_from_latest,
    }


def _target(values: Mapping[str, Any]) -> TargetRegion:
    return TargetRegion(
        name=values["name"],
        regional_replica_count=values["regional_replica_count"],
        storage_account_type=StorageAccountType(values["storage_account_type"]),
        exclude_from_latest=values["exclude_from_latest"],
    )


def _disk_values(disk: VersionDisk) -> dict[str, Any]:
    return {
        "lun": disk.lun,
        "source_location": disk.source.location,
        "source_file_bytes": disk.source.file_bytes,
        "source_stamp": disk.source.stamp,
        "source_sha256": disk.source_sha256,
        "host_caching": disk.host_caching.value,
        "expected_bytes": disk.expected_bytes,
        "virtual_bytes": disk.virtual_bytes,
        "disk_digest": None if disk.disk_digest is None else disk.disk_digest.hex(),
    }


def disk_from_json(values: Mapping[str, Any]) -> VersionDisk:
    """Return the disk in an element of the column `versions.disks`."""
    return VersionDisk(
        lun=values["lun"],
        source=SourceIdentity(
            location=values["source_location"], file_bytes=values["source_file_bytes"], stamp=values["source_stamp"]
        ),
        source_sha256=values["source_sha256"],
        host_caching=HostCaching(values["host_caching"]),
        expected_bytes=values.get("expected_bytes"),
        virtual_bytes=values["virtual_bytes"],
        disk_digest=None if values["disk_digest"] is None else bytes.fromhex(values["disk_digest"]),
    )
