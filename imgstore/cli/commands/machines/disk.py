"""``imgstore disk``: the group of the commands for disks. The module of each command is imported at the first use."""

from typing import Final

import click

from imgstore.cli.framework.command import Group, LazyCommand

_COMMANDS: Final = {
    name: LazyCommand(target=f"imgstore.cli.commands.machines.{target}", summary=summary)
    for name, target, summary in (
        (
            "attach",
            "disk_attach:attach",
            "Serve a disk or an image as a block device over NBD, until SIGTERM or SIGINT.",
        ),
        ("commit", "disk_commit:commit", "Make a managed disk or an image version of an overlay and its base."),
        (
            "create",
            "disk_lifecycle:create",
            "Create a managed disk from an image version, a disk, a snapshot or a file, or for an upload.",
        ),
        ("delete", "disk_lifecycle:delete", "Delete a managed disk. The image version of the disk stays."),
        (
            "export",
            "disk_lifecycle:export",
            "Write a managed disk or an image to a file, with every segment verified.",
        ),
        (
            "grant-access",
            "disk_lifecycle:grant_access",
            "Create a signed URL for a disk's bytes, as a fixed VHD. The disk cannot be deleted before the URL expires.",
        ),
        (
            "list",
            "disk_lifecycle:list_",
            "List the managed disks of one resource group, or of all resource groups.",
        ),
        (
            "revoke-access",
            "disk_lifecycle:revoke_access",
            "Revoke the signed URL of a disk. Uploaded bytes become the content of the disk.",
        ),
        ("show", "disk_lifecycle:show", "Show a managed disk and its replica."),
        (
            "trace",
            "disk_trace:trace",
            "Record which blocks a boot reads, and store them as a boot pack in each replica.",
        ),
    )
}


@click.group(cls=Group, lazy=_COMMANDS)
def disk() -> None:
    """Manage disks from image versions, disks, snapshots, files and uploads."""
