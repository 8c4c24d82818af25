"""The commands that work through a server. With ``--server`` every other command is refused here."""

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from imgstore.cli.framework import global_options
from imgstore.cli.framework.output import print_notes, print_warnings
from imgstore.domain.errors import InvalidInput
from imgstore.domain.progress import suppress_errors

if TYPE_CHECKING:
    from imgstore.remote.arm_client import Server

_ABOVE: Final = "imgstore.cli.by_server.galleries"
_VERSIONS: Final = "imgstore.cli.by_server.versions"
_DISKS: Final = "imgstore.cli.by_server.disks"
_OPERATIONS: Final = "imgstore.cli.by_server.operations"
_HERE: Final = None

SERVED: Final[Mapping[str, str | None]] = {
    "group create": f"{_ABOVE}:create_group",
    "group show": f"{_ABOVE}:show_group",
    "group list": f"{_ABOVE}:list_groups",
    "group delete": f"{_ABOVE}:delete_group",
    "sig create": f"{_ABOVE}:create_gallery",
    "sig show": f"{_ABOVE}:show_gallery",
    "sig list": f"{_ABOVE}:list_galleries",
    "sig delete": f"{_ABOVE}:delete_gallery",
    "sig image-definition create": f"{_ABOVE}:create_definition",
    "sig image-definition show": f"{_ABOVE}:show_definition",
    "sig image-definition list": f"{_ABOVE}:list_definitions",
    "sig image-definition delete": f"{_ABOVE}:delete_definition",
    "sig image-version create": f"{_VERSIONS}:create",
    "sig image-version show": f"{_VERSIONS}:show",
    "sig image-version list": f"{_VERSIONS}:list_versions",
    "sig image-version update": f"{_VERSIONS}:update",
    "sig image-version delete": f"{_VERSIONS}:delete",
    "sig image-version wait": f"{_VERSIONS}:wait",
    "disk create": f"{_DISKS}:create",
    "disk show": f"{_DISKS}:show",
    "disk list": f"{_DISKS}:list_disks",
    "disk delete": f"{_DISKS}:delete",
    "disk export": f"{_DISKS}:export",
    "disk attach": f"{_DISKS}:attach",
    "disk grant-access": f"{_DISKS}:grant_access",
    "disk revoke-access": f"{_DISKS}:revoke_access",
    "operation list": f"{_OPERATIONS}:list_operations",
    "operation show": f"{_OPERATIONS}:show_operation",
    "operation cancel": f"{_OPERATIONS}:cancel_operation",
    "inspect": _HERE,
}
"""The function of each command that runs the command through a server. None: the command needs no home and reads a local file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCommand:
    """The first argument of each command: the server, the options and the progress."""

    server: "Server"
    quiet: bool
    """True with --only-show-errors."""

    def note(self, text: str) -> None:
        """Print a fact that needs no attention on standard error."""
        print_notes([text], quiet=self.quiet)

    def warn(self, text: str) -> None:
        """Print a note for people on standard error."""
        print_warnings([text], quiet=self.quiet)


def target_of(ctx: click.Context) -> str | None:
    """Find the function that runs a command through a server, as "module:function". None runs the command locally.

    Raises:
        InvalidInput: the command needs a home.
    """
    path = _path(ctx)
    if path not in SERVED:
        raise local_only(f"`imgstore {path}`", "leave --server out, and IMGSTORE_SERVER unset, on the server's machine")
    return SERVED[path]


def print_next_token(token: str | None) -> None:
    """Print the token of the next page, if there is a next page. The token is part of the answer, also with --only-show-errors."""
    if token is not None:
        click.echo(f"More items are there. The next page: --next-token {token}", err=True)


def local_only(what: str, hint: str) -> InvalidInput:
    """Create the error for a command that a server cannot run."""
    return InvalidInput(
        f"{what} works on a home here, not over a server.",
        found="--server, or IMGSTORE_SERVER",
        expected="no server, or a command of " + ", ".join(_families()),
        hint=hint,
        target="server",
        code="LocalHomeOnly",
    )


def run(ctx: click.Context, asks: Callable[..., Any]) -> Any:
    """Run a command through the server, with the command's own values, and show progress."""
    from imgstore.cli.framework import progress  # noqa: PLC0415 - start-up time, as the two below
    from imgstore.remote.arm_client import Server  # noqa: PLC0415
    from imgstore.remote.connection import Connection  # noqa: PLC0415
    from imgstore.remote.credentials import read_address  # noqa: PLC0415

    options = global_options.of(ctx)
    assert options.server is not None, "only a command with --server is run here"
    address = read_address(
        options.server,
        authorities=options.authorities,
        subscription=options.subscription,
        environ=os.environ,
    )
    with (
        progress.show_progress(quiet=options.only_show_errors) as subscriber,
        closing(Connection(address)) as connection,
    ):
        server = Server(connection=connection, subscriber=suppress_errors(subscriber))
        return asks(ServerCommand(server=server, quiet=options.only_show_errors), **ctx.params)


def _path(ctx: click.Context) -> str:
    """Return the words of the command, without the name of the program."""
    words: list[str] = []
    place: click.Context | None = ctx
    while place is not None and place.parent is not None:
        words.append(place.info_name or "")
        place = place.parent
    return " ".join(reversed(words))


def _families() -> list[str]:
    """List the groups of commands, with their commands that work through a server."""
    verbs: dict[str, list[str]] = {}
    for path in SERVED:
        family, _, verb = path.rpartition(" ")
        verbs.setdefault(family or path, []).append(verb if family else "")
    return [f"{family} {'/'.join(filter(None, each))}".strip() for family, each in verbs.items()]
