"""Commands for image versions through a server. Local files are uploaded without keys of the store."""

from collections.abc import Callable
from typing import Any

import click

from imgstore.cli.by_server.galleries import fetch_page
from imgstore.cli.commands.galleries.image_version_changes import ACCOUNTS_IGNORED, Wait
from imgstore.cli.framework.command import Answer
from imgstore.cli.framework.forecasts import answer_forecast_json
from imgstore.cli.framework.server_dispatch import ServerCommand, local_only
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.errors import InvalidInput
from imgstore.domain.names import ImageReference, compute_id, version_id
from imgstore.domain.paging import PageRequest
from imgstore.domain.requests import VersionRequest
from imgstore.domain.resources import VersionUpdate
from imgstore.operations.gallery import wait as gallery_wait
from imgstore.remote.local_disk import LocalDisk, local_path
from imgstore.remote.publish import Sources, find_source, forecast, publish
from imgstore.wire.json_text import Json
from imgstore.wire.requests.client import image_id, needs_put, update_body

_STATUS = {"$expand": "ReplicationStatus"}


def create(asking: ServerCommand, *, request: VersionRequest, wait: bool, names_accounts: bool) -> Json:
    """`imgstore sig image-version create`."""
    sources = _read_sources(asking, request, names_accounts=names_accounts)
    return publish(asking.server, request, sources, wait=wait)


def forecast_create(asking: ServerCommand, *, request: VersionRequest, names_accounts: bool, **_given: Any) -> Answer:
    """`imgstore sig image-version create --what-if`."""
    sources = _read_sources(asking, request, names_accounts=names_accounts)
    return answer_forecast_json(forecast(asking.server, request, sources), asking.warn)


def _read_sources(asking: ServerCommand, request: VersionRequest, *, names_accounts: bool) -> Sources:
    """Return the sources of a version. A local file is opened later."""
    source = request.source
    for name, given in (
        ("--virtual-machine", source.virtual_machine),
        ("--base", request.bases),
        ("--verify full", request.verify_full),
    ):
        if given:
            raise local_only(name, "leave the option out, or publish from the machine of the server")
    if names_accounts:
        asking.warn(ACCOUNTS_IGNORED)
    words = (source.os_vhd_uri, source.os_snapshot, source.managed_image, source.image_version)
    if words.count(None) != len(words) - 1:
        raise click.UsageError(
            "Name a single source: --os-vhd-uri, --os-snapshot, --managed-image or --image-version. Separate data disks "
            "go with the first two only."
        )
    whole = _whole(asking, request.group, source.managed_image, source.image_version)
    vhds, stored = source.data_vhds, source.data_snapshots
    if whole is not None and (vhds or stored):
        raise click.UsageError("Separate data disks go with --os-vhd-uri or --os-snapshot only.")
    disks: dict[int | None, LocalDisk | str] = {}
    if source.os_vhd_uri is not None:
        disks[None] = _disk(source.os_vhd_uri, source.os_vhd_format, request.sha256)
    if source.os_snapshot is not None:
        disks[None] = find_source(asking.server, request.group, source.os_snapshot)
    disks |= {each.lun: _disk(each.uri, each.format) for each in vhds}
    disks |= {each.lun: find_source(asking.server, request.group, each.source) for each in stored}
    if len(disks) < (whole is None) + len(vhds) + len(stored):
        raise click.UsageError("Two data disks have the same LUN.")
    return Sources(whole=whole, disks=disks)


def _whole(asking: ServerCommand, group: str, managed_image: str | None, image_version: str | None) -> str | None:
    """Return the id of the common source of all disks."""
    subscription = asking.server.subscription
    if managed_image is not None:
        is_resource_id = managed_image.startswith("/")
        return managed_image if is_resource_id else compute_id(subscription, group, "images", managed_image)
    if image_version is None or image_version.lower().startswith(("/sharedgalleries/", "/communitygalleries/")):
        return image_version
    return image_id(ImageReference.parse(image_version), subscription)


def _disk(uri: str, form: DiskFormat | None, sha256: str | None = None) -> LocalDisk | str:
    """Return a local file, or a URL that the server reads."""
    path = local_path(uri)
    if path is not None:
        return LocalDisk(path=path, format=form, sha256=sha256)
    if form is not None or sha256 is not None:
        raise InvalidInput(
            "The server reads a URL itself and takes neither a format nor a digest for a URL.",
            found="--sha256" if sha256 is not None else "--source-format, or --data-vhds-formats",
            expected="a local file, or neither option",
            hint="download the file and use the path of the file",
            target="osVhdUri",
        )
    return uri


def show(asking: ServerCommand, *, expand: str | None, **place: Any) -> Json:
    """`imgstore sig image-version show`."""
    body = asking.server.show(version_id(asking.server.subscription, **place), **(_STATUS if expand else {}))
    details = body["properties"].get("provisioningStateDetails")
    if details is not None:
        asking.warn(details)
    return body


def list_versions(asking: ServerCommand, *, group: str, gallery: str, definition: str, page: PageRequest) -> Json:
    """`imgstore sig image-version list`."""
    above = f"{asking.server.gallery(group, gallery)}/images/{definition}/versions"
    return fetch_page(asking, above, page)


def update(asking: ServerCommand, *, place: dict[str, Any], edit: Callable[[Json], VersionUpdate]) -> Json:
    """`imgstore sig image-version update`."""
    server = asking.server
    found = version_id(server.subscription, **place)
    before = server.show(found)
    change = edit(before)
    body = update_body(change, before)
    if needs_put(change):
        server.put(found, body)
    else:
        server.patch(found, body)
    return server.show(found, **_STATUS)


def forecast_update(asking: ServerCommand, *, place: dict[str, Any], edit: Callable[[Json], VersionUpdate]) -> Answer:
    """`imgstore sig image-version update --what-if`."""
    server = asking.server
    found = version_id(server.subscription, **place)
    before = server.show(found)
    change = edit(before)
    method = "PUT" if needs_put(change) else "PATCH"
    body = server.post_action(found, "whatIf", update_body(change, before), query={"method": method})
    return answer_forecast_json(body, asking.warn)


def forecast_delete(asking: ServerCommand, *, bypass_soft_delete: bool | None, **place: Any) -> Answer:
    """`imgstore sig image-version delete --what-if`."""
    found = version_id(asking.server.subscription, **place)
    query = {"bypassSoftDelete": "true"} if bypass_soft_delete else {}
    return answer_forecast_json(asking.server.post_action(found, "whatIfDelete", query=query), asking.warn)


def delete(asking: ServerCommand, *, bypass_soft_delete: bool | None, **place: Any) -> None:
    """`imgstore sig image-version delete`."""
    found = version_id(asking.server.subscription, **place)
    asking.server.delete(found, **({"bypassSoftDelete": "true"} if bypass_soft_delete else {}))


def wait(asking: ServerCommand, *, place: dict[str, Any], asked: Wait) -> None:
    """`imgstore sig image-version wait`."""
    server = asking.server
    found = version_id(server.subscription, **place)
    gallery_wait.look_until(
        lambda: server.find(found, **_STATUS),
        asked.condition(lambda view: view, _is_made),
        state=_state,
        target=str(place["version"]),
        interval_seconds=asked.interval_seconds,
        timeout_seconds=asked.timeout_seconds,
        monotonic=server.connection.monotonic,
        pause=server.connection.pause,
    )


def _state(view: Json) -> str:
    return str(view["properties"]["provisioningState"])


def _is_made(view: Json) -> bool:
    """Return True if a version is complete in all regions, by the rule of `operations.gallery.wait.is_made`."""
    if view is None:
        raise gallery_wait.not_created_error()
    if _state(view) == "Failed":
        summary = view["properties"]["replicationStatus"]["summary"]
        failed = [each for each in summary if each["state"] != "Completed"]
        raise gallery_wait.not_replicated_error(
            "; ".join(f"{each['region']}: {each['details'] or each['state']}" for each in failed)
        )
    return _state(view) == "Succeeded"
