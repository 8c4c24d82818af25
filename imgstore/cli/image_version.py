"""``imgstore sig image-version``: real disks, brought to the regions where machines are made from them."""

from collections.abc import Mapping, Sequence

import click

from imgstore.cli import options
from imgstore.cli.command import Group, Switch, Words
from imgstore.cli.output import columns
from imgstore.cli.session import opened
from imgstore.domain.names import VersionName
from imgstore.domain.resources import StorageAccountType, TargetRegionRequest
from imgstore.domain.sources import DiskFormat
from imgstore.operations import lifetimes, versions
from imgstore.wire.requests import parse_storage_account_type, parse_target_regions
from imgstore.wire.resources import version_json
from imgstore.wire.text import Json

_TABLE = columns(
    Name="name",
    Location="location",
    SizeGB="properties.storageProfile.osDiskImage.sizeInGB",
    Status="properties.provisioningState",
    Replication="properties.replicationStatus.aggregatedState",
    Published="properties.publishingProfile.publishedDate",
)
_CREATE_EXAMPLE = """
imgstore sig image-version create -g rg -r myGallery -i ubuntu -e 1.0.0 \\
    --os-vhd-uri ./disk.vhd --location southcentralus --replica-count 1 \\
    --target-regions southcentralus=2 westus2=1=standard_zrs eastus
"""


def _parse_bases(words: Sequence[str]) -> tuple[VersionName, ...]:
    return tuple(VersionName.parse(word) for word in words if word)


@click.group("image-version", cls=Group)
def image_version() -> None:
    """Image versions: disks, and the regions that hold replicas of them."""


@image_version.command(table=_TABLE, example=_CREATE_EXAMPLE)
@options.group
@options.gallery
@options.definition
@options.version
@click.option(
    "--os-vhd-uri",
    required=True,
    metavar="URI",
    help="The disk: a path, file://, s3:// or https://; a VHD, VHDX, qcow2, VMDK or raw.",
)
@click.option(
    "--os-vhd-storage-account",
    metavar="NAME",
    help="Taken for az's sake, and not used: the URI alone says where the disk is.",
)
@options.location("The source region; must be among the target regions. Default: that of the gallery.")
@click.option(
    "--target-regions",
    cls=Words,
    parse=parse_target_regions,
    metavar="REGION[=COUNT][=TYPE] ...",
    help="Where replicas are to be, how many and how kept. Default: the source region alone.",
)
@click.option("--replica-count", type=int, metavar="N", help="For regions that name no count. Default: 1.")
@click.option(
    "--storage-account-type",
    type=parse_storage_account_type,
    metavar="|".join(StorageAccountType),
    help="For regions that name none. Default: Standard_LRS.",
)
@click.option("--exclude-from-latest", cls=Switch, help="Never take this version for 'latest'.")
@options.source_format
@click.option("--sha256", metavar="HEX", help="SHA-256 of the file, checked before anything is stored.")
@click.option(
    "--base",
    "bases",
    cls=Words,
    parse=_parse_bases,
    metavar="VERSION ...",
    help="A version to look for known blocks in, besides the newest and the one below.",
)
@click.option(
    "--verify",
    type=click.Choice(["confirm", "full"]),
    default="confirm",
    help="Before it is ready: confirm every object with the store, or read the full disk back too. Default: confirm.",
)
@options.tags
def create(
    group: str,
    gallery: str,
    definition: str,
    version: VersionName,
    os_vhd_uri: str,
    os_vhd_storage_account: str | None,
    location: str | None,
    target_regions: Sequence[TargetRegionRequest] | None,
    replica_count: int | None,
    storage_account_type: StorageAccountType | None,
    exclude_from_latest: bool | None,  # noqa: FBT001 - click calls by keyword
    source_format: DiskFormat | None,
    sha256: str | None,
    bases: Sequence[VersionName] | None,
    verify: str,
    tags: Mapping[str, str] | None,
) -> Json:
    """Store a disk as an image version and replicate it.

    The same line again goes on where it was interrupted, or changes the tags. Another disk under the same name is
    refused, and so are other target regions.
    """
    request = versions.VersionRequest(
        group=group,
        gallery=gallery,
        definition=definition,
        version=version,
        location=location,
        target_regions=target_regions or (),
        replica_count=replica_count,
        storage_account_type=storage_account_type,
        exclude_from_latest=exclude_from_latest,
        tags=tags,
        sha256=sha256,
        bases=bases or (),
        verify_full=verify == "full",
    )
    with opened() as session:
        if os_vhd_storage_account is not None:
            session.warn("--os-vhd-storage-account is not used: the URI alone says where the disk is")
        made = versions.create_version(
            session.installation, session.principal, request, os_vhd_uri=os_vhd_uri, source_format=source_format
        )
        return version_json(made, session.display_names, replication_status=True)


@image_version.command(
    table=_TABLE,
    example="imgstore sig image-version show -g rg -r myGallery -i ubuntu -e 1.0.0 --expand ReplicationStatus",
)
@options.group
@options.gallery
@options.definition
@options.version
@click.option(
    "--expand",
    type=click.Choice(["ReplicationStatus"], case_sensitive=False),
    help="Show the state and the progress of each region and replica too.",
)
def show(group: str, gallery: str, definition: str, version: VersionName, expand: str | None) -> Json:
    """Show an image version."""
    with opened() as session:
        found = versions.show_version(
            session.installation,
            session.principal,
            group=group,
            gallery=gallery,
            definition=definition,
            version=version,
        )
        return version_json(found, session.display_names, replication_status=expand is not None)


@image_version.command("list", table=_TABLE, example="imgstore sig image-version list -g rg -r myGallery -i ubuntu")
@options.group
@options.gallery
@options.definition
def list_(group: str, gallery: str, definition: str) -> Json:
    """List the versions of an image definition."""
    with opened() as session:
        found = versions.list_versions(
            session.installation, session.principal, group=group, gallery=gallery, definition=definition
        )
        names = session.display_names
        return [version_json(each, names) for each in found]


@image_version.command(example="imgstore sig image-version delete -g rg -r myGallery -i ubuntu -e 1.0.0")
@options.group
@options.gallery
@options.definition
@options.version
@options.yes
def delete(group: str, gallery: str, definition: str, version: VersionName, *, yes: bool) -> None:  # noqa: ARG001 - az's do not ask
    """Delete an image version. Managed disks made from it stay."""
    with opened() as session:
        lifetimes.delete_version(
            session.installation,
            session.principal,
            group=group,
            gallery=gallery,
            definition=definition,
            version=version,
        )
