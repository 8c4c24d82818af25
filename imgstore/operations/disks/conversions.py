"""Bounds of the conversion of a container that a caller names."""

from collections.abc import Callable
from pathlib import Path

from imgstore.formats import ConversionBounds
from imgstore.operations.installation import Installation
from imgstore.operations.quotas import check_quota


def conversion_bounds(
    installation: Installation, check_limit: Callable[[int], None] = lambda _virtual_bytes: None
) -> ConversionBounds:
    """Return the bounds of a conversion for the subscription's content.

    Args:
        installation: where, and whose quota counts.
        check_limit: called with the disk's size; raises where another limit refuses it.
    """

    def check_size(virtual_bytes: int) -> None:
        check_limit(virtual_bytes)
        check_quota(installation, virtual_bytes)

    def check_scratch(folder: Path, size: int) -> None:
        installation.keeper.check_cancelled()  # Asked all the while: a conversion may take long, and does not go on when canceled.
        installation.check_scratch(folder, size)

    return ConversionBounds(check_size=check_size, check_scratch=check_scratch)
