"""The virtual bytes of a subscription, which count against its quota."""

from sqlalchemy import func, select

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.resources.versions import disk_from_json


class Quotas(Repository):
    """The used bytes of subscriptions."""

    __slots__ = ()

    def lock(self, subscription: str) -> None:
        """Lock the used bytes of a subscription until the end of the transaction."""
        self._session.lock_name(f"bytes/{fold_name(subscription)}")

    def used_bytes(self, subscription: str) -> int:
        """Return the virtual bytes of all content in a subscription.

        Each disk of a version counts once, whatever the number of replicas. Managed disks, snapshots and managed images
        with the same content count once. They do not count if the content comes from a version in the same
        subscription.
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
