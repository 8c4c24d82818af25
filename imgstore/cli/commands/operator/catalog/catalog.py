"""``imgstore catalog``: protection and recovery of the catalog. Each command has a module of its own."""

import click

from imgstore.cli.commands.operator.catalog.catalog_adopt import adopt
from imgstore.cli.commands.operator.catalog.catalog_backup import backup
from imgstore.cli.commands.operator.catalog.catalog_copy import copy
from imgstore.cli.commands.operator.catalog.catalog_rebuild import rebuild
from imgstore.cli.commands.operator.catalog.catalog_recovery_file import recovery_file
from imgstore.cli.commands.operator.catalog.catalog_restore import restore
from imgstore.cli.framework.command import Group


@click.group(cls=Group)
def catalog() -> None:
    """Protect and recover the catalog of the installation."""


for _command in (adopt, backup, copy, rebuild, recovery_file, restore):
    catalog.add_command(_command)
