"""``imgstore settings``: the shared settings of an installation."""

from pathlib import Path

import click

from imgstore.cli.framework.command import Group
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.operations import shared_settings as operations
from imgstore.wire.json_text import Json


@click.group(cls=Group)
def settings() -> None:
    """Show and apply the settings of the installation."""


@settings.command(
    table=columns(Name="name", Value="value", IsSet="isSet", InFile="inFile"), example="imgstore settings show -o table"
)
def show(session: Session) -> Json:
    """Show the limits and the maintenance settings in force.

    The catalog keeps the settings. The first start imports settings.toml in the home. Later, `settings apply` imports a
    file.
    """
    return [
        {"name": each.key, "value": each.value, "isSet": each.is_set, "inFile": each.in_file}
        for each in session.run(operations.show_settings)
    ]


@settings.command(
    table=columns(Name="name", Before="before", After="after"),
    example="imgstore settings apply\nimgstore settings apply --file team.toml",
)
@click.option(
    "--file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings file. Default: settings.toml in the home.",
)
def apply(session: Session, file: Path | None) -> Json:
    """Replace the limits and the maintenance settings of the installation by a file.

    A setting without a value in the file gets its default. Running servers and workers use the new values after a restart.
    The command prints the changes.
    """
    changed = session.run(operations.apply_settings, file)
    return [{"name": each.key, "before": each.in_catalog, "after": each.in_file} for each in changed]
