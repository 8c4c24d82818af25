"""The place and the limit of the segment cache of a host, from options, the environment and settings.toml."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imgstore.domain.errors import InvalidInput
from imgstore.domain.settings.disk_space import DiskSpace

FOLDER_VARIABLE: Final = "IMGSTORE_CACHE_DIR"
BYTES_VARIABLE: Final = "IMGSTORE_CACHE_BYTES"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """The place and the limit of the segment cache."""

    folder: Path
    bytes_max: int
    """The limit of all files of the folder. 0 switches the cache off."""


def choose_cache(
    home: Path,
    environ: Mapping[str, str],
    space: DiskSpace,
    *,
    folder: Path | None = None,
    bytes_max: int | None = None,
) -> CacheSettings:
    """Choose the place and the limit: an option, else a variable, else settings.toml and a folder in the home.

    Args:
        home: the home of the installation.
        environ: the variables.
        space: the limits of this machine.
        folder: the option for the folder.
        bytes_max: the option for the limit.

    Raises:
        InvalidInput: a variable is no number of bytes.
    """
    named = environ.get(FOLDER_VARIABLE)
    text = environ.get(BYTES_VARIABLE)
    if bytes_max is None and text:
        if not (text.isascii() and text.isdecimal()) or len(text) > len(str(2**63)):
            raise InvalidInput(
                f"{BYTES_VARIABLE} is no number of bytes.",
                found=repr(text[:40]),
                expected="a whole number of bytes, such as 10737418240; 0 switches the cache off",
                hint=f"correct or unset {BYTES_VARIABLE}",
                target=BYTES_VARIABLE,
            )
        bytes_max = int(text)
    if folder is None:
        folder = Path(named).expanduser() if named else home / "cache"
    return CacheSettings(folder=folder.absolute(), bytes_max=space.cache_bytes_max if bytes_max is None else bytes_max)
