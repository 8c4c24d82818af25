"""``imgstore disk commit``: make a disk or an image version of an overlay."""

from pathlib import Path
from typing import Any

import click

from imgstore.cli.commands.machines.disk import disk
from imgstore.cli.commands.machines.disk_lifecycle import TABLE
from imgstore.cli.framework import options
from imgstore.cli.framework.session import Session
from imgstore.domain.names import VersionName
from imgstore.domain.requests import DiskRequest, VersionRequest
from imgstore.operations.disks.commit import commit_disk
from imgstore.operations.versions.commit import commit_version
from imgstore.wire.json_text import Json
from imgstore.wire.requests.arguments import parse_target_regions
from imgstore.wire.responses.resources import disk_json, version_json

_EXAMPLE = """
imgstore disk commit --overlay ./changes -g rg -n d2
imgstore disk commit --qcow2 ./changes.qcow2 -g rg -n d3
imgstore disk commit --overlay ./changes -g rg -r myGallery -i ubuntu -e 1.1.0 --target-regions southcentralus eastus
"""


def _read_request(**given: Any) -> dict[str, Any]:
    """Make the request for a disk or for a version from the options."""
    version_words = (given["gallery"], given["definition"], given["version"])
    is_disk = given["name"] is not None
    if is_disk is (None not in version_words) or (is_disk and version_words != (None, None, None)):
        raise click.UsageError("Name a new disk with -n, or a new image version with -r, -i and -e.")
    if (given["overlay"] is None) is (given["qcow2"] is None):
        raise click.UsageError("Name the changes with --overlay or --qcow2.")
    changes = given["overlay"] or given["qcow2"]
    if is_disk and given["target_regions"] is not None:
        raise click.UsageError("--target-regions goes with a new image version.")
    request: DiskRequest | VersionRequest
    if is_disk:
        request = DiskRequest(group=given["group"], name=given["name"], source=str(changes), tags=given["tags"])
    else:
        request = options.make_value(VersionRequest, given)
    return {"request": request, "changes": changes}


@disk.command(table=TABLE, example=_EXAMPLE, read_options=_read_request)
@click.option(
    "--overlay",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Folder of `imgstore disk attach --overlay`. No process may have the overlay open.",
)
@click.option(
    "--qcow2",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="File of `imgstore disk attach --qcow2`. No machine may use the file.",
)
@options.group
@click.option("-n", "--name", metavar="NAME", help="Name of the new disk.")
@click.option("-r", "--gallery-name", "gallery", metavar="NAME", help="Gallery of the new image version.")
@click.option(
    "-i", "--gallery-image-definition", "definition", metavar="NAME", help="Image definition of the new version."
)
@click.option(
    "-e",
    "--gallery-image-version",
    "version",
    type=VersionName.parse,
    metavar="MAJOR.MINOR.PATCH",
    help="Name of the new image version.",
)
@options.words(
    "--target-regions",
    parse=parse_target_regions,
    metavar="REGION[=COUNT][=TYPE] ...",
    help="Target regions of the new version. Default: the region of the gallery.",
)
@options.tags
def commit(session: Session, request: DiskRequest | VersionRequest, changes: Path) -> Json:
    """Make a managed disk or an image version of an overlay and its base.

    Only changed blocks are stored. The overlay stays, and further writes and commits may follow. An interrupted command
    resumes when the same line runs again.
    """
    if isinstance(request, DiskRequest):
        return disk_json(session.run(commit_disk, request))
    made = session.run(commit_version, request, changes)
    return version_json(made, session.display_names, replication_status=True)
