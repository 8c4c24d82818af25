"""Read an output of an earlier command that a person stored in a file."""

from pathlib import Path

from imgstore.domain.errors import SourceNotFound
from imgstore.domain.host.os_errors import advise, describe


def read_saved_output(file: Path, *, noun: str, command: str, bytes_max: int, target: str) -> str:
    """Return the text of a file, up to a limit. Bytes that are no UTF-8 are replaced.

    Args:
        file: the file.
        noun: the content, for example "checkpoint".
        command: the command that prints the content.
        bytes_max: the limit. A longer file is cut.
        target: the option or the argument that names the file.

    Raises:
        SourceNotFound: the file cannot be opened or read.
    """
    try:
        with file.open("rb") as opened:
            return opened.read(bytes_max).decode("utf-8", errors="replace")
    except OSError as error:
        raise SourceNotFound(
            f"The {noun} {file} cannot be read.",
            found=describe(error, file),
            expected=f"the output of `{command}`",
            hint=advise(error, file),
            target=target,
        ) from error
