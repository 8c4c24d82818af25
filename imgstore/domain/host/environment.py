"""Values of environment variables, as people and programs set them."""

from collections.abc import MutableMapping
from typing import Final

_AROUND: Final = " \t\r\n\ufeff"
"""Characters around a value from a file with line ends of Windows, from `echo`, or from a copy of a text."""
_PREFIXES: Final = ("AWS_", "IMGSTORE_")
_NAMES: Final = frozenset({"REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "TMPDIR"})


def strip_value(value: str) -> str:
    """Return a value without surrounding spaces, line ends and byte order marks."""
    return value.strip(_AROUND)


def strip_variables(environ: MutableMapping[str, str]) -> None:
    """Strip the values of the variables that imgstore and its libraries read."""
    for name, value in list(environ.items()):
        if (name in _NAMES or name.startswith(_PREFIXES)) and strip_value(value) != value:
            environ[name] = strip_value(value)
