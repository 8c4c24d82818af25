"""The virtual bytes of a subscription, which count against its quota."""

from collections.abc import Iterator, Mapping

from sqlalchemy import func, select

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.resources.versions import disk_from_json
from imgstore.domain.disks.version_disks import VersionDisk
from imgstore.domain.names import compute_id
from imgstore.domain.states import ProvisioningState


class Quotas(Repository):
    """The used bytes of subscriptions."""

    def lock(self, subscription: str) -> None:
        """Lock the used bytes of a subscription until the end of the transaction."""
        self._session.lock_name(f"bytes/{fold_name(subscription)}")

    def used_bytes(self, subscription: str) -> int:
        """Return the virtual bytes of all content in a subscription.

        Each disk of a version counts once, whatever the number of replicas. Managed disks, snapshots and managed images
        with the same content count once. They do not count if the content comes from a version in the same
        subscription. An upload does not count to the size of a version that was made from the upload.
        """
        versions = [
            (disk.source.location.lower(), disk.virtual_bytes or disk.expected_bytes or 0)
            for disk in self._list_version_disks(subscription)
        ]
        disk_bytes = self._of_disks(subscription) - self._of_published_uploads(subscription, dict(versions))
        return sum(version_bytes for _, version_bytes in versions) + disk_bytes

    def _list_version_disks(self, subscription: str) -> Iterator[VersionDisk]:
        tables = schema.versions.join(schema.definitions).join(schema.galleries)
        mine = schema.galleries.c.subscription_key == fold_name(subscription)
        rows = self._session.all(select(schema.versions.c.disks).select_from(tables).where(mine))
        return (disk_from_json(values) for row in rows for values in row.disks)

    def _of_published_uploads(self, subscription: str, sources: Mapping[str, int]) -> int:
        """Return the bytes of waiting uploads that versions with the same source count already.

        Args:
            subscription: the subscription.
            sources: the sizes of the disks of versions by source, in lower case.
        """
        disks, groups = schema.disks, schema.groups
        rows = self._session.all(
            select(disks.c.name, disks.c.virtual_bytes, groups.c.name.label("group"))
            .select_from(disks.join(groups, disks.c.group_uid == groups.c.uid))
            .where(
                groups.c.subscription_key == fold_name(subscription),
                disks.c.upload_bytes.is_not(None),
                disks.c.provisioning_state == ProvisioningState.CREATING,
            )
        )
        ids = ((compute_id(subscription, row.group, "disks", row.name).lower(), row.virtual_bytes) for row in rows)
        return sum(min(upload_bytes, sources.get(disk_id, 0)) for disk_id, upload_bytes in ids)

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
