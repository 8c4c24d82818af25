"""What becomes of each field of a body: nothing that a client sends is dropped without an answer.

A field is done, or kept and shown again, or one that Azure alone writes, which clients send back as they read it. Every
other field is refused by its path, unless it is empty. Names are found in any case, as ARM finds them. A field that came
after the request's api-version is refused likewise: the caller expects what it asks for.

Paths leave lists out, as in `wire/api_versions.py`. What stands for a path stands for all below it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import cache
from typing import Any, Final, TypeAlias

from imgstore.wire.api_versions import NEWEST, Kind, knows
from imgstore.wire.json_fields import unfit
from imgstore.wire.json_text import Json


class Request(StrEnum):
    """Bodies that are not resources."""

    SHARE = "galleries/share"
    ACCESS = "disks/beginGetAccess"
    QUERY = "Microsoft.ResourceGraph/resources"
    TAGS = "Microsoft.Network/tags"
    """A PATCH of a resource of Microsoft.Network."""


Subject: TypeAlias = Kind | Request
"""What a body is of."""


class Use(Enum):
    """What becomes of a field."""

    DONE = "read, and done or refused by its value"
    KEPT = "shown as it was sent; it promises nothing"
    AZURES = "written by Azure alone: not heeded, as Azure heeds it not"
    HIDDEN = "used by nothing here and shown to nobody, as Azure shows it to nobody"


@dataclass(frozen=True, slots=True)
class Only:
    """A field that may say what is so anyway: these values, kept and shown; the first is the default."""

    values: tuple[Json, ...]

    def has(self, value: Json) -> bool:
        """Whether a value is one of them; texts in any case."""
        return any(
            value.lower() == each.lower()
            if isinstance(value, str) and isinstance(each, str)
            else value == each and type(value) is type(each)
            for each in self.values
        )


Treatment: TypeAlias = Use | Only


def _each(treatment: Treatment, words: str, above: str = "") -> dict[str, Treatment]:
    return {f"{above}{word}": treatment for word in words.split()}


_RESOURCE: Final[Mapping[str, Treatment]] = {
    **_each(Use.AZURES, "id name type systemData etag properties.provisioningState"),
    **_each(Use.DONE, "location tags"),
}
_PUBLISHING: Final = "properties.publishingProfile."
_STORAGE: Final = "properties.storageProfile."
_ENCRYPTION: Final = "properties.encryptionSettingsCollection."

_STORED_DISK: Final[Mapping[str, Treatment]] = {
    **_RESOURCE,
    **_each(Use.AZURES, "managedBy managedByExtended replica sku.tier"),
    **_each(
        Use.AZURES,
        "timeCreated diskSizeBytes diskDigest uniqueId diskState osState shareInfo burstingEnabledTime "
        "propertyUpdatesInProgress LastOwnershipUpdateTime creationData.sourceUniqueId completionPercent "
        "copyCompletionError incrementalSnapshotFamilyId securityProfile.confidentialVMVersion snapshotAccessState "
        "immutabilityPolicy",
        "properties.",
    ),
    **_each(Use.DONE, "sku.name properties.osType properties.hyperVGeneration properties.diskSizeGB"),
    **_each(
        Use.DONE,
        "createOption sourceUri sourceResourceId uploadSizeBytes imageReference galleryImageReference.id "
        "galleryImageReference.sharedGalleryImageId galleryImageReference.communityGalleryImageId "
        "galleryImageReference.lun",
        "properties.creationData.",
    ),
    **_each(
        Use.KEPT,
        "purchasePlan.name purchasePlan.publisher purchasePlan.product purchasePlan.promotionCode "
        "supportedCapabilities.diskControllerTypes supportedCapabilities.acceleratedNetwork "
        "supportedCapabilities.architecture supportedCapabilities.supportedSecurityOption creationData.storageAccountId",
        "properties.",
    ),
    "properties.networkAccessPolicy": Only(("AllowAll",)),
    "properties.publicNetworkAccess": Only(("Enabled",)),
    "properties.dataAccessAuthMode": Only(("None",)),
    "properties.encryption.type": Only(("EncryptionAtRestWithPlatformKey",)),
    "properties.maxShares": Only((1,)),
    "properties.burstingEnabled": Only((False,)),
    "properties.supportsHibernation": Only((False,)),
    "properties.optimizedForFrequentAttach": Only((False,)),
    "properties.incremental": Only((False,)),
    "properties.securityProfile.securityType": Only(("Standard",)),
    "properties.availabilityPolicy.actionOnDiskDelay": Only(("None",)),
    "properties.creationData.performancePlus": Only((False,)),
    "properties.creationData.logicalSectorSize": Only((512,)),
    "properties.creationData.provisionedBandwidthCopySpeed": Only(("None",)),
    f"{_ENCRYPTION}enabled": Only((False,)),
}


_LISTS: Final = frozenset(
    {
        "groups",
        "properties.features",
        f"{_PUBLISHING}targetRegions",
        f"{_STORAGE}dataDiskImages",
        f"{_STORAGE}dataDisks",
        "properties.networkProfile.networkInterfaces",
    }
)
"""Paths of lists of objects. Every other path that has names below it is of an object."""
_ANY: Final = "*"
"""In a table: every name that is not named beside it."""


def _machine_disk(word: str) -> dict[str, Treatment]:
    above = f"{_STORAGE}{word}."
    return {
        **_each(
            Use.DONE,
            "name caching createOption deleteOption diskSizeGB managedDisk.id managedDisk.storageAccountType",
            above,
        ),
        f"{above}writeAcceleratorEnabled": Only((False,)),
    }


FIELDS: Final[Mapping[Subject, Mapping[str, Treatment]]] = {
    Kind.GALLERY: {
        **_RESOURCE,
        **_each(Use.AZURES, "properties.identifier properties.sharingStatus"),
        **_each(Use.AZURES, "communityGalleryEnabled publicNames", "properties.sharingProfile.communityGalleryInfo."),
        **_each(
            Use.DONE,
            "description sharingProfile.permissions sharingProfile.groups softDeletePolicy.isSoftDeleteEnabled "
            "softDeletePolicy.retentionPeriodInDays",
            "properties.",
        ),
        **_each(
            Use.DONE,
            "publisherUri publisherContact eula publicNamePrefix",
            "properties.sharingProfile.communityGalleryInfo.",
        ),
        "identity.type": Only(("None",)),
    },
    Kind.DEFINITION: {
        **_RESOURCE,
        **_each(
            Use.DONE,
            "osType osState hyperVGeneration architecture eula privacyStatementUri releaseNoteUri description "
            "endOfLifeDate allowUpdateImage identifier.publisher identifier.offer identifier.sku recommended.vCPUs.min "
            "recommended.vCPUs.max recommended.memory.min recommended.memory.max disallowed.diskTypes purchasePlan.name "
            "purchasePlan.publisher purchasePlan.product features.name features.value features.startsAtVersion",
            "properties.",
        ),
    },
    Kind.VERSION: {
        **_RESOURCE,
        **_each(
            Use.AZURES,
            "replicationStatus validationsProfile imageMetadataProfiles safetyProfile.reportedForPolicyViolation "
            "safetyProfile.policyViolations publishingProfile.publishedDate",
            "properties.",
        ),
        **_each(Use.AZURES, "sizeInGB sizeInBytes diskDigest", f"{_STORAGE}osDiskImage."),
        **_each(Use.AZURES, "sizeInGB sizeInBytes diskDigest", f"{_STORAGE}dataDiskImages."),
        **_each(
            Use.DONE,
            "targetRegions.name targetRegions.regionalReplicaCount targetRegions.storageAccountType "
            "targetRegions.excludeFromLatest replicaCount excludeFromLatest endOfLifeDate storageAccountType "
            "replicationMode source.managedImage.id",
            _PUBLISHING,
        ),
        **_each(
            Use.DONE,
            "source.id source.communityGalleryImageId source.virtualMachineId osDiskImage.hostCaching "
            "osDiskImage.source.id osDiskImage.source.uri osDiskImage.source.storageAccountId "
            "dataDiskImages.lun dataDiskImages.hostCaching dataDiskImages.source.id dataDiskImages.source.uri "
            "dataDiskImages.source.storageAccountId",
            _STORAGE,
        ),
        **_each(
            Use.DONE,
            "safetyProfile.allowDeletionOfReplicatedLocations safetyProfile.blockDeletionBeforeEndOfLife restore",
            "properties.",
        ),
    },
    Kind.DISK: _STORED_DISK,
    Kind.SNAPSHOT: _STORED_DISK,
    Kind.IMAGE: {
        **_RESOURCE,
        **_each(Use.DONE, "sourceVirtualMachine hyperVGeneration storageProfile.zoneResilient", "properties."),
        **_each(
            Use.DONE,
            "osDisk.osType osDisk.osState osDisk.blobUri osDisk.snapshot.id osDisk.managedDisk.id osDisk.diskSizeGB "
            "osDisk.storageAccountType dataDisks.lun dataDisks.blobUri dataDisks.snapshot.id dataDisks.managedDisk.id "
            "dataDisks.diskSizeGB dataDisks.storageAccountType osDisk.caching dataDisks.caching",
            _STORAGE,
        ),
        **_each(
            Use.AZURES,
            "osDisk.diskSizeBytes osDisk.diskDigest dataDisks.diskSizeBytes dataDisks.diskDigest",
            _STORAGE,
        ),
    },
    Kind.MACHINE: {
        **_RESOURCE,
        **_each(
            Use.AZURES,
            "resources managedBy identity.principalId identity.tenantId properties.instanceView properties.vmId "
            "properties.timeCreated properties.osState",
        ),
        **_each(Use.DONE, "zones identity.type"),
        **_each(Use.KEPT, "plan extendedLocation"),
        **_each(
            Use.DONE,
            "hardwareProfile.vmSize networkProfile.networkInterfaces.id "
            "networkProfile.networkInterfaces.properties.deleteOption osProfile.adminUsername osProfile.computerName",
            "properties.",
        ),
        **_each(
            Use.KEPT,
            "networkProfile.* networkProfile.networkInterfaces.* networkProfile.networkInterfaces.properties.* osProfile.*",
            "properties.",
        ),
        "properties.userData": Use.HIDDEN,
        **_each(
            Use.KEPT,
            "hardwareProfile.vmSizeProperties diagnosticsProfile additionalCapabilities.ultraSSDEnabled "
            "additionalCapabilities.hibernationEnabled applicationProfile "
            "availabilitySet billingProfile capacityReservation host hostGroup proximityPlacementGroup resiliencyProfile "
            "scheduledEventsPolicy scheduledEventsProfile evictionPolicy extensionsTimeBudget licenseType priority "
            "platformFaultDomain storageProfile.diskControllerType",
            "properties.",
        ),
        **_each(Use.KEPT, "uefiSettings.secureBootEnabled uefiSettings.vTpmEnabled", "properties.securityProfile."),
        "properties.additionalCapabilities.enableFips1403Encryption": Only((False,)),
        "properties.securityProfile.securityType": Only(("Standard", "TrustedLaunch")),
        "properties.securityProfile.encryptionAtHost": Only((False,)),
        "properties.securityProfile.proxyAgentSettings.enabled": Only((False,)),
        **_each(
            Use.DONE,
            "id sharedGalleryImageId communityGalleryImageId publisher offer sku version",
            f"{_STORAGE}imageReference.",
        ),
        f"{_STORAGE}imageReference.exactVersion": Use.AZURES,
        f"{_STORAGE}alignRegionalDisksToVMZone": Only((False,)),
        **_machine_disk("osDisk"),
        **_each(Use.DONE, "osType", f"{_STORAGE}osDisk."),
        f"{_STORAGE}osDisk.encryptionSettings.enabled": Only((False,)),
        **_machine_disk("dataDisks"),
        **_each(Use.DONE, "lun", f"{_STORAGE}dataDisks."),
        f"{_STORAGE}dataDisks.toBeDetached": Only((False,)),
    },
    Kind.GROUP: {**_RESOURCE},
    Kind.DEPLOYMENT: {
        **_each(Use.DONE, "template templateLink parameters parametersLink mode", "properties."),
        "properties.expressionEvaluationOptions.scope": Use.DONE,
        "properties.debugSetting.detailLevel": Only(("none",)),
        "properties.validationLevel": Only(("Provider", "ProviderNoRbac", "Template")),
    },
    Request.SHARE: _each(Use.DONE, "operationType groups.type groups.ids"),
    Request.ACCESS: {
        **_each(Use.DONE, "access durationInSeconds"),
        "getSecureVMGuestStateSAS": Only((False,)),
        "fileFormat": Only(("VHD",)),
    },
    Request.QUERY: {
        **_each(Use.DONE, "query"),
        **_each(Use.AZURES, "subscriptions options.$top options.$skip options.$skipToken"),
        "options.resultFormat": Only(("objectArray",)),
    },
    Request.TAGS: _each(Use.DONE, "tags"),
}


def known_fields(body: Json, kind: Subject, api_version: str = NEWEST) -> Json:
    """A body in the spelling of the table, without what Azure alone writes.

    Args:
        body: the request's JSON; stays as it is.
        kind: of the resource or request.
        api_version: the request's. What is newer is refused.

    Raises:
        InvalidInput: a field is neither done nor kept, is newer than the api-version, or is no object where its fields
            have names; or a name occurs twice in different case. Its target is the path.
    """

    def is_served(path: str) -> bool:
        return isinstance(kind, Request) or knows(kind, path, api_version)

    return _known(body, _tree(kind), "", is_served)


def named_in_any_case(said: Mapping[str, Json], names: Collection[str], path: str = "") -> dict[str, Json]:
    """An object with `names` in this spelling, where it has them in another; the other names stay as they are.

    Args:
        said: the object; stays as it is.
        names: the spelling of names that are looked for.
        path: of the object in the body.

    Raises:
        InvalidInput: a name occurs twice in different case.
    """
    spelling = {name.lower(): name for name in names}
    found: dict[str, Json] = {}
    seen = set[str]()
    for said_name, value in said.items():
        lower = said_name.lower()
        name = spelling.get(lower, said_name)
        if lower in seen:
            raise unfit(f"{path}.{name}".lstrip("."), value, "each name once, in whatever case")
        seen.add(lower)
        found[name] = value
    return found


def kept_fields(body: Json, kind: Kind) -> dict[str, Json]:
    """The fields of a body that `known_fields` gave which are kept, by their paths. Those in lists are not looked for."""
    return {
        path: value
        for path, treatment in FIELDS[kind].items()
        if (treatment is Use.KEPT or isinstance(treatment, Only))
        and (value := _at(body, path)) not in (None, "", [], {})
    }


def place_field(resource: dict[str, Any], path: str, value: Json) -> None:
    """Show a kept field in its place."""
    *above, name = path.split(".")
    here = resource
    for each in above:
        here = here.setdefault(each, {})
    here[name] = value


_Tree: TypeAlias = "Mapping[str, tuple[str, _Tree | Treatment]]"


@cache
def _tree(kind: Subject) -> "_Tree":
    """The table as names within each other: by the lower-case name the spelling, and what is below it."""
    tree: dict[str, Any] = {}
    for path, treatment in FIELDS[kind].items():
        *above, name = path.split(".")
        here = tree
        for each in above:
            here = here.setdefault(each.lower(), (each, {}))[1]
        here[name.lower()] = (name, treatment)
    return tree


def _known(value: Json, tree: "_Tree", path: str, is_served: Callable[[str], bool], shown: str = "") -> Json:
    if isinstance(value, list):
        return [_known(each, tree, path, is_served, f"{shown}[{place}]") for place, each in enumerate(value)]
    if not isinstance(value, Mapping):
        return value  # the reader tells what is expected there
    found: dict[str, Json] = {}
    _, any_other = tree.get(_ANY, ("", None))
    for said, each in named_in_any_case(value, [name for name, _ in tree.values()], shown).items():
        name, below = tree.get(said.lower(), (said, any_other))
        at, where = f"{path}.{name}".lstrip("."), f"{shown}.{name}".lstrip(".")
        if below in (Use.AZURES, Use.HIDDEN):
            continue
        if below is None or not is_served(at):
            _refuse(each, where, is_newer=below is not None)
        elif isinstance(below, Only):
            if each is not None and not below.has(each):
                raise unfit(where, each, f"{_told(below)}: imgstore does not do anything else")
            found[name] = each
        elif isinstance(below, Mapping):
            _check_shape(each, at, where)
            found[name] = _known(each, below, at, is_served, where)
        else:
            found[name] = each
    return found


def _check_shape(value: Json, path: str, shown: str) -> None:
    """Check that names can be looked up below a path. Readers of lists check the elements; what is empty says nothing."""
    if value in (None, "", [], {}):
        return
    if path in _LISTS:
        if not isinstance(value, list):
            raise unfit(shown, value, "a list of objects")
    elif not isinstance(value, Mapping):
        raise unfit(shown, value, "an object")


def _refuse(value: Json, path: str, *, is_newer: bool) -> None:
    why = "the request's api-version does not have this field" if is_newer else "imgstore does not do this"
    if any(True for _ in _leaves(value)):
        raise unfit(path, value, f"nothing: {why}")


def _leaves(value: Json) -> Iterator[Json]:
    """What is said below a value: nothing where all is empty."""
    if isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(each)
    elif value not in (None, ""):
        yield value


def _told(only: Only) -> str:
    return " or ".join(str(each).lower() if isinstance(each, bool) else str(each) for each in only.values)


def _at(body: Json, path: str) -> Json:
    here = body
    for name in path.split("."):
        here = here.get(name) if isinstance(here, Mapping) else None
    return here
