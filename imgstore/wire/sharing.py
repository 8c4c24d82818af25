"""How galleries are shared, as JSON: the profile of a gallery, and what those see whom it is shared with.

After the examples of 2023-07-03: what is shared has a location and a unique id, and no id, group or subscription.
"""

from typing import TYPE_CHECKING

from imgstore.domain.geometry import GIB
from imgstore.domain.resources import Gallery
from imgstore.domain.sharing import CommunityInfo, SharingPermission, SharingProfile
from imgstore.domain.version_disks import VersionDisk
from imgstore.wire.text import Json, instant

if TYPE_CHECKING:  # the door stays light: what an operation needs is loaded with the operation
    from imgstore.operations.finding import Lineage
    from imgstore.operations.viewing import VersionView


def sharing_profile_json(profile: SharingProfile | None, *, groups: bool = False) -> dict[str, Json]:
    """The field ``sharingProfile``, as Azure nothing where nothing was ever said; `groups` where they were asked for."""
    if profile is None:
        return {}
    told: dict[str, Json] = {"permissions": profile.permission.value}
    if groups and profile.permission is SharingPermission.GROUPS:
        members = (("Subscriptions", profile.subscriptions), ("AADTenants", profile.tenants))
        told["groups"] = [{"type": kind, "ids": list(ids)} for kind, ids in members if ids]
    if profile.community is not None:
        told["communityGalleryInfo"] = _community_json(profile.community)
    return {"sharingProfile": told}


def shared_gallery_json(gallery: Gallery) -> Json:
    """A gallery as those see it whom it is shared with."""
    top, name, more = _seen(gallery)
    return {"location": gallery.location, "name": name, "identifier": {"uniqueId": top}, "properties": more}


def shared_definition_json(line: "Lineage") -> Json:
    """A definition of such a gallery."""
    top, _, more = _seen(line.gallery)
    definition = line.definition
    return {
        "location": line.gallery.location,
        "name": definition.name,
        "identifier": {"uniqueId": f"{top}/Images/{definition.name}"},
        "properties": {
            "osType": definition.os_type.value,
            "osState": definition.os_state.value,
            "hyperVGeneration": definition.hyper_v_generation.value,
            "architecture": definition.architecture.value,
            "identifier": {
                "publisher": definition.publisher,
                "offer": definition.offer,
                "sku": definition.sku,
            },
            **more,
        },
    }


def shared_version_json(view: "VersionView") -> Json:
    """A version of such a gallery."""
    top, _, more = _seen(view.line.gallery)
    version = view.version
    data_disks = [{"lun": disk.lun} | _shared_disk(disk) for disk in version.data_disks]
    return {
        "location": view.line.gallery.location,
        "name": str(version.name),
        "identifier": {"uniqueId": f"{top}/Images/{view.line.definition.name}/Versions/{version.name}"},
        "properties": {
            "publishedDate": instant(version.published_at),
            "excludeFromLatest": version.exclude_from_latest,
            "storageProfile": {
                "osDiskImage": _shared_disk(version.os_disk),
                **({"dataDiskImages": data_disks} if data_disks else {}),
            },
            **more,
        },
    }


def _seen(gallery: Gallery) -> tuple[str, str, dict[str, Json]]:
    """Under which unique id and name a gallery is seen, and what is told of its publisher."""
    info = gallery.sharing.community if gallery.sharing else None
    if info is not None and info.public_name is not None:
        told: dict[str, Json] = {"disclaimer": info.eula, "communityMetadata": _community_json(info)}
        return f"/CommunityGalleries/{info.public_name}", info.public_name, told
    unique = f"{gallery.subscription}-{gallery.name.upper()}"
    return f"/SharedGalleries/{unique}", unique, {}


def _community_json(info: CommunityInfo) -> Json:
    told: dict[str, Json] = {
        "communityGalleryEnabled": info.public_name is not None,
        "publisherUri": info.publisher_uri,
        "publisherContact": info.publisher_contact,
        "eula": info.eula,
        "publicNamePrefix": info.public_name_prefix,
    }
    return told if info.public_name is None else {**told, "publicNames": [info.public_name]}


def _shared_disk(disk: VersionDisk) -> dict[str, Json]:
    """A disk of it: where its bytes came from is nobody's business."""
    size: dict[str, Json] = {} if disk.virtual_bytes is None else {"diskSizeGB": -(-disk.virtual_bytes // GIB)}
    return size | {"hostCaching": disk.host_caching.value}
