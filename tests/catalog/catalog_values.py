"""Example values for a catalog."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from imgstore.catalog import Transaction
from imgstore.catalog.storage.manifests import pack_ids
from imgstore.domain.disks.sources import DiskFormat, SourceIdentity
from imgstore.domain.disks.version_disks import HostCaching, VersionDisk
from imgstore.domain.names import VersionName
from imgstore.domain.resources import (
    Gallery,
    Group,
    ImageDefinition,
    ImageVersion,
    ManagedDisk,
    ManifestRow,
    OsType,
    Pool,
    Replica,
    SegmentRow,
    Slot,
    SlotKey,
    StorageAccountType,
    TargetRegion,
)
from imgstore.domain.states import ProvisioningState, ReplicaState
from imgstore.domain.storage.digests import digest_of

ENGINES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.engine("postgresql"))]
POOLED_ENGINES = [*ENGINES, pytest.param("pgbouncer", marks=pytest.mark.engine("pgbouncer"))]
"""The engines of a test for locks, transactions, cursors, leases or migrations, which a pooler in transaction mode
breaks if a session has state (invariant L6). Other tests run on PostgreSQL directly.
"""

LRS = StorageAccountType.STANDARD_LRS
SUBSCRIPTION = "00000000-0000-0000-0000-00000000000a"
NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def uid() -> str:
    return str(uuid4())


def group(name: str = "rg", **changes: object) -> Group:
    made = Group(uid=uid(), subscription=SUBSCRIPTION, name=name, location="westus2", created_at=NOON)
    return replace(made, **changes)  # type: ignore[arg-type]


def gallery(pool_uid: str, name: str = "myGallery", **changes: object) -> Gallery:
    made = Gallery(
        uid=uid(),
        subscription=SUBSCRIPTION,
        group="rg",
        name=name,
        location="westus2",
        description="golden images",
        tags={"b": "2", "a": "ä"},
        pool_uid=pool_uid,
        created_at=NOON,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def definition(gallery_uid: str, name: str = "ubuntu", **changes: object) -> ImageDefinition:
    made = ImageDefinition(
        uid=uid(),
        gallery_uid=gallery_uid,
        name=name,
        location="westus2",
        publisher="Canonical",
        offer="server",
        sku=name,
        os_type=OsType.LINUX,
        created_at=NOON,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def version(definition_uid: str, name: str = "1.0.0", **changes: object) -> ImageVersion:
    made = ImageVersion(
        uid=uid(),
        definition_uid=definition_uid,
        name=VersionName.parse(name),
        location="westus2",
        target_regions=(
            TargetRegion(name="westus2", regional_replica_count=2, storage_account_type=LRS),
            TargetRegion(
                name="eastus",
                regional_replica_count=1,
                storage_account_type=StorageAccountType.STANDARD_ZRS,
                exclude_from_latest=True,
            ),
        ),
        disks=(
            VersionDisk(source=SourceIdentity(location="/srv/disk.vhd", file_bytes=1 << 40, stamp="1")),
            VersionDisk(
                lun=5,
                source=SourceIdentity(location="/srv/data.vhd", file_bytes=1 << 30, stamp="2"),
                host_caching=HostCaching.READ_ONLY,
            ),
        ),
        published_at=NOON,
        provisioning_state=ProvisioningState.CREATING,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def disk(slot: Slot, name: str = "d1", **changes: object) -> ManagedDisk:
    made = ManagedDisk(
        uid=uid(),
        subscription=SUBSCRIPTION,
        group="rg",
        name=name,
        location="westus2",
        source_version_uid=uid(),
        source_reference="/subscriptions/x",
        body_key="manifests/v/os",
        replica=0,
        slot=slot,
        storage_account_type=StorageAccountType.PREMIUM_LRS,
        virtual_bytes=127 << 30,
        disk_digest=digest_of(b"disk"),
        created_at=NOON,
        provisioning_state=ProvisioningState.SUCCEEDED,
        source_format=DiskFormat.VHD_FIXED,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def replica(version_uid: str, slot: Slot, state: ReplicaState = ReplicaState.PENDING) -> Replica:
    return Replica(uid=uid(), version_uid=version_uid, slot=slot, state=state)


def segment(number: int, stored_bytes: int = 1000) -> SegmentRow:
    return SegmentRow(
        name=digest_of(number.to_bytes(8, "little")),
        blocks=1024,
        stored_bytes=stored_bytes + number,
        checksum=None if number % 2 else "CRC32:AAAAAA==",
        work_uid="work",
    )


def manifest(slot_uid: str, ids: set[int] | None = None, **changes: object) -> ManifestRow:
    made = ManifestRow(
        uid=uid(),
        slot_uid=slot_uid,
        owner_uid=uid(),
        digest=digest_of(b"manifest"),
        body_key="manifests/owner/os",
        virtual_bytes=1 << 30,
        object_bytes=4096,
        disk_digest=digest_of(b"disk"),
        segment_ids=pack_ids(ids or set()),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class World:
    """The parents of a version, with a slot."""

    pool: Pool
    gallery: Gallery
    definition: ImageDefinition
    version: ImageVersion
    slot: Slot


def settle(transaction: Transaction, name: str = "myGallery") -> World:
    """Add a group if there is none, and a pool, a slot, a gallery, a definition and a version."""
    if transaction.groups.get(SUBSCRIPTION, "rg") is None:
        transaction.groups.add(group())
    pool = Pool(uid=uid(), fingerprint_key=bytes(range(32)))
    transaction.pools.add(pool)
    its_gallery = gallery(pool.uid, name)
    transaction.galleries.add(its_gallery)
    its_definition = definition(its_gallery.uid)
    transaction.definitions.add(its_definition)
    its_version = version(its_definition.uid)
    transaction.versions.add(its_version)
    return World(pool, its_gallery, its_definition, its_version, slot(transaction, pool.uid))


def slot(transaction: Transaction, pool_uid: str, region: str = "westus2", ordinal: int = 0) -> Slot:
    key = SlotKey(pool_uid=pool_uid, region=region, storage_account_type=LRS, ordinal=ordinal)
    return transaction.slots.get_or_add(key, zone="1", bucket=f"bucket-{region}")
