"""Resources as JSON in ARM's format. Keys have Azure's order: name, id, type, location, tags, properties.

Sources: recorded traffic, and the specification's examples of 2023-07-03. imgstore adds ``diskDigest`` and
``sizeInBytes``, ``replica`` on a managed disk (the ordinal of the replica that serves the disk), and
``provisioningStateDetails`` on a version that no process works on. Clients ignore added fields.
"""

from collections.abc import Mapping
from typing import Final

from imgstore.domain.disks.disk_details import SKU
from imgstore.domain.disks.disk_performance import performance_of, sku_tier
from imgstore.domain.disks.source_urls import redact_location
from imgstore.domain.disks.version_disks import HostCaching, VersionDisk, lun_of
from imgstore.domain.image_features import canonical_feature
from imgstore.domain.machines import MACHINE
from imgstore.domain.names import ComputeId, definition_id, gallery_id, group_id, region_key, shared_image_field
from imgstore.domain.resources import (
    DiskKind,
    Feature,
    Gallery,
    Group,
    ImageDefinition,
    ImageVersion,
    ManagedDisk,
    PurchasePlan,
    RecommendedRange,
    StorageAccountType,
)
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.sizes import GIB
from imgstore.domain.views import ManagedImage, VersionView
from imgstore.wire.json_text import Json, instant
from imgstore.wire.requests.body_fields import place_field
from imgstore.wire.responses.replication import replication_status_json
from imgstore.wire.sharing import sharing_profile_json

_COMPUTE: Final = "Microsoft.Compute"


def subscription_json(subscription: str, *, default: str) -> Json:
    """Return a subscription as `az account list` shows it. The name is the id."""
    return {"id": subscription, "name": subscription, "state": "Enabled", "isDefault": subscription == default}


def group_json(group: Group) -> Json:
    """Return a resource group (Microsoft.Resources 2024-11-01)."""
    return _resource(
        name=group.name,
        resource_id=group_id(group.subscription, group.name),
        kind="Microsoft.Resources/resourceGroups",
        location=group.location,
        tags=group.tags,
        properties={"provisioningState": "Succeeded"},
    )


def gallery_json(gallery: Gallery, *, groups: bool = False) -> Json:
    """Return a gallery. With `groups`, the sharing profile contains the members, as Azure shows on request."""
    return _resource(
        name=gallery.name,
        resource_id=gallery_id(gallery.subscription, gallery.group, gallery.name),
        kind=f"{_COMPUTE}/galleries",
        location=gallery.location,
        tags=gallery.tags,
        properties=_without_none(description=gallery.description)
        | {"identifier": {"uniqueName": f"{gallery.subscription}-{gallery.name.upper()}"}}
        | _soft_delete_policy(gallery)
        | sharing_profile_json(gallery.sharing, groups=groups)
        | {"provisioningState": "Succeeded"},
    )


def _soft_delete_policy(gallery: Gallery) -> dict[str, Json]:
    """Return the soft-delete policy, also if switched off, so that an explicit false comes back."""
    policy = {
        "isSoftDeleteEnabled": gallery.soft_delete_enabled,
        "retentionPeriodInDays": gallery.soft_delete_retention_days,
    }
    return {"softDeletePolicy": policy}


def definition_json(definition: ImageDefinition, gallery: Gallery) -> Json:
    """Return an image definition of a gallery."""
    return _resource(
        name=definition.name,
        resource_id=definition_id(gallery.subscription, gallery.group, gallery.name, definition.name),
        kind=f"{_COMPUTE}/galleries/images",
        location=definition.location,
        tags=definition.tags,
        properties=_without_none(
            description=definition.description,
            eula=definition.eula,
            privacyStatementUri=definition.privacy_statement_uri,
            releaseNoteUri=definition.release_note_uri,
        )
        | {
            "osType": definition.os_type.value,
            "osState": definition.os_state.value,
            "hyperVGeneration": definition.hyper_v_generation.value,
            "architecture": definition.architecture.value,
            "identifier": {"publisher": definition.publisher, "offer": definition.offer, "sku": definition.sku},
        }
        | _without_none(
            endOfLifeDate=None if definition.end_of_life_at is None else instant(definition.end_of_life_at),
            recommended=_recommended_machine(definition),
            disallowed=_without_empty(diskTypes=[kind.value for kind in definition.disallowed_disk_types]),
            purchasePlan=_purchase_plan(definition.purchase_plan),
            **(_without_empty(features=[_feature(each) for each in definition.features]) or {}),
            allowUpdateImage=definition.allow_update_image or None,
        )
        | {"provisioningState": "Succeeded"},
    )


def _recommended_machine(definition: ImageDefinition) -> Json:
    return _without_empty(vCPUs=_range(definition.recommended_vcpus), memory=_range(definition.recommended_memory_gib))


def _range(asked: RecommendedRange) -> Json:
    return _without_empty(min=asked.min, max=asked.max)


def _purchase_plan(plan: PurchasePlan | None) -> Json:
    return None if plan is None else _without_empty(name=plan.name, publisher=plan.publisher, product=plan.product)


def _feature(feature: Feature) -> Json:
    feature = canonical_feature(feature)
    return _without_none(name=feature.name, value=feature.value, startsAtVersion=feature.starts_at_version)


def _without_empty(**values: Json) -> Json:
    """Return the values that are set and not empty, or None. Azure drops empty objects."""
    return {key: value for key, value in values.items() if value not in (None, [], {})} or None


def version_json(view: VersionView, display_names: Mapping[str, str], *, replication_status: bool = False) -> Json:
    """Return an image version.

    Args:
        view: The version with replicas, definition and gallery.
        display_names: The display name of each region ("West US 2"), by key.
        replication_status: True if the request contains ``$expand=ReplicationStatus``.
    """
    version, line = view.version, view.definition_path
    status = (
        replication_status_json(
            version.target_regions,
            view.replicas,
            display_names,
            view.gaps,
            unreachable_slots=view.unreachable_slots,
            is_idle=view.is_idle,
        )
        if replication_status
        else None
    )
    return _resource(
        name=str(version.name),
        resource_id=line.version_id(version.name),
        kind=f"{_COMPUTE}/galleries/images/versions",
        location=version.location,
        tags=version.tags,
        properties={
            "publishingProfile": _publishing_profile(version, display_names),
            "storageProfile": _storage_profile(version),
            "safetyProfile": _safety_profile(version),
            **_without_none(replicationStatus=status),
            "provisioningState": version.provisioning_state.value,
            **_without_none(provisioningStateDetails=_idle_text(view) if view.is_idle else None),
        },
    )


def _idle_text(view: VersionView) -> str:
    is_complete = any(each.state is ReplicaState.COMPLETED for each in view.replicas)
    how = "repeat the same create, or start `imgstore worker`" if is_complete else "repeat the same create"
    return f"No process works on this image version. To continue, {how}."


def soft_deleted_json(view: VersionView) -> Json:
    """Return a softly deleted version (GallerySoftDeletedResource of 2026-03-03)."""
    version, line, gallery = view.version, view.definition_path, view.definition_path.gallery
    deleted_at, gone_at = version.soft_deleted_at, version.hard_deletion_at
    return _resource(
        name=str(version.name),
        resource_id=f"{gallery_id(gallery.subscription, gallery.group, gallery.name)}/softDeletedArtifactTypes/Images/artifacts/{line.definition.name}/versions/"
        f"{version.name}",
        kind=f"{_COMPUTE}/galleries/softDeletedArtifactTypes/artifacts/versions",
        location=version.location,
        tags=version.tags,
        properties=_without_none(
            resourceArmId=line.version_id(version.name),
            softDeletedArtifactType="Images",
            softDeletedTime=None if deleted_at is None else instant(deleted_at),
            hardDeletionTargetTime=None if gone_at is None else instant(gone_at),
        ),
    )


def disk_json(disk: ManagedDisk) -> Json:
    """Return a managed disk or a snapshot (Microsoft.Compute/disks, snapshots), with the ordinal of the replica."""
    os_properties = disk.os_properties
    sku = str(disk.extra_properties.get(SKU, disk.storage_account_type.value))
    body = _resource(
        name=disk.name,
        resource_id=disk.resource_id,
        kind=f"{_COMPUTE}/{disk.kind}",
        location=disk.location,
        tags=disk.tags,
        properties=_without_none(
            osType=os_properties.os_type,
            hyperVGeneration=os_properties.hyper_v_generation,
            osState=os_properties.os_state,
        )
        | {
            "creationData": _creation_data(disk),
            "diskSizeGB": _gib(disk.virtual_bytes),
            "diskSizeBytes": disk.virtual_bytes,
            **_without_none(diskDigest=disk.disk_digest.hex() or None),
            "timeCreated": instant(disk.created_at),
            "uniqueId": disk.uid,
            "diskState": disk.disk_state.value,
            **_without_none(incremental=False if disk.kind is DiskKind.SNAPSHOT else None),
            "encryption": {"type": "EncryptionAtRestWithPlatformKey"},
            **(_performance(sku, disk.virtual_bytes) if disk.kind is DiskKind.DISK else {}),
            "networkAccessPolicy": "AllowAll",
            "publicNetworkAccess": "Enabled",
            # In Azure, the state of a disk that waits for an upload is Succeeded.
            "provisioningState": "Succeeded" if disk.awaits_upload else disk.provisioning_state.value,
        },
    )
    properties = body.pop("properties")
    shown = (
        body
        | _without_none(managedBy=disk.managed_by)
        | {"sku": {"name": sku, "tier": sku_tier(sku)}, "replica": disk.replica, "properties": properties}
    )
    for path, value in disk.extra_properties.items():
        place_field(shown, path, value)
    return shown


def _performance(sku: str, virtual_bytes: int) -> dict[str, Json]:
    """Return the performance of the type in Azure. imgstore limits no disk."""
    found = performance_of(sku, virtual_bytes)
    shown = {"diskIOPSReadWrite": found.requests_per_second, "diskMBpsReadWrite": found.mib_per_second}
    return shown | _without_none(tier=found.tier)


def _creation_data(disk: ManagedDisk) -> Json:
    if disk.upload_bytes is not None:
        return {"createOption": "Upload", "uploadSizeBytes": disk.upload_bytes}
    if disk.source is not None:
        return {"createOption": "Import", "sourceUri": redact_location(disk.source.location)}
    found = ComputeId.parse(disk.source_reference)
    if found is not None and found.kind == DiskKind.IMAGE:
        return {"createOption": "FromImage", "imageReference": {"id": disk.source_reference}}
    if found is not None:
        return {"createOption": "Copy", "sourceResourceId": disk.source_reference}
    image = {shared_image_field(disk.source_reference) or "id": disk.source_reference} | _without_none(
        lun=disk.source_lun
    )
    return {"createOption": "FromImage", "galleryImageReference": image}


def image_json(image: "ManagedImage") -> Json:
    """Return a managed image (Microsoft.Compute/images of 2024-07-01)."""
    first = image.os
    return _resource(
        name=first.name,
        resource_id=first.resource_id,
        kind=f"{_COMPUTE}/images",
        location=first.location,
        tags=first.tags,
        properties={
            "storageProfile": {
                "osDisk": _without_none(osType=first.os_properties.os_type, osState=first.os_properties.os_state)
                | _image_disk(first),
                "dataDisks": [{"lun": lun_of(each.disk_key)} | _image_disk(each) for each in image.data],
                "zoneResilient": first.storage_account_type is StorageAccountType.STANDARD_ZRS,
            },
            **_without_none(hyperVGeneration=first.os_properties.hyper_v_generation),
            "provisioningState": image.provisioning_state.value,
        },
    )


def _image_disk(disk: ManagedDisk) -> dict[str, Json]:
    """Return a disk of a managed image. A copy names the source with Azure's property."""
    found = ComputeId.parse(disk.source_reference) if disk.source is None else None
    source: dict[str, Json] = {"blobUri": redact_location(disk.source_reference)}
    if found is not None:
        key = "snapshot" if found.kind == DiskKind.SNAPSHOT else "managedDisk"
        source = {key: {"id": disk.source_reference}}
    return source | {
        "diskSizeGB": _gib(disk.virtual_bytes),
        "diskSizeBytes": disk.virtual_bytes,
        **_without_none(diskDigest=disk.disk_digest.hex() or None),
        "storageAccountType": disk.extra_properties.get(SKU, disk.storage_account_type.value),
        "caching": disk.extra_properties.get("caching", HostCaching.NONE.value),
    }


def _publishing_profile(version: ImageVersion, display_names: Mapping[str, str]) -> Json:
    return {
        "targetRegions": [
            {
                "name": display_names.get(region_key(target.name), target.name),
                "regionalReplicaCount": target.regional_replica_count,
                "storageAccountType": target.storage_account_type.value,
                "excludeFromLatest": target.exclude_from_latest,
            }
            for target in version.target_regions
        ],
        "replicaCount": version.replica_count,
        "excludeFromLatest": version.exclude_from_latest,
        "publishedDate": instant(version.published_at),
        **_without_none(endOfLifeDate=None if version.end_of_life_at is None else instant(version.end_of_life_at)),
        "storageAccountType": _common_type(version).value,
        "replicationMode": version.replication_mode.value,
    }


def _safety_profile(version: ImageVersion) -> Json:
    """Return the safety profile with the effective value of each field."""
    return {
        "reportedForPolicyViolation": False,
        "allowDeletionOfReplicatedLocations": version.allow_deletion_of_replicated_locations is not False,
        "blockDeletionBeforeEndOfLife": version.block_deletion_before_end_of_life,
    }


def _common_type(version: ImageVersion) -> StorageAccountType:
    """Return the storage account type of the profile: the type of all regions if all agree, else Azure's default."""
    kinds = {target.storage_account_type for target in version.target_regions}
    return kinds.pop() if len(kinds) == 1 else StorageAccountType.STANDARD_LRS


def _storage_profile(version: ImageVersion) -> Json:
    """Return the storage profile.

    Azure shows no empty list of data disks. A common source of all disks is shown once.
    """
    location = version.os_disk.source.location
    found = ComputeId.parse(location)
    key = "virtualMachineId" if found is not None and found.kind == MACHINE.lower() else "id"
    if shared_image_field(location) == "communityGalleryImageId":
        key = "communityGalleryImageId"
    whole = {"source": {key: location}} if _is_resource(location) and not _disk_source(location) else {}
    data_disks = [{"lun": disk.lun} | _disk_image(disk) for disk in version.data_disks]
    return whole | {"osDiskImage": _disk_image(version.os_disk)} | _without_none(dataDiskImages=data_disks or None)


def _disk_image(disk: VersionDisk) -> dict[str, Json]:
    size, digest = disk.virtual_bytes, disk.disk_digest
    return _without_none(
        sizeInGB=None if size is None else _gib(size),
        sizeInBytes=size,
        diskDigest=None if digest is None else digest.hex(),
    ) | {"hostCaching": disk.host_caching.value, "source": _disk_source(disk.source.location)}


def _disk_source(location: str) -> Json:
    """Return the source of a single disk: a file, a disk or a snapshot. Other sources belong to the whole version."""
    if not _is_resource(location):
        return {"uri": redact_location(location)}
    found = ComputeId.parse(location)
    return {"id": location} if found is not None and found.kind in (DiskKind.DISK, DiskKind.SNAPSHOT) else {}


def _is_resource(location: str) -> bool:
    is_resource_id = location.startswith("/subscriptions/") and f"/providers/{_COMPUTE}/" in location
    return is_resource_id or shared_image_field(location) is not None


def _gib(size_bytes: int) -> int:
    """Return a size in GiB, rounded up. Azure's GB are GiB."""
    return -(-size_bytes // GIB)


def _without_none(**values: Json) -> dict[str, Json]:
    return {key: value for key, value in values.items() if value is not None}


def _resource(
    *, name: str, resource_id: str, kind: str, location: str, tags: Mapping[str, str], properties: Json
) -> dict[str, Json]:
    return {
        "name": name,
        "id": resource_id,
        "type": kind,
        "location": location,
        "tags": dict(tags),
        "properties": properties,
    }
