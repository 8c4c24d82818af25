"""The installation that a command works on, open while it works, with whoever sits at the terminal as its principal."""

import getpass
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from imgstore.bootstrap import Settings, open_installation
from imgstore.cli.framework import global_options, progress
from imgstore.domain.errors import ToolMissing
from imgstore.domain.extras import install_hint
from imgstore.domain.identity.access import Principal, administrator
from imgstore.domain.paging import Page
from imgstore.operations.installation import Installation


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What each operation asks for first."""

    installation: Installation
    principal: Principal
    quiet: bool
    """--only-show-errors."""

    def warn(self, text: str) -> None:
        """Say what a person ought to know and a script need not."""
        if not self.quiet:
            click.echo(f"WARNING: {text}", err=True)

    def tell_next(self, page: Page[Any]) -> None:
        """Say how to go on, if there is more: part of the answer, so also with --only-show-errors."""
        if page.next_token is not None:
            click.echo(f"More items are there. The next page: --next-token {page.next_token}", err=True)

    @property
    def display_names(self) -> Mapping[str, str]:
        """Of each region's key, the name that Azure shows."""
        return {name: region.display_name for name, region in self.installation.regions.regions.items()}


@contextmanager
def opened(options: global_options.Globals | None = None, environ: Mapping[str, str] = os.environ) -> Iterator[Session]:
    """An installation, with progress shown while the block runs.

    Args:
        options: which one; None is the one that the line and the environment name.
        environ: what regions.yaml takes its variables from.
    """
    options = options or global_options.of(click.get_current_context())
    settings = Settings(
        home=options.data_home,
        regions=options.regions,
        database=options.database,
        subscription=options.subscription,
        environ=environ,
    )
    with (
        progress.shown(quiet=options.only_show_errors) as subscriber,
        open_installation(settings, subscriber) as installation,
    ):
        yield Session(installation=installation, principal=administrator(_user()), quiet=options.only_show_errors)


@contextmanager
def server_parts() -> Iterator[None]:
    """Around the import of a module of `api`, whose libraries are an extra.

    Raises:
        ToolMissing: they are not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ToolMissing(
            "This needs the optional packages of the server.",
            found=str(error),
            expected="the packages of the extra `server`",
            hint=install_hint("server"),
            target=error.name,
        ) from error


def _user() -> str:
    """Who the activity log says it was. A container may run under a number that has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
