"""The bytes that a subscription keeps, counted against its quota."""

from sqlalchemy import func, select

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.resources.versions import disk_from_json


class Quotas(Repository):
    """What the subscriptions keep."""

    __slots__ = ()

    def lock(self, subscription: str) -> None:
        """Hold the subscription's count: nobody else who takes this lock adds to it until the transaction ends."""
        self._session.lock_name(f"bytes/{fold_name(subscription)}")

    def used_bytes(self, subscription: str) -> int:
        """The virtual bytes of the content that a subscription keeps.

        Each disk of a version counts once, however many replicas it has. So does the content of managed disks, snapshots
        and managed images, however many of them share it, unless it is that of a version of the subscription's own.
        """
        return self._of_versions(subscription) + self._of_disks(subscription)

    def _of_versions(self, subscription: str) -> int:
        tables = schema.versions.join(schema.definitions).join(schema.galleries)
        mine = schema.galleries.c.subscription_key == fold_name(subscription)
        rows = self._session.all(select(schema.versions.c.disks).select_from(tables).where(mine))
        disks = (disk_from_json(values) for row in rows for values in row.disks)
        return sum(disk.virtual_bytes or disk.expected_bytes or 0 for disk in disks)

    def _of_disks(self, subscription: str) -> int:
        disks, key = schema.disks, fold_name(subscription)
        tables = disks.join(schema.groups, disks.c.group_uid == schema.groups.c.uid)
        own = (
            select(1)
            .select_from(schema.versions.join(schema.definitions).join(schema.galleries))
            .where(schema.versions.c.uid == disks.c.source_version_uid, schema.galleries.c.subscription_key == key)
        )
        bodies = (
            select(func.max(disks.c.virtual_bytes).label("virtual_bytes"))
            .select_from(tables)
            .where(schema.groups.c.subscription_key == key, ~own.exists())
            .group_by(disks.c.body_key)
            .subquery()
        )
        return int(self._session.value(select(func.coalesce(func.sum(bodies.c.virtual_bytes), 0))))
