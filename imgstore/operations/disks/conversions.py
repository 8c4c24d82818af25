"""Limits for the conversion of an image file from a caller."""

from collections.abc import Callable
from pathlib import Path

from imgstore.formats import ConversionBounds
from imgstore.operations.installation import Installation
from imgstore.operations.quotas import check_quota


def conversion_bounds(
    installation: Installation, check_limit: Callable[[int], None] = lambda _virtual_bytes: None
) -> ConversionBounds:
    """Return the limits of a conversion: the quota of the subscription and the scratch space.

    Args:
        installation: the installation.
        check_limit: a function that receives the size of the disk and may raise an error for a further limit.
    """

    def check_size(virtual_bytes: int) -> None:
        check_limit(virtual_bytes)
        check_quota(installation, virtual_bytes)

    def check_scratch(folder: Path, size: int) -> None:
        installation.keeper.check_cancelled()  # This check runs repeatedly, so that a cancellation stops a conversion.
        installation.check_scratch(folder, size)

    return ConversionBounds(check_size=check_size, check_scratch=check_scratch)
