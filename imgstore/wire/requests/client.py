"""Write the bodies of PUT and PATCH requests from domain values. A value of None leaves the field out.

The modules `fields`, `version` and `disk` read these bodies.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from imgstore.domain.identity.sharing import CommunityInfo
from imgstore.domain.names import ImageReference, SharedReference, definition_id, version_id
from imgstore.domain.requests import DefinitionDetails, VersionRequest
from imgstore.domain.resources import VersionUpdate
from imgstore.wire.json_text import Json, instant
from imgstore.wire.requests.version_update import target_regions_json

_LUN: Final = "lun"


def without_none(**values: Json) -> dict[str, Json]:
    """Return the values that are not None. Empty texts, lists and tags stay."""
    return {name: value for name, value in values.items() if value is not None}


def gallery_body(
    *,
    location: str | None,
    description: str | None,
    tags: Mapping[str, str] | None,
    soft_delete_enabled: bool | None,
    soft_delete_retention_days: int | None,
    permission: str | None,
    community: CommunityInfo | None,
) -> Json:
    """Write the body of a gallery. `community` is the public data of a community gallery."""
    policy = without_none(isSoftDeleteEnabled=soft_delete_enabled, retentionPeriodInDays=soft_delete_retention_days)
    info = None if community is None else _community(community)
    sharing = without_none(permissions=permission, communityGalleryInfo=info)
    properties = without_none(description=description, softDeletePolicy=policy or None, sharingProfile=sharing or None)
    return without_none(location=location, tags=tags, properties=properties)


def _community(info: CommunityInfo) -> Json:
    return {
        "publisherUri": info.publisher_uri,
        "publisherContact": info.publisher_contact,
        "eula": info.eula,
        "publicNamePrefix": info.public_name_prefix,
    }


def definition_body(*, location: str | None, details: "DefinitionDetails", features: bool, **fixed: str) -> Json:
    """Write the body of an image definition.

    Args:
        location: The name of the region.
        details: The optional properties.
        features: True to send an empty list of features too. Without a list, the newest api-versions add a feature.
        fixed: The publisher, offer and sku, and further fixed properties by ARM's names, such as ``osType``.
    """
    identifier = {name: fixed.pop(name) for name in ("publisher", "offer", "sku")}
    vcpus, memory = details.recommended_vcpus, details.recommended_memory_gib
    recommended = without_none(
        vCPUs=None if vcpus is None else without_none(min=vcpus.min, max=vcpus.max),
        memory=None if memory is None else without_none(min=memory.min, max=memory.max),
    )
    plan, types = details.purchase_plan, details.disallowed_disk_types
    named = [_feature(each) for each in details.features or ()]
    properties = without_none(
        **fixed,
        identifier=identifier,
        description=details.description,
        eula=details.eula,
        privacyStatementUri=details.privacy_statement_uri,
        releaseNoteUri=details.release_note_uri,
        endOfLifeDate=_format_instant(details.end_of_life_at),
        recommended=recommended or None,
        disallowed=None if types is None else {"diskTypes": [each.value for each in types]},
        purchasePlan=None
        if plan is None
        else without_none(name=plan.name, publisher=plan.publisher, product=plan.product),
        features=named if features or details.features is not None else None,
    )
    return without_none(location=location, tags=details.tags, properties=properties)


def _feature(feature: Any) -> Json:
    return without_none(name=feature.name, value=feature.value, startsAtVersion=feature.starts_at_version)


def version_body(request: "VersionRequest", *, location: str | None, storage: Json) -> Json:
    """Write the body of an image version.

    Args:
        request: The request. The disks are in `storage`.
        location: The source region.
        storage: The storage profile, or None to leave the profile out.
    """
    publishing = without_none(
        targetRegions=target_regions_json(request.target_regions or None),
        replicaCount=request.replica_count,
        storageAccountType=request.storage_account_type,
        replicationMode=request.replication_mode,
        excludeFromLatest=request.exclude_from_latest,
        endOfLifeDate=_format_instant(request.new_end_of_life_at),
    )
    safety = without_none(
        allowDeletionOfReplicatedLocations=request.allow_deletion_of_replicated_locations,
        blockDeletionBeforeEndOfLife=request.block_deletion_before_end_of_life,
    )
    properties = without_none(publishingProfile=publishing, storageProfile=storage, safetyProfile=safety or None)
    return without_none(location=location, tags=request.tags, properties=properties)


def storage_profile(disks: Mapping[int | None, Json]) -> Json:
    """Write the storage profile of a version.

    Args:
        disks: The source of each disk, an id or a URL, by LUN. The OS disk has the key None.
    """
    data = [{_LUN: lun, "source": source} for lun, source in disks.items() if lun is not None]
    return without_none(osDiskImage={"source": disks[None]}, dataDiskImages=data or None)


def update_body(update: VersionUpdate, before: Json) -> Json:
    """Write the body of a version update: the changes for a PATCH, or all properties for a PUT.

    A PATCH without an end of life keeps the date, so only a PUT can remove the date. A PUT also removes missing tags.

    Args:
        update: The requested changes.
        before: The version in the server's JSON.
    """
    ends = update.end_of_life_at
    publishing = without_none(
        targetRegions=_regions(update),
        replicaCount=update.replica_count,
        excludeFromLatest=update.exclude_from_latest,
        endOfLifeDate=_format_instant(ends) if isinstance(ends, datetime) else None,
    )
    safety = without_none(
        allowDeletionOfReplicatedLocations=update.allow_deletion_of_replicated_locations,
        blockDeletionBeforeEndOfLife=update.block_deletion_before_end_of_life,
    )
    tags = before.get("tags", {}) if needs_put(update) and update.tags is None else update.tags
    location = before["location"] if needs_put(update) else None
    properties = without_none(publishingProfile=publishing, safetyProfile=safety or None)
    return without_none(location=location, tags=tags, properties=properties)


def needs_put(update: VersionUpdate) -> bool:
    """Return whether an update removes the end of life, which needs a PUT."""
    return update.end_of_life_at is None


def _regions(update: VersionUpdate) -> Json:
    listed = target_regions_json(update.target_regions)
    if listed is None:
        return None
    asked: Sequence[Any] = update.target_regions or ()
    return [
        one | without_none(excludeFromLatest=each.exclude_from_latest) for one, each in zip(listed, asked, strict=True)
    ]


def _format_instant(time: datetime | None) -> str | None:
    return None if time is None else instant(time)


def disk_body(
    *,
    location: str,
    creation: Json,
    tags: Mapping[str, str] | None,
    sku: str | None = None,
    os_type: str | None = None,
    hyper_v_generation: str | None = None,
) -> Json:
    """Write the body of a managed disk.

    Args:
        location: The region.
        creation: The ``creationData``, see `image_creation_data`.
        tags: The tags, or None to leave the tags out.
        sku: The storage account type of a file or an upload.
        os_type: The declared OS type.
        hyper_v_generation: The declared hypervisor generation.
    """
    properties = without_none(osType=os_type, hyperVGeneration=hyper_v_generation, creationData=creation)
    return without_none(location=location, tags=tags, sku=None if sku is None else {"name": sku}, properties=properties)


def image_creation_data(reference: ImageReference | SharedReference, lun: int | None, subscription: str) -> Json:
    """Write the ``creationData`` of a disk from an image version."""
    if isinstance(reference, SharedReference):
        key = "communityGalleryImageId" if reference.community else "sharedGalleryImageId"
        return {"createOption": "FromImage", "galleryImageReference": {key: str(reference)} | without_none(lun=lun)}
    image = {"id": image_id(reference, subscription)}
    return {"createOption": "FromImage", "galleryImageReference": image | without_none(lun=lun)}


def image_id(reference: ImageReference, subscription: str) -> str:
    """Return the id of an image version.

    Without a version, return the id of the definition, which means the latest version.
    """
    above = (reference.subscription or subscription, reference.group, reference.gallery, reference.definition)
    return definition_id(*above) if reference.version is None else version_id(*above, reference.version)
