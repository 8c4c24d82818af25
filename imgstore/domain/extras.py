"""The name of the distribution on the package index, and hints that name its extras.

The import package and the command are `imgstore`. The project of that name on the package index is another program.
"""

from typing import Final

DISTRIBUTION: Final = "imgstore-gallery"


def install_hint(extra: str) -> str:
    """Make the command that installs an extra, for the hint of an error."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"
