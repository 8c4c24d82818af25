"""Read the passphrase of a recovery file: from a file, the environment or a terminal, never from the command line."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from imgstore.cli.framework.options import Decorator
from imgstore.domain.errors import InvalidInput
from imgstore.domain.host.os_errors import advise, describe

PASSPHRASE_VARIABLE: Final = "IMGSTORE_RECOVERY_PASSPHRASE"  # noqa: S105 - the name of a variable
_FILE_BYTES_MAX: Final = 4_096


def passphrase_file() -> Decorator:
    """Make the option ``--passphrase-file``."""
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"File with the passphrase. Default: the variable {PASSPHRASE_VARIABLE}, else a prompt.",
    )


def read_passphrase(file: Path | None, *, confirms: bool, environ: Mapping[str, str] = os.environ) -> str:
    """Return the passphrase from a file, else from the environment, else from a prompt.

    Args:
        file: the file of ``--passphrase-file``. A line end at the end of the file does not belong to the passphrase.
        confirms: whether a prompt asks twice, because the passphrase is new.
        environ: the variables of the process.

    Raises:
        InvalidInput: there is no passphrase and no terminal, or the file cannot be used.
    """
    if file is not None:
        return _read_file(file)
    if environ.get(PASSPHRASE_VARIABLE):
        return environ[PASSPHRASE_VARIABLE]
    if not sys.stdin.isatty():
        raise InvalidInput(
            "There is no passphrase for the recovery file.",
            found=f"no --passphrase-file, no {PASSPHRASE_VARIABLE}, and no terminal for a prompt",
            expected="a passphrase from one of the three",
            hint="name a file with --passphrase-file",
            target="passphrase",
        )
    text: str = click.prompt("Passphrase of the recovery file", hide_input=True, confirmation_prompt=confirms, err=True)
    return text


def _read_file(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _file_error(file, describe(error, file), advise(error, file)) from error
    alone = "store the passphrase alone in the file"
    if len(data) > _FILE_BYTES_MAX:
        raise _file_error(file, f"more than {_FILE_BYTES_MAX} bytes", alone)
    try:
        text = data.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise _file_error(file, str(error), "store the passphrase as UTF-8") from error
    if not text or "\n" in text:
        raise _file_error(file, "several lines" if text else "an empty file", alone)
    return text


def _file_error(file: Path, found: str, hint: str) -> InvalidInput:
    return InvalidInput(
        f"The passphrase file {file} cannot be used.",
        found=found,
        expected="a readable file with one line",
        hint=hint,
        target=str(file),
    )
