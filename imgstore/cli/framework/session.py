"""The open installation of a command, with the user of the terminal as its principal."""

import getpass
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import click

from imgstore.bootstrap import Settings, open_installation
from imgstore.cli.framework import global_options, progress, server_dispatch
from imgstore.cli.framework.output import print_notes, print_warnings
from imgstore.domain.errors import ToolMissing
from imgstore.domain.extras import install_hint
from imgstore.domain.identity.access import Principal, administrator
from imgstore.domain.paging import Page, PageRequest
from imgstore.operations.installation import Installation

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The installation and the principal of a command."""

    installation: Installation
    principal: Principal
    quiet: bool
    """True with --only-show-errors."""

    def run(
        self, operation: Callable[Concatenate[Installation, Principal, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Run an operation of the installation for the principal."""
        return operation(self.installation, self.principal, *args, **kwargs)

    def note(self, text: str) -> None:
        """Print a fact that needs no attention on standard error."""
        print_notes([text], quiet=self.quiet)

    def warn(self, text: str) -> None:
        """Print a note for people on standard error."""
        print_warnings([text], quiet=self.quiet)

    def warn_of_home(self, path: Path) -> None:
        """Print a warning if a file is below the home, because a loss of the home would lose the file, too."""
        if path.resolve().is_relative_to(self.installation.home.resolve()):
            self.warn(f"{path} is below the home: a loss of the home loses the file, too. Copy it to another machine")

    def page(
        self,
        operation: Callable[Concatenate[Installation, Principal, PageRequest, _P], Page[_T]],
        request: PageRequest,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Sequence[_T]:
        """Return the items of a page. Print the token of the next page, also with --only-show-errors."""
        page = operation(self.installation, self.principal, request, *args, **kwargs)
        server_dispatch.print_next_token(page.next_token)
        return page.items

    @property
    def display_names(self) -> Mapping[str, str]:
        """Return Azure's display name of each region."""
        return {name: region.display_name for name, region in self.installation.regions.regions.items()}


@contextmanager
def open_session(
    options: global_options.Globals | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    may_read_only: bool = True,
    cache_folder: Path | None = None,
    cache_bytes: int | None = None,
) -> Iterator[Session]:
    """Open an installation, and show progress while the block runs.

    Args:
        options: the global options; None for the line's own.
        environ: variables for regions.yaml.
        may_read_only: whether the command may open a home that it cannot write.
        cache_folder: the folder of the segment cache; None for the default.
        cache_bytes: the limit of the segment cache; None for the default.
    """
    options = options or global_options.of(click.get_current_context())
    settings = replace(
        make_settings(options, environ, may_read_only=may_read_only),
        cache_folder=cache_folder,
        cache_bytes=cache_bytes,
    )
    with (
        progress.show_progress(quiet=options.only_show_errors) as subscriber,
        open_installation(settings, subscriber) as installation,
    ):
        yield Session(installation=installation, principal=administrator(user_name()), quiet=options.only_show_errors)


def make_settings(
    options: global_options.Globals, environ: Mapping[str, str] = os.environ, *, may_read_only: bool = True
) -> Settings:
    """Make the settings of an installation from the global options. See `open_session`."""
    return Settings(
        home=options.data_home,
        regions=options.regions,
        database=options.database,
        subscription=options.subscription,
        environ=environ,
        may_read_only=may_read_only,
    )


@contextmanager
def server_parts() -> Iterator[None]:
    """Wrap the import of a module of `api`, whose libraries are an extra.

    Raises:
        ToolMissing: the libraries are not installed.
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


def user_name() -> str:
    """Return the user's name for the activity log. A container may run under a user id without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
