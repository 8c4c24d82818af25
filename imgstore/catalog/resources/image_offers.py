"""Versions that can be deployed in a region, with the complete replicas.

A placement runs this statement hundreds of times a second. Each column costs time, so only needed columns are read.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, bindparam, select

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import fold_name
from imgstore.catalog.engine.repository import Repository
from imgstore.catalog.resources.versions import disk_from_json
from imgstore.catalog.storage.slots import SLOT_COLUMNS, slot_from_row
from imgstore.domain import names
from imgstore.domain.disks.image_offers import ImageOffer
from imgstore.domain.names import VersionName
from imgstore.domain.resources import DiskType, OsProperties
from imgstore.domain.states import ProvisioningState, ReplicaState

_groups = schema.groups
_galleries = schema.galleries
_definitions = schema.definitions
_versions = schema.versions
_replicas = schema.replicas
_slots = schema.slots

_OFFER: Final = (
    select(
        _groups.c.subscription,
        _groups.c.name.label("group_name"),
        _galleries.c.name.label("gallery_name"),
        _definitions.c.name.label("definition_name"),
        _definitions.c.os_type,
        _definitions.c.os_state,
        _definitions.c.hyper_v_generation,
        _definitions.c.disallowed_disk_types,
        _versions.c.uid,
        _versions.c.disks,
        *SLOT_COLUMNS,
    )
    .join_from(_groups, _galleries)
    .join(_definitions)
    .join(_versions)
    .join(_replicas)
    .join(_slots, _replicas.c.slot_uid == _slots.c.uid)
    .where(
        _groups.c.subscription_key == bindparam("subscription"),
        _groups.c.name_key == bindparam("group"),
        _galleries.c.name_key == bindparam("gallery"),
        _definitions.c.name_key == bindparam("definition"),
        _versions.c.major == bindparam("major"),
        _versions.c.minor == bindparam("minor"),
        _versions.c.patch == bindparam("patch"),
        _versions.c.provisioning_state != ProvisioningState.DELETING,
        _versions.c.soft_deleted_at.is_(None),
        _replicas.c.state == ReplicaState.COMPLETED,
        _slots.c.region == bindparam("region"),
    )
    .order_by(_slots.c.ordinal, _slots.c.storage_account_type)
)
"""The statement gives a row for each complete replica."""


class ImageOffers(Repository):
    """Versions as sources of machines and disks."""

    def find(
        self, subscription: str, group: str, gallery: str, definition: str, name: VersionName, region: str
    ) -> ImageOffer | None:
        """Return the version with its complete replicas in a region.

        Return None if the version is not visible, or has no complete replica in the region.
        """
        above = {"subscription": subscription, "group": group, "gallery": gallery, "definition": definition}
        asked = {key: fold_name(text) for key, text in above.items()}
        number = {"major": name.major, "minor": name.minor, "patch": name.patch}
        rows = self._session.all(_OFFER, asked | number | {"region": region})
        return _offer(name, rows) if rows else None


def _offer(name: VersionName, rows: Sequence[Row[Any]]) -> ImageOffer:
    first = rows[0]
    return ImageOffer(
        source=names.version_id(first.subscription, first.group_name, first.gallery_name, first.definition_name, name),
        version_uid=first.uid,
        definition=first.definition_name,
        os_state=first.os_state,
        os_properties=OsProperties(
            os_type=first.os_type, os_state=first.os_state, hyper_v_generation=first.hyper_v_generation
        ),
        disallowed_disk_types=tuple(map(DiskType, first.disallowed_disk_types)),
        disks=tuple(map(disk_from_json, first.disks)),
        slots=tuple(map(slot_from_row, rows)),
    )
