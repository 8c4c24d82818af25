"""The tag of a temporary disk that a client makes to export an image through a server.

Azure's clients can set tags, and no other field that a server may define. A disk with the tag may come from a Degraded
replica, because each read of the disk verifies the bytes (invariant W15).
"""

from collections.abc import Mapping
from typing import Final

from imgstore.domain.tags import find_tag

EXPORT: Final = "imgstore-export"
"""The name of the tag. The value is any word."""


def is_for_export(tags: Mapping[str, str] | None) -> bool:
    """Return whether a disk with these tags is only made for an export."""
    return tags is not None and find_tag(tags, EXPORT) is not None
