"""``imgstore verify``: the comparison of a file with an image."""

from pathlib import Path

import click

from imgstore.cli.framework import options
from imgstore.cli.framework.command import Answer, Command
from imgstore.cli.framework.session import Session
from imgstore.domain.disks.sources import DiskFormat
from imgstore.domain.names import ImageReference
from imgstore.operations.disks import verify as disks_verify
from imgstore.wire.responses.reports import verification_json


@click.command(
    cls=Command, example="imgstore verify --file disk.vhd --image rg/myGallery/ubuntu/1.0.0 --location westus2"
)
@click.option(
    "--file", "path", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Path of the disk file."
)
@options.reference("--image", required=True, text="The image to compare the file with. Default version: latest.")
@options.lun("--lun", "LUN of the image's data disk to compare with. Default: the OS disk.")
@options.location(help="Region to read the image in. Default: the region of the gallery.")
@options.source_format
def verify(
    session: Session,
    path: Path,
    reference: ImageReference,
    lun: int | None,
    location: str | None,
    source_format: DiskFormat | None,
) -> Answer:
    """Compare a disk file with a stored image.

    The command compares disks, not files: a qcow2 and a VHD of one disk match. The exit code is 1 if the disks differ.
    """
    found = session.run(
        disks_verify.verify_file,
        path=path,
        reference=reference,
        lun=lun,
        location=location,
        source_format=source_format,
    )
    return Answer(body=verification_json(found), exit_code=0 if found.matches else 1)
