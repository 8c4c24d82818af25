"""The global options, which every command takes at any place of the line, and their environment variables.

Each command and each group has all global options, so click finds the options at any place. The values are kept in the
context's `meta`, which the contexts of one line share. The rightmost value wins.
"""

import os
import pwd
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

import imgstore
from imgstore.cli.framework import queries
from imgstore.domain.errors import InvalidInput

if TYPE_CHECKING:
    from jmespath.parser import ParsedResult

FORMATS: Final = ("json", "table", "csv", "tsv", "yaml", "none")
_COLOURED: Final = {"jsonc": "json", "yamlc": "yaml"}
"""az's coloured formats, read as the plain formats."""

_META: Final = "imgstore.cli."


class GlobalOption(click.Option):
    """An option whose value goes to `of` and not to the command."""

    def __init__(
        self, param_decls: Sequence[str], *, callback: Callable[..., None] | None = None, **attrs: Any
    ) -> None:
        super().__init__(param_decls, expose_value=False, callback=callback or _keep, **attrs)
        self.name = f"{_META}{self.name}"  # a name of its own: a command may have a version, or regions, too


@dataclass(frozen=True, slots=True, kw_only=True)
class Globals:
    """Values of the global options, from the line or the environment."""

    output: str | None = None
    """None without an option: JSON, or text for results that are meant for people."""
    query: "ParsedResult | None" = None
    home: Path | None
    """Home of the installation; None if unknown. Commands that need a home use `data_home`."""
    home_given: bool
    """True if the line or the environment names the home."""
    regions: Path | None = None
    database: str | None = None
    subscription: str | None = None
    server: str | None = None
    """URL of the server for the command; None for the home."""
    authorities: Path | None = None
    """Certificate authorities for the server."""
    only_show_errors: bool = False
    verbose: bool = False
    debug: bool = False

    @property
    def data_home(self) -> Path:
        """Return the home of the installation.

        Raises:
            InvalidInput: the line and the environment name no home, and the user has no home directory.
        """
        if self.home is None:
            raise InvalidInput(
                "There is no data folder.",
                found="no --home, no IMGSTORE_HOME, no XDG_DATA_HOME, and no home directory of this user",
                expected="a folder that the user may write",
                hint="set --home or IMGSTORE_HOME",
                target="home",
            )
        return self.home


def is_set(ctx: click.Context, flag: str) -> bool:
    """Return True if the line sets a flag, in the part that has been parsed."""
    return bool(ctx.meta.get(_META + flag, False))


def of(ctx: click.Context, environ: Mapping[str, str] = os.environ) -> Globals:
    """Read the global options from the parsed part of the line, else from the environment. An empty variable counts as unset."""
    given = {key.removeprefix(_META): value for key, value in ctx.meta.items() if key.startswith(_META)}
    home = given.get("home") or environ.get("IMGSTORE_HOME")
    regions = given.get("regions") or environ.get("IMGSTORE_REGIONS")
    authorities = given.get("authorities")
    return Globals(
        output=given.get("output"),
        query=given.get("query"),
        home=_expand_user(home) if home else _data_home(environ),
        home_given=bool(home),
        regions=_expand_user(regions) if regions else None,
        database=given.get("database") or environ.get("IMGSTORE_DATABASE") or None,
        subscription=given.get("subscription") or environ.get("IMGSTORE_SUBSCRIPTION") or None,
        server=given.get("server") or environ.get("IMGSTORE_SERVER") or None,
        authorities=_expand_user(authorities) if authorities else None,
        only_show_errors=given.get("only_show_errors", False),
        verbose=given.get("verbose", False),
        debug=given.get("debug", False),
    )


def options() -> list[click.Option]:
    """Create the global options for one command."""
    return [
        GlobalOption(
            ["-o", "--output"],
            type=click.Choice([*FORMATS, *_COLOURED], case_sensitive=False),
            metavar="|".join(FORMATS),
            help="Output format. Default: json.",
        ),
        GlobalOption(["--query"], type=queries.compile_query, metavar="JMESPATH", help="JMESPath query on the result."),
        GlobalOption(
            ["--home"],
            metavar="FOLDER",
            help="Home of the installation. Default: by the XDG specification. [env: IMGSTORE_HOME]",
        ),
        GlobalOption(
            ["--regions"],
            metavar="FILE",
            help="Regions file. Default: the shipped file. [env: IMGSTORE_REGIONS]",
        ),
        GlobalOption(
            ["--database"],
            metavar="URL",
            help="Database of the catalog. Default: SQLite in the home. [env: IMGSTORE_DATABASE]",
        ),
        GlobalOption(
            ["--subscription"],
            metavar="ID",
            help="Id of the subscription. Default: the subscription of the first start. [env: IMGSTORE_SUBSCRIPTION]",
        ),
        GlobalOption(
            ["--server"],
            metavar="URL",
            help="Run the command through `imgstore serve` at this URL. Credentials: IMGSTORE_TOKEN, or "
            "IMGSTORE_TENANT_ID, IMGSTORE_CLIENT_ID and IMGSTORE_CLIENT_SECRET. Example: imgstore sig "
            "list --server https://images.example:8443. [env: IMGSTORE_SERVER]",
        ),
        GlobalOption(
            ["--ca-file", "authorities"],
            metavar="FILE",
            help="Certificate authorities for --server. Default: the system's. [env: REQUESTS_CA_BUNDLE, "
            "SSL_CERT_FILE]",
        ),
        GlobalOption(["--only-show-errors"], is_flag=True, help="Print errors only, without progress and notes."),
        GlobalOption(["--verbose"], is_flag=True, help="Print the duration of the command."),
        GlobalOption(["--debug"], is_flag=True, help="Print a stack trace with an error."),
        GlobalOption(["--version"], is_flag=True, is_eager=True, callback=_version, help="Show the version."),
    ]


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    assert param.name is not None
    if ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE:
        ctx.meta[param.name] = _COLOURED.get(value, value) if isinstance(value, str) else value


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's callback
    if value:
        click.echo(f"imgstore {imgstore.__version__}")
        ctx.exit()


def _data_home(environ: Mapping[str, str]) -> Path | None:
    """Find the data folder by the XDG Base Directory Specification 0.8, which ignores a relative XDG_DATA_HOME."""
    data = Path(environ.get("XDG_DATA_HOME", ""))
    if data.is_absolute():
        return data / "imgstore"
    user = _user_home(environ)
    return None if user is None else user / ".local" / "share" / "imgstore"


def _user_home(environ: Mapping[str, str]) -> Path | None:
    """Find the user's home directory: HOME, unless empty or relative, else the entry in passwd. Unknown users have none."""
    home = environ.get("HOME", "")
    if not home:
        with suppress(KeyError):
            home = pwd.getpwuid(os.getuid()).pw_dir
    return Path(home) if Path(home).is_absolute() else None


def _expand_user(path: str) -> Path:
    """Replace a leading ``~`` of a path.

    Raises:
        InvalidInput: the home directory of the user is unknown.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InvalidInput(
            f"The path {path} cannot be used.",
            found="no home directory of the user",
            expected="a path without ~, or a user with a home directory",
            hint="write the path in full, or set HOME",
            target=path,
        ) from error
