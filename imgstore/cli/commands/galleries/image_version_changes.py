"""``imgstore sig image-version``: commands that create and change image versions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeVar

import click

from imgstore.cli.commands.galleries.image_version import TABLE, image_version
from imgstore.cli.framework import options, queries
from imgstore.cli.framework.command import Answer
from imgstore.cli.framework.forecasts import answer_forecast
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.names import VersionName
from imgstore.domain.requests import DataSnapshot, DataVhd, VersionRequest, VersionSource
from imgstore.domain.resources import KEEP, ReplicationMode, StorageAccountType, VersionUpdate
from imgstore.domain.states import ReplicaState
from imgstore.domain.views import VersionView
from imgstore.operations.gallery import versions as gallery_versions
from imgstore.operations.gallery import wait as gallery_wait
from imgstore.operations.maintenance.worker import has_living_worker
from imgstore.operations.versions import create as versions_create
from imgstore.operations.versions import delete as versions_delete
from imgstore.operations.versions import update as versions_update
from imgstore.operations.what_if import versions as what_if_versions
from imgstore.wire.json_text import Json, instant
from imgstore.wire.requests.arguments import (
    parse_end_of_life,
    parse_luns,
    parse_storage_account_type,
    parse_target_regions,
)
from imgstore.wire.requests.generic_update import Edit
from imgstore.wire.requests.version_update import edit_version, target_regions_json
from imgstore.wire.responses.resources import soft_deleted_json, version_json

_V = TypeVar("_V")

_SOFT_TABLE = columns(
    Name="name",
    Location="location",
    Deleted="properties.softDeletedTime",
    GoneAt="properties.hardDeletionTargetTime",
)
_UPDATE_EXAMPLE = """
imgstore sig image-version update -g rg -r myGallery -i ubuntu -e 1.0.0 --target-regions southcentralus=2 westus2 eastus
imgstore sig image-version update -g rg -r myGallery -i ubuntu -e 1.0.0 --add publishingProfile.targetRegions name=eastus
imgstore sig image-version update -g rg -r myGallery -i ubuntu -e 1.0.0 --target-regions southcentralus eastus --what-if
"""
_CREATE_EXAMPLE = """
imgstore sig image-version create -g rg -r myGallery -i ubuntu -e 1.0.0 \\
    --os-vhd-uri ./disk.vhd --location southcentralus --replica-count 1 \\
    --target-regions southcentralus=2 westus2=1=standard_zrs eastus
imgstore sig image-version create -g rg -r myGallery -i db -e 1.0.0 \\
    --os-vhd-uri ./os.vhd --data-vhds-uris ./data.vhd ./logs.raw --data-vhds-luns 0 5
imgstore sig image-version create -g rg -r myGallery -i ubuntu -e 1.1.0 --image-version rg/staging/ubuntu/1.1.0
imgstore sig image-version create -g rg -r myGallery -i ubuntu -e 1.2.0 --os-snapshot s1 \\
    --data-snapshots s2 s3 --data-snapshot-luns 0 5
imgstore sig image-version create -g rg -r myGallery -i ubuntu -e 1.3.0 --os-vhd-uri ./disk.vhd \\
    --target-regions southcentralus westus2 --what-if -o table
imgstore sig image-version create -g rg -r myGallery -i golden -e 1.0.0 --virtual-machine vm1 --replication-mode Shallow
"""
_DELETE_EXAMPLE = """
imgstore sig image-version delete -g rg -r myGallery -i ubuntu -e 1.0.0
imgstore sig image-version delete -g rg -r myGallery -i ubuntu -e 1.0.0 --what-if -o table
"""


ACCOUNTS_IGNORED = "storage accounts are ignored, because the URI names the disk"


def _parse_formats(words: Sequence[str]) -> tuple[DiskFormat, ...]:
    return tuple(map(options.one_of(*DiskFormat), words))


def _read_data_vhds(
    uris: Sequence[str] | None, luns: Sequence[int] | None, formats: Sequence[DiskFormat] | None
) -> tuple[DataVhd, ...]:
    count = len(uris or ())
    for name, given in (("--data-vhds-luns", luns), ("--data-vhds-formats", formats)):
        if given is not None and len(given) != count:
            raise click.UsageError(f"{name} names {len(given)}, --data-vhds-uris {count}: give one for each.")
    return tuple(
        DataVhd(lun=lun, uri=uri, format=form)
        for uri, lun, form in zip(uris or (), luns or range(count), formats or repeat(None, count), strict=True)
    )


def _read_data_snapshots(sources: Sequence[str] | None, luns: Sequence[int] | None) -> tuple[DataSnapshot, ...]:
    count = len(sources or ())
    if luns is not None and len(luns) != count:
        raise click.UsageError(f"--data-snapshot-luns names {len(luns)}, --data-snapshots {count}: give one for each.")
    return tuple(
        DataSnapshot(lun=lun, source=source) for source, lun in zip(sources or (), luns or range(count), strict=True)
    )


def _parse_bases(words: Sequence[str]) -> tuple[VersionName, ...]:
    return tuple(VersionName.parse(word) for word in words if word)


_DATA_DISKS = (
    options.words("--data-vhds-uris", metavar="URI ...", help="The data disks: paths or URIs, as for --os-vhd-uri."),
    options.words(
        "--data-vhds-luns",
        parse=parse_luns,
        metavar="LUN ...",
        help="LUNs of the data disks, from 0 to 63, in the order of the URIs. Default: 0, 1, 2, ...",
    ),
    options.words(
        "--data-vhds-formats",
        parse=_parse_formats,
        metavar="FORMAT ...",
        help="Formats of the data disks, in the order of the URIs. Default: probed.",
    ),
    options.words(
        "--data-vhds-storage-accounts",
        "--data-vhds-sa",
        "data_vhds_storage_accounts",
        metavar="NAME ...",
        help="Accepted for compatibility with az, and ignored.",
    ),
)
_DATA_SNAPSHOTS = (
    options.words(
        "--data-snapshots",
        metavar="NAME|ID ...",
        help="Snapshots or managed disks of the source region, as data disks.",
    ),
    options.words(
        "--data-snapshot-luns",
        parse=parse_luns,
        metavar="LUN ...",
        help="LUNs of the snapshots, in the order of the snapshots. Default: 0, 1, 2, ...",
    ),
)
_exclude_from_latest = options.switch("--exclude-from-latest", help="Exclude the version from 'latest'.")
_LIFE = (
    click.option(
        "--end-of-life-date",
        type=parse_end_of_life,
        metavar="DATE",
        help="Date after which the version should not be used: shown, not enforced. A date without a "
        "time means 12:59:59 UTC.",
    ),
    options.switch(
        "--allow-replicated-location-deletion",
        help="false forbids an update that removes a region with a complete replica.",
    ),
    options.switch("--block-deletion-before-end-of-life", help="Refuse to delete the version before its end of life."),
)


def _read_request(**given: Any) -> dict[str, Any]:
    """Make the request for a new version from the options."""
    source = options.make_value(
        VersionSource,
        given,
        os_vhd_format=given["source_format"],
        data_vhds=_read_data_vhds(given["data_vhds_uris"], given["data_vhds_luns"], given["data_vhds_formats"]),
        data_snapshots=_read_data_snapshots(given["data_snapshots"], given["data_snapshot_luns"]),
    )
    ends = given["end_of_life_date"]
    request = options.make_value(
        VersionRequest,
        given,
        source=source,
        end_of_life_at=KEEP if ends is None else ends,
        allow_deletion_of_replicated_locations=given["allow_replicated_location_deletion"],
        bases=given["bases"] or (),
        verify_full=given["verify"] == "full",
    )
    accounts = (given["os_vhd_storage_account"], given["data_vhds_storage_accounts"])
    return {"request": request, "wait": not given["no_wait"], "names_accounts": accounts != (None, None)}


def _forecast_creation(session: Session, request: VersionRequest, **_given: Any) -> Answer:
    """Predict the effects of `create`."""
    return answer_forecast(session.run(what_if_versions.forecast_version_creation, request), session.warn)


@image_version.command(table=TABLE, example=_CREATE_EXAMPLE, read_options=_read_request, forecast=_forecast_creation)
@options.version_path
@click.option(
    "--os-vhd-uri",
    metavar="URI",
    help="The OS disk: a path, file://, s3:// or https:// of a VHD, VHDX, qcow2, VMDK or raw file.",
)
@click.option(
    "--os-vhd-storage-account",
    metavar="NAME",
    help="Accepted for compatibility with az, and ignored: the URI names the disk.",
)
@click.option(
    "--os-snapshot", metavar="NAME|ID", help="A snapshot or managed disk of the source region, as the OS disk."
)
@click.option(
    "--managed-image",
    metavar="NAME|ID",
    help="A managed image of the source region with its data disks, or the id of an image version.",
)
@click.option(
    "--image-version",
    metavar="ID|RG/GALLERY/DEFINITION/VERSION",
    help="An image version of any gallery, with its data disks. Bytes from another region are charged.",
)
@click.option(
    "--virtual-machine",
    metavar="NAME|ID",
    help="A virtual machine of the source region with its data disks, generalized or not.",
)
@options.together(*_DATA_DISKS, *_DATA_SNAPSHOTS)
@options.location(help="The source region, which must be a target region. Default: the region of the gallery.")
@options.words(
    "--target-regions",
    parse=parse_target_regions,
    metavar="REGION[=COUNT][=TYPE] ...",
    help="Target regions, each with an optional replica count and storage type. Default: the source region.",
)
@click.option(
    "--replica-count", type=int, metavar="N", help="Replica count of target regions without a count. Default: 1."
)
@click.option(
    "--storage-account-type",
    type=parse_storage_account_type,
    metavar="|".join(StorageAccountType),
    help="Storage type of target regions without a type. Default: Standard_LRS.",
)
@options.choice(
    "--replication-mode",
    members=tuple(ReplicationMode),
    help="Shallow: one replica in one region that uses the content of the source. Default: Full.",
)
@_exclude_from_latest
@options.together(*_LIFE)
@options.source_format
@click.option("--sha256", metavar="HEX", help="SHA-256 of the OS disk's file, checked before the first write.")
@options.words(
    "--base",
    "bases",
    parse=_parse_bases,
    metavar="VERSION ...",
    help="Versions to compare with, in addition to the newest version and its predecessor.",
)
@click.option(
    "--verify",
    type=click.Choice(["confirm", "full"]),
    metavar="confirm|full",
    default="confirm",
    help="Check before the version is complete: confirm every object, or also read the disk back "
    "(full). Default: confirm.",
)
@click.option(
    "--no-wait",
    is_flag=True,
    help="Return when the source region is complete. `imgstore worker` makes the other replicas.",
)
@options.tags
def create(session: Session, request: VersionRequest, *, wait: bool, names_accounts: bool) -> Json:
    """Create an image version from an OS disk and data disks, and replicate the version.

    An interrupted command resumes when the same line runs again. Other target regions, counts, tags and dates change the
    version, as `update` does. Another disk for an existing version is refused.
    """
    if names_accounts:
        session.warn(ACCOUNTS_IGNORED)
    made = session.run(versions_create.create_version, request, wait=wait)
    complete = all(replica.state is ReplicaState.COMPLETED for replica in made.replicas)
    if not wait and not complete and not has_living_worker(session.installation):
        session.warn("no worker was seen in the last minute: start `imgstore worker`, or repeat without --no-wait")
    return version_json(made, session.display_names, replication_status=True)


def _read_update(
    *, group: str, gallery: str, definition: str, version: VersionName, edits: Sequence[Edit], **given: Any
) -> dict[str, Any]:
    """Make the change of a version from the options: a function from the present version to the update."""
    force_string, ends = given["force_string"], given["end_of_life_date"]
    by_path = {
        "publishingProfile.targetRegions": target_regions_json(given["target_regions"]),
        "publishingProfile.replicaCount": given["replica_count"],
        "publishingProfile.excludeFromLatest": given["exclude_from_latest"],
        "publishingProfile.endOfLifeDate": None if ends is None else instant(ends),
        "safetyProfile.allowDeletionOfReplicatedLocations": given["allow_replicated_location_deletion"],
        "safetyProfile.blockDeletionBeforeEndOfLife": given["block_deletion_before_end_of_life"],
        "tags": given["tags"],
    }
    place = {"group": group, "gallery": gallery, "definition": definition, "version": version}
    return {"place": place, "edit": lambda before: edit_version(before, by_path, edits, force_string=force_string)}


def _forecast_update(session: Session, place: dict[str, Any], edit: Callable[[Json], VersionUpdate]) -> Answer:
    """Predict the effects of `update`."""
    before = version_json(session.run(gallery_versions.show_version, **place), session.display_names)
    found = session.run(what_if_versions.forecast_version_update, **place, update=edit(before))
    return answer_forecast(found, session.warn)


@image_version.command(table=TABLE, example=_UPDATE_EXAMPLE, read_options=_read_update, forecast=_forecast_update)
@options.version_path
@options.words(
    "--target-regions",
    parse=parse_target_regions,
    metavar="REGION[=COUNT][=TYPE] ...",
    help="The complete new list of target regions. A region without a count or type keeps the present value.",
)
@click.option(
    "--replica-count",
    type=int,
    metavar="N",
    help="Replica count of target regions without a count. Without --target-regions: of the "
    "regions with the present default.",
)
@_exclude_from_latest
@options.together(*_LIFE)
@options.tags
@options.together(*options.updates)
def update(session: Session, place: dict[str, Any], edit: Callable[[Json], VersionUpdate]) -> Json:
    """Change an image version's target regions, replica counts and properties.

    New replicas are copied. Replicas that are no target any more are removed, and bytes that no other disk or version needs
    are freed. An interrupted command resumes when the same line runs again, also without a change.
    """
    before = version_json(session.run(gallery_versions.show_version, **place), session.display_names)
    changed = session.run(versions_update.update_version, **place, update=edit(before))
    return version_json(changed, session.display_names, replication_status=True)


def _forecast_deletion(session: Session, *, bypass_soft_delete: bool | None, **place: Any) -> Answer:
    """Predict the effects of `delete`."""
    found = session.run(
        what_if_versions.forecast_version_deletion, **place, bypass_soft_delete=bool(bypass_soft_delete)
    )
    return answer_forecast(found, session.warn)


@image_version.command(example=_DELETE_EXAMPLE, forecast=_forecast_deletion)
@options.version_path
@options.switch(
    "--bypass-soft-delete", help="Delete at once in a gallery with soft delete, also a soft-deleted version."
)
@options.yes_ignored
def delete(session: Session, *, bypass_soft_delete: bool | None, **place: Any) -> None:
    """Delete an image version. Managed disks made from the version stay.

    In a gallery with soft delete, `undelete` restores the version during the retention period.
    """
    session.run(versions_delete.delete_version, **place, bypass_soft_delete=bool(bypass_soft_delete))


@image_version.command(
    "list-soft-deleted",
    table=_SOFT_TABLE,
    example="imgstore sig image-version list-soft-deleted -g rg -r myGallery -i ubuntu",
)
@options.definition_path
def list_soft_deleted(session: Session, **place: Any) -> Json:
    """List the soft-deleted versions of an image definition, with the end of their retention."""
    return [soft_deleted_json(each) for each in session.run(versions_delete.list_soft_deleted, **place)]


@image_version.command(table=TABLE, example="imgstore sig image-version undelete -g rg -r myGallery -i ubuntu -e 1.0.0")
@options.version_path
@options.location(help="Accepted for compatibility with az, and ignored.", expose_value=False)
@options.tags
def undelete(session: Session, *, tags: Mapping[str, str] | None, **place: Any) -> Json:
    """Restore a soft-deleted image version."""
    found = session.run(versions_delete.undelete_version, **place)
    if tags is not None:
        found = session.run(versions_update.update_version, **place, update=VersionUpdate(tags=tags))
    return version_json(found, session.display_names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """The condition and the limits of `wait`."""

    custom: Any
    """A compiled query on the shown version. None waits for another condition."""
    made: bool
    deleted: bool
    interval_seconds: int
    timeout_seconds: int

    def condition(
        self, show: Callable[[_V], Json], is_made: Callable[[_V | None], bool]
    ) -> Callable[[_V | None], bool]:
        """Return the condition for a version, or for None while no such version exists.

        Args:
            show: returns the JSON of a version.
            is_made: returns whether the version is complete in all target regions.
        """
        if self.custom is not None:
            return lambda view: view is not None and bool(queries.search(show(view), self.custom, "--custom"))
        if self.made:
            return is_made
        return (lambda view: view is None) if self.deleted else (lambda view: view is not None)


def _read_wait(
    *, created: bool, updated: bool, deleted: bool, exists: bool, custom: Any, interval: int, timeout: int, **place: Any
) -> dict[str, Any]:
    made = created or updated
    if made + deleted + exists + (custom is not None) != 1:
        raise click.UsageError("one of --created, --updated, --deleted, --exists and --custom JMESPATH is needed.")
    asked = Wait(custom=custom, made=made, deleted=deleted, interval_seconds=interval, timeout_seconds=timeout)
    return {"place": place, "asked": asked}


@image_version.command(
    example="imgstore sig image-version wait -g rg -r myGallery -i ubuntu -e 1.0.0 --created --timeout 7200",
    read_options=_read_wait,
)
@options.version_path
@click.option("--created", is_flag=True, help="Wait until the version is complete in all target regions.")
@click.option("--updated", is_flag=True, help="Wait until an update is complete in all target regions.")
@click.option("--deleted", is_flag=True, help="Wait until the version is deleted.")
@click.option("--exists", is_flag=True, help="Wait until the version exists, complete or not.")
@click.option(
    "--custom",
    type=queries.compile_query,
    metavar="JMESPATH",
    help="Wait until this query on the output of `show --expand ReplicationStatus` is true.",
)
@options.number("--interval", least=1, default=30, unit="SECONDS", text="Seconds between two checks. Default: 30.")
@options.number("--timeout", least=0, default=3600, unit="SECONDS", text="Seconds to wait at most. Default: 3600.")
def wait(session: Session, place: dict[str, Any], asked: Wait) -> None:
    """Wait until an image version is created, updated or deleted, or fulfils a query."""
    names = session.display_names

    def show(view: VersionView) -> Json:
        return version_json(view, names, replication_status=True)

    session.run(
        gallery_wait.wait_for_version,
        **place,
        until=asked.condition(show, gallery_wait.is_made),
        interval_seconds=asked.interval_seconds,
        timeout_seconds=asked.timeout_seconds,
    )
