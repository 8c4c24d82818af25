"""Galleries. The name of the group comes from the row of the group."""

import builtins
from dataclasses import asdict
from typing import Any

from sqlalchemy import func, select

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import MutableRows
from imgstore.catalog.engine.rows import to_columns, to_value
from imgstore.catalog.resources.groups import get_group_uid, is_group
from imgstore.domain.identity.sharing import CommunityInfo, SharingPermission, SharingProfile
from imgstore.domain.resources import Gallery

_galleries = schema.galleries
_groups = schema.groups
_SELECT = select(_galleries, _groups.c.subscription, _groups.c.name.label("group_name")).join(_groups)


class Galleries(MutableRows[Gallery], table=_galleries, noun="gallery", value=Gallery, statement=_SELECT):
    """The galleries of all subscriptions."""

    def get(self, subscription: str, group: str, name: str) -> Gallery | None:
        """Return the gallery with this name in a group, or None."""
        return self._find(is_group(subscription, group), _galleries.c.name_key == fold_name(name))

    def by_name(self, subscription: str, name: str) -> Gallery | None:
        """Return the gallery with this name in any group, or None. Names are unique in a subscription."""
        return self._find(
            _galleries.c.subscription_key == fold_name(subscription), _galleries.c.name_key == fold_name(name)
        )

    def find_by_pool(self, pool_uid: str) -> Gallery | None:
        """Return the gallery of a pool, or None if the gallery was deleted."""
        return self._find(_galleries.c.pool_uid == pool_uid)

    def list(
        self, subscription: str, group: str | None = None, *, after: str | None = None, limit: int | None = None
    ) -> builtins.list[Gallery]:
        """Return the galleries of a subscription, or of a group, by name: at most `limit`, with names after `after`."""
        statement = _SELECT.where(_galleries.c.subscription_key == fold_name(subscription))
        if group is not None:
            statement = statement.where(is_group(subscription, group))
        if after is not None:
            statement = statement.where(_galleries.c.name_key > fold_name(after))
        return self._list(statement.order_by(_galleries.c.name_key).limit(limit))

    def list_shared(self) -> builtins.list[Gallery]:
        """Return the galleries of all subscriptions with direct sharing, by name."""
        return self._list_with_permission(SharingPermission.GROUPS)

    def list_community(self) -> builtins.list[Gallery]:
        """Return the community galleries of all subscriptions, by name."""
        return [
            each
            for each in self._list_with_permission(SharingPermission.COMMUNITY)
            if each.sharing is not None and each.sharing.community is not None and each.sharing.community.public_name
        ]

    def _list_with_permission(self, permission: SharingPermission) -> builtins.list[Gallery]:
        statement = _SELECT.where(_galleries.c.sharing_permission == permission)
        return self._list(statement.order_by(_galleries.c.name_key))

    def count(self, subscription: str, location: str) -> int:
        """Count the galleries of a subscription in a region. Lock the number until the end of the transaction."""
        self._session.lock_name(f"galleries/{fold_name(subscription)}/{location}")
        mine = (_galleries.c.subscription_key == fold_name(subscription)) & (_galleries.c.location == location)
        return int(self._session.value(select(func.count()).select_from(_galleries).where(mine)))

    @classmethod
    def from_row(cls, row: Any) -> Gallery:
        """Return the gallery in the columns of a row, with the `subscription` and `group_name` of its group."""
        return to_value(Gallery, row, group=row.group_name, sharing=_sharing(row.sharing_permission, row.sharing))

    def _columns(self, gallery: Gallery) -> dict[str, Any]:
        return to_columns(
            _galleries,
            gallery,
            group_uid=get_group_uid(self._session, gallery.subscription, gallery.group),
            subscription_key=fold_name(gallery.subscription),
            name_key=fold_name(gallery.name),
            tags=dict(gallery.tags),
            sharing_permission=gallery.sharing.permission if gallery.sharing else None,
            sharing=_sharing_json(gallery.sharing),
        )


def _sharing_json(profile: SharingProfile | None) -> dict[str, Any] | None:
    if profile is None:
        return None
    community = None if profile.community is None else asdict(profile.community)
    return {
        "subscriptions": list(profile.subscriptions),
        "tenants": list(profile.tenants),
        "community": community,
    }


def _sharing(permission: SharingPermission | None, stored: dict[str, Any] | None) -> SharingProfile | None:
    if permission is None or stored is None:
        return None
    return SharingProfile(
        permission=permission,
        subscriptions=tuple(stored["subscriptions"]),
        tenants=tuple(stored["tenants"]),
        community=None if stored["community"] is None else CommunityInfo(**stored["community"]),
    )
