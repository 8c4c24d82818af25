"""The treatment of each field of a request body. No field that a client sends is dropped silently (invariant H14).

A field is applied, or stored and shown again, or read-only: clients send read-only fields back as received. Each other
field is refused by its path, unless the value is empty. A field that is newer than the request's api-version is refused
too, because the caller expects an effect. Names are case-insensitive, as in ARM.

Paths leave lists out, as in `wire/api_versions.py`. The treatment of a path holds for all paths below.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import cache
from typing import Any, Final, TypeAlias

from imgstore.wire.api_versions import NEWEST, Kind, has_field
from imgstore.wire.json_fields import invalid_value
from imgstore.wire.json_text import Json


class Request(StrEnum):
    """Bodies that are not resources."""

    SHARE = "galleries/share"
    ACCESS = "disks/beginGetAccess"
    QUERY = "Microsoft.ResourceGraph/resources"
    TAGS = "Microsoft.Network/tags"
    """A PATCH of a resource of Microsoft.Network."""


Subject: TypeAlias = Kind | Request
"""The resource or request of a body."""


class FieldUse(Enum):
    """The treatment of a field."""

    APPLIED = "read, and applied or refused by its value"
    KEPT = "stored and shown as sent, without an effect"
    READ_ONLY = "written by Azure only, and ignored in requests as in Azure"
    HIDDEN = "neither used nor shown, as Azure never shows the field"


@dataclass(frozen=True, slots=True)
class AllowedValues:
    """A field with one effect only. The values are stored and shown; the first is the default."""

    values: tuple[Json, ...]

    def has(self, value: Json) -> bool:
        """Return whether a value is allowed. The case of texts does not matter."""
        return any(
            value.lower() == each.lower()
            if isinstance(value, str) and isinstance(each, str)
            else value == each and type(value) is type(each)
            for each in self.values
        )


Treatment: TypeAlias = FieldUse | AllowedValues


def _with_use(treatment: Treatment, words: str, above: str = "") -> dict[str, Treatment]:
    return {f"{above}{word}": treatment for word in words.split()}


_RESOURCE: Final[Mapping[str, Treatment]] = {
    **_with_use(
        FieldUse.READ_ONLY,
        "id name type systemData etag properties.provisioningState properties.provisioningStateDetails",
    ),
    **_with_use(FieldUse.APPLIED, "location tags"),
}
_PUBLISHING: Final = "properties.publishingProfile."
_STORAGE: Final = "properties.storageProfile."
_ENCRYPTION: Final = "properties.encryptionSettingsCollection."

_STORED_DISK: Final[Mapping[str, Treatment]] = {
    **_RESOURCE,
    **_with_use(FieldUse.READ_ONLY, "managedBy managedByExtended replica sku.tier"),
    **_with_use(
        FieldUse.READ_ONLY,
        "timeCreated diskSizeBytes diskDigest uniqueId diskState osState shareInfo burstingEnabledTime "
        "propertyUpdatesInProgress LastOwnershipUpdateTime creationData.sourceUniqueId completionPercent "
        "copyCompletionError incrementalSnapshotFamilyId securityProfile.confidentialVMVersion snapshotAccessState "
        "immutabilityPolicy",
        "properties.",
    ),
    **_with_use(FieldUse.APPLIED, "sku.name properties.osType properties.hyperVGeneration properties.diskSizeGB"),
    **_with_use(FieldUse.APPLIED, "tier diskIOPSReadWrite diskMBpsReadWrite", "properties."),
    **_with_use(
        FieldUse.APPLIED,
        "createOption sourceUri sourceResourceId uploadSizeBytes imageReference galleryImageReference.id "
        "galleryImageReference.sharedGalleryImageId galleryImageReference.communityGalleryImageId "
        "galleryImageReference.lun allowRemote",
        "properties.creationData.",
    ),
    **_with_use(
        FieldUse.KEPT,
        "purchasePlan.name purchasePlan.publisher purchasePlan.product purchasePlan.promotionCode "
        "supportedCapabilities.diskControllerTypes supportedCapabilities.acceleratedNetwork "
        "supportedCapabilities.architecture supportedCapabilities.supportedSecurityOption creationData.storageAccountId",
        "properties.",
    ),
    "properties.networkAccessPolicy": AllowedValues(("AllowAll",)),
    "properties.publicNetworkAccess": AllowedValues(("Enabled",)),
    "properties.dataAccessAuthMode": AllowedValues(("None",)),
    "properties.encryption.type": AllowedValues(("EncryptionAtRestWithPlatformKey",)),
    "properties.maxShares": AllowedValues((1,)),
    "properties.burstingEnabled": AllowedValues((False,)),
    "properties.supportsHibernation": AllowedValues((False,)),
    "properties.optimizedForFrequentAttach": AllowedValues((False,)),
    "properties.incremental": AllowedValues((False,)),
    "properties.securityProfile.securityType": AllowedValues(("Standard",)),
    "properties.availabilityPolicy.actionOnDiskDelay": AllowedValues(("None",)),
    "properties.creationData.performancePlus": AllowedValues((False,)),
    "properties.creationData.logicalSectorSize": AllowedValues((512,)),
    "properties.creationData.provisionedBandwidthCopySpeed": AllowedValues(("None",)),
    f"{_ENCRYPTION}enabled": AllowedValues((False,)),
}


_LISTS: Final = frozenset(
    {
        "groups",
        "properties.features",
        f"{_PUBLISHING}targetRegions",
        f"{_STORAGE}dataDiskImages",
        f"{_STORAGE}dataDisks",
        "properties.networkProfile.networkInterfaces",
        "properties.virtualMachineProfile.storageProfile.dataDisks",
    }
)
"""Paths of lists of objects. Each other path with names below is an object."""
_ANY: Final = "*"
"""In a table: all names without an entry."""


def _machine_disk(word: str) -> dict[str, Treatment]:
    above = f"{_STORAGE}{word}."
    return {
        **_with_use(
            FieldUse.APPLIED,
            "name caching createOption deleteOption diskSizeGB managedDisk.id managedDisk.storageAccountType",
            above,
        ),
        f"{above}writeAcceleratorEnabled": AllowedValues((False,)),
    }


_OF_SET: Final = "properties.virtualMachineProfile."
"""The model of the instances in a scale set."""


def _set_disk(word: str) -> dict[str, Treatment]:
    above = f"{_OF_SET}storageProfile.{word}."
    return {
        f"{above}caching": FieldUse.APPLIED,
        f"{above}createOption": AllowedValues(("FromImage",)),
        f"{above}deleteOption": AllowedValues(("Delete",)),
        f"{above}writeAcceleratorEnabled": AllowedValues((False,)),
    }


_SCALE_SET: Final[Mapping[str, Treatment]] = {
    **_RESOURCE,
    **_with_use(
        FieldUse.READ_ONLY,
        "identity.principalId identity.tenantId properties.uniqueId properties.timeCreated "
        "properties.virtualMachineProfile.timeCreated properties.latestUpdate",
    ),
    **_with_use(FieldUse.APPLIED, "sku.name sku.capacity"),
    "sku.tier": AllowedValues(("Standard",)),
    "identity.type": AllowedValues(("None",)),
    **_with_use(FieldUse.KEPT, "plan extendedLocation zones"),
    **_with_use(
        FieldUse.APPLIED,
        "mode rollingUpgradePolicy.maxBatchInstancePercent rollingUpgradePolicy.maxUnhealthyInstancePercent "
        "rollingUpgradePolicy.maxUnhealthyUpgradedInstancePercent rollingUpgradePolicy.pauseTimeBetweenBatches",
        "properties.upgradePolicy.",
    ),
    **dict.fromkeys(
        _with_use(
            FieldUse.APPLIED,
            "rollingUpgradePolicy.enableCrossZoneUpgrade rollingUpgradePolicy.prioritizeUnhealthyInstances "
            "rollingUpgradePolicy.rollbackFailedInstancesOnPolicyBreach rollingUpgradePolicy.maxSurge "
            "automaticOSUpgradePolicy.enableAutomaticOSUpgrade automaticOSUpgradePolicy.useRollingUpgradePolicy "
            "automaticOSUpgradePolicy.osRollingUpgradeDeferral",
            "properties.upgradePolicy.",
        ),
        AllowedValues((False,)),
    ),
    **dict.fromkeys(
        _with_use(
            FieldUse.APPLIED,
            "automaticRepairsPolicy.enabled spotRestorePolicy.enabled resiliencyPolicy.resilientVMCreationPolicy.enabled "
            "resiliencyPolicy.resilientVMDeletionPolicy.enabled resiliencyPolicy.automaticZoneRebalancingPolicy.enabled "
            "additionalCapabilities.enableFips1403Encryption scaleInPolicy.prioritizeUnhealthyVMs externalHealthPolicy.enabled "
            "constrainedMaximumCapacity",
            "properties.",
        ),
        AllowedValues((False,)),
    ),
    "properties.orchestrationMode": AllowedValues(("Uniform",)),
    **_with_use(
        FieldUse.KEPT,
        "singlePlacementGroup overprovision doNotRunExtensionsOnOverprovisionedVMs zoneBalance platformFaultDomainCount "
        "zonalPlatformFaultDomainAlignMode proximityPlacementGroup hostGroup scheduledEventsPolicy "
        "additionalCapabilities.ultraSSDEnabled additionalCapabilities.hibernationEnabled",
        "properties.",
    ),
    **_with_use(FieldUse.APPLIED, "osProfile.adminUsername osProfile.computerNamePrefix", _OF_SET),
    **_with_use(FieldUse.KEPT, "osProfile.* networkProfile", _OF_SET),
    f"{_OF_SET}userData": FieldUse.HIDDEN,
    **_with_use(
        FieldUse.KEPT,
        "hardwareProfile.vmSizeProperties diagnosticsProfile applicationProfile billingProfile capacityReservation "
        "scheduledEventsProfile evictionPolicy extensionProfile.extensionsTimeBudget licenseType priority "
        "storageProfile.diskControllerType securityProfile.uefiSettings.secureBootEnabled "
        "securityProfile.uefiSettings.vTpmEnabled",
        _OF_SET,
    ),
    f"{_OF_SET}securityProfile.securityType": AllowedValues(("Standard", "TrustedLaunch")),
    f"{_OF_SET}securityProfile.encryptionAtHost": AllowedValues((False,)),
    f"{_OF_SET}securityProfile.proxyAgentSettings.enabled": AllowedValues((False,)),
    **_with_use(
        FieldUse.APPLIED,
        "id sharedGalleryImageId communityGalleryImageId publisher offer sku version",
        f"{_OF_SET}storageProfile.imageReference.",
    ),
    f"{_OF_SET}storageProfile.imageReference.exactVersion": FieldUse.READ_ONLY,
    **_set_disk("osDisk"),
    **_with_use(FieldUse.APPLIED, "osType managedDisk.storageAccountType", f"{_OF_SET}storageProfile.osDisk."),
    **_set_disk("dataDisks"),
    **_with_use(FieldUse.APPLIED, "lun", f"{_OF_SET}storageProfile.dataDisks."),
}


FIELDS: Final[Mapping[Subject, Mapping[str, Treatment]]] = {
    Kind.GALLERY: {
        **_RESOURCE,
        **_with_use(FieldUse.READ_ONLY, "properties.identifier properties.sharingStatus"),
        **_with_use(
            FieldUse.READ_ONLY, "communityGalleryEnabled publicNames", "properties.sharingProfile.communityGalleryInfo."
        ),
        **_with_use(
            FieldUse.APPLIED,
            "description sharingProfile.permissions sharingProfile.groups softDeletePolicy.isSoftDeleteEnabled "
            "softDeletePolicy.retentionPeriodInDays",
            "properties.",
        ),
        **_with_use(
            FieldUse.APPLIED,
            "publisherUri publisherContact eula publicNamePrefix",
            "properties.sharingProfile.communityGalleryInfo.",
        ),
        "identity.type": AllowedValues(("None",)),
    },
    Kind.DEFINITION: {
        **_RESOURCE,
        **_with_use(
            FieldUse.APPLIED,
            "osType osState hyperVGeneration architecture eula privacyStatementUri releaseNoteUri description "
            "endOfLifeDate allowUpdateImage identifier.publisher identifier.offer identifier.sku recommended.vCPUs.min "
            "recommended.vCPUs.max recommended.memory.min recommended.memory.max disallowed.diskTypes purchasePlan.name "
            "purchasePlan.publisher purchasePlan.product features.name features.value features.startsAtVersion",
            "properties.",
        ),
    },
    Kind.VERSION: {
        **_RESOURCE,
        **_with_use(
            FieldUse.READ_ONLY,
            "replicationStatus validationsProfile imageMetadataProfiles safetyProfile.reportedForPolicyViolation "
            "safetyProfile.policyViolations publishingProfile.publishedDate",
            "properties.",
        ),
        **_with_use(FieldUse.READ_ONLY, "sizeInGB sizeInBytes diskDigest", f"{_STORAGE}osDiskImage."),
        **_with_use(FieldUse.READ_ONLY, "sizeInGB sizeInBytes diskDigest", f"{_STORAGE}dataDiskImages."),
        **_with_use(
            FieldUse.APPLIED,
            "targetRegions.name targetRegions.regionalReplicaCount targetRegions.storageAccountType "
            "targetRegions.excludeFromLatest replicaCount excludeFromLatest endOfLifeDate storageAccountType "
            "replicationMode source.managedImage.id",
            _PUBLISHING,
        ),
        **_with_use(
            FieldUse.APPLIED,
            "source.id source.communityGalleryImageId source.virtualMachineId osDiskImage.hostCaching "
            "osDiskImage.source.id osDiskImage.source.uri osDiskImage.source.storageAccountId "
            "dataDiskImages.lun dataDiskImages.hostCaching dataDiskImages.source.id dataDiskImages.source.uri "
            "dataDiskImages.source.storageAccountId",
            _STORAGE,
        ),
        **_with_use(
            FieldUse.APPLIED,
            "safetyProfile.allowDeletionOfReplicatedLocations safetyProfile.blockDeletionBeforeEndOfLife restore",
            "properties.",
        ),
    },
    Kind.DISK: _STORED_DISK,
    Kind.SNAPSHOT: _STORED_DISK,
    Kind.IMAGE: {
        **_RESOURCE,
        **_with_use(
            FieldUse.APPLIED, "sourceVirtualMachine hyperVGeneration storageProfile.zoneResilient", "properties."
        ),
        **_with_use(
            FieldUse.APPLIED,
            "osDisk.osType osDisk.osState osDisk.blobUri osDisk.snapshot.id osDisk.managedDisk.id osDisk.diskSizeGB "
            "osDisk.storageAccountType dataDisks.lun dataDisks.blobUri dataDisks.snapshot.id dataDisks.managedDisk.id "
            "dataDisks.diskSizeGB dataDisks.storageAccountType osDisk.caching dataDisks.caching",
            _STORAGE,
        ),
        **_with_use(
            FieldUse.READ_ONLY,
            "osDisk.diskSizeBytes osDisk.diskDigest dataDisks.diskSizeBytes dataDisks.diskDigest",
            _STORAGE,
        ),
    },
    Kind.MACHINE: {
        **_RESOURCE,
        **_with_use(
            FieldUse.READ_ONLY,
            "resources managedBy identity.principalId identity.tenantId properties.instanceView properties.vmId "
            "properties.timeCreated properties.osState",
        ),
        **_with_use(FieldUse.APPLIED, "zones identity.type"),
        **_with_use(FieldUse.KEPT, "plan extendedLocation"),
        **_with_use(
            FieldUse.APPLIED,
            "hardwareProfile.vmSize networkProfile.networkInterfaces.id "
            "networkProfile.networkInterfaces.properties.deleteOption osProfile.adminUsername osProfile.computerName",
            "properties.",
        ),
        **_with_use(
            FieldUse.KEPT,
            "networkProfile.* networkProfile.networkInterfaces.* networkProfile.networkInterfaces.properties.* osProfile.*",
            "properties.",
        ),
        "properties.userData": FieldUse.HIDDEN,
        **_with_use(
            FieldUse.KEPT,
            "hardwareProfile.vmSizeProperties diagnosticsProfile additionalCapabilities.ultraSSDEnabled "
            "additionalCapabilities.hibernationEnabled applicationProfile "
            "availabilitySet billingProfile capacityReservation host hostGroup proximityPlacementGroup resiliencyProfile "
            "scheduledEventsPolicy scheduledEventsProfile evictionPolicy extensionsTimeBudget licenseType priority "
            "platformFaultDomain storageProfile.diskControllerType",
            "properties.",
        ),
        **_with_use(
            FieldUse.KEPT, "uefiSettings.secureBootEnabled uefiSettings.vTpmEnabled", "properties.securityProfile."
        ),
        "properties.additionalCapabilities.enableFips1403Encryption": AllowedValues((False,)),
        "properties.securityProfile.securityType": AllowedValues(("Standard", "TrustedLaunch")),
        "properties.securityProfile.encryptionAtHost": AllowedValues((False,)),
        "properties.securityProfile.proxyAgentSettings.enabled": AllowedValues((False,)),
        **_with_use(
            FieldUse.APPLIED,
            "id sharedGalleryImageId communityGalleryImageId publisher offer sku version",
            f"{_STORAGE}imageReference.",
        ),
        f"{_STORAGE}imageReference.exactVersion": FieldUse.READ_ONLY,
        f"{_STORAGE}alignRegionalDisksToVMZone": AllowedValues((False,)),
        **_machine_disk("osDisk"),
        **_with_use(FieldUse.APPLIED, "osType", f"{_STORAGE}osDisk."),
        f"{_STORAGE}osDisk.encryptionSettings.enabled": AllowedValues((False,)),
        **_machine_disk("dataDisks"),
        **_with_use(FieldUse.APPLIED, "lun", f"{_STORAGE}dataDisks."),
        f"{_STORAGE}dataDisks.toBeDetached": AllowedValues((False,)),
    },
    Kind.SCALE_SET: _SCALE_SET,
    Kind.GROUP: {**_RESOURCE},
    Kind.DEPLOYMENT: {
        **_with_use(FieldUse.APPLIED, "template templateLink parameters parametersLink mode", "properties."),
        "properties.expressionEvaluationOptions.scope": FieldUse.APPLIED,
        "properties.debugSetting.detailLevel": AllowedValues(("none",)),
        "properties.validationLevel": AllowedValues(("Provider", "ProviderNoRbac", "Template")),
    },
    Request.SHARE: _with_use(FieldUse.APPLIED, "operationType groups.type groups.ids"),
    Request.ACCESS: {
        **_with_use(FieldUse.APPLIED, "access durationInSeconds"),
        "getSecureVMGuestStateSAS": AllowedValues((False,)),
        "fileFormat": AllowedValues(("VHD",)),
    },
    Request.QUERY: {
        **_with_use(FieldUse.APPLIED, "query"),
        **_with_use(FieldUse.READ_ONLY, "subscriptions options.$top options.$skip options.$skipToken"),
        "options.resultFormat": AllowedValues(("objectArray",)),
    },
    Request.TAGS: _with_use(FieldUse.APPLIED, "tags"),
}


def read_known_fields(body: Json, kind: Subject, api_version: str = NEWEST) -> Json:
    """Return a body in the spelling of the table, without read-only fields.

    Args:
        body: The JSON of the request.
        kind: The resource or request.
        api_version: The api-version of the request. Newer fields are refused.

    Raises:
        InvalidInput: A field is not supported, is newer than the api-version, is not an object with names, or occurs
            twice in different case. The target is the path.
    """

    def is_served(path: str) -> bool:
        return isinstance(kind, Request) or has_field(kind, path, api_version)

    return _read_fields(body, _field_tree(kind), "", is_served)


def normalize_names(raw: Mapping[str, Json], names: Collection[str], path: str = "") -> dict[str, Json]:
    """Return an object with `names` in this spelling. Other names stay unchanged.

    Args:
        raw: The object.
        names: The names to normalize.
        path: The path of the object in the body.

    Raises:
        InvalidInput: A name occurs twice in different case.
    """
    spelling = {name.lower(): name for name in names}
    found: dict[str, Json] = {}
    seen = set[str]()
    for raw_name, value in raw.items():
        lower = raw_name.lower()
        name = spelling.get(lower, raw_name)
        if lower in seen:
            raise invalid_value(f"{path}.{name}".lstrip("."), value, "each name once, in any case")
        seen.add(lower)
        found[name] = value
    return found


def select_kept_fields(body: Json, kind: Kind) -> dict[str, Json]:
    """Return the stored fields of a body from `read_known_fields`, by path. Fields in lists are not included."""
    return {
        path: value
        for path, treatment in FIELDS[kind].items()
        if (treatment is FieldUse.KEPT or isinstance(treatment, AllowedValues))
        and (value := _value_at(body, path)) not in (None, "", [], {})
    }


def place_field(resource: dict[str, Any], path: str, value: Json) -> None:
    """Insert a stored field into a resource."""
    *above, name = path.split(".")
    here = resource
    for each in above:
        here = here.setdefault(each, {})
    here[name] = value


_FieldTree: TypeAlias = "Mapping[str, tuple[str, _FieldTree | Treatment]]"


@cache
def _field_tree(kind: Subject) -> "_FieldTree":
    """Return the table as a tree: for each lower-case name, the spelling and the names below."""
    tree: dict[str, Any] = {}
    for path, treatment in FIELDS[kind].items():
        *above, name = path.split(".")
        here = tree
        for each in above:
            here = here.setdefault(each.lower(), (each, {}))[1]
        here[name.lower()] = (name, treatment)
    return tree


def _read_fields(value: Json, tree: "_FieldTree", path: str, is_served: Callable[[str], bool], shown: str = "") -> Json:
    if isinstance(value, list):
        return [_read_fields(each, tree, path, is_served, f"{shown}[{place}]") for place, each in enumerate(value)]
    if not isinstance(value, Mapping):
        return value  # The reader of the field reports the expected type.
    found: dict[str, Json] = {}
    _, any_other = tree.get(_ANY, ("", None))
    for raw, each in normalize_names(value, [name for name, _ in tree.values()], shown).items():
        name, below = tree.get(raw.lower(), (raw, any_other))
        at, where = f"{path}.{name}".lstrip("."), f"{shown}.{name}".lstrip(".")
        if below in (FieldUse.READ_ONLY, FieldUse.HIDDEN):
            continue
        if below is None or not is_served(at):
            _refuse(each, where, is_newer=below is not None)
        elif isinstance(below, AllowedValues):
            if each is not None and not below.has(each):
                raise invalid_value(where, each, f"{_format_values(below)}: imgstore does not support other values")
            found[name] = each
        elif isinstance(below, Mapping):
            _check_shape(each, at, where)
            found[name] = _read_fields(each, below, at, is_served, where)
        else:
            found[name] = each
    return found


def _check_shape(value: Json, path: str, shown: str) -> None:
    """Check that a value with names below is an object, or a list of objects.

    The readers of lists check the elements. An empty value is ignored.
    """
    if value in (None, "", [], {}):
        return
    if path in _LISTS:
        if not isinstance(value, list):
            raise invalid_value(shown, value, "a list of objects")
    elif not isinstance(value, Mapping):
        raise invalid_value(shown, value, "an object")


def _refuse(value: Json, path: str, *, is_newer: bool) -> None:
    why = "the request's api-version does not have this field" if is_newer else "imgstore does not support this field"
    if any(True for _ in _values_in(value)):
        raise invalid_value(path, value, f"nothing: {why}")


def _values_in(value: Json) -> Iterator[Json]:
    """Yield the non-empty values in a value."""
    if isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _values_in(each)
    elif value not in (None, ""):
        yield value


def _format_values(only: AllowedValues) -> str:
    return " or ".join(str(each).lower() if isinstance(each, bool) else str(each) for each in only.values)


def _value_at(body: Json, path: str) -> Json:
    here = body
    for name in path.split("."):
        here = here.get(name) if isinstance(here, Mapping) else None
    return here
