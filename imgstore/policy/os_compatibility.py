"""What one resource may be made from another: the systems on their disks must be of one kind, as far as both say so.

Pure. What a disk's partition table lets guess is no declaration: it warns, elsewhere.
"""

from typing import Final

from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import OsProperties

_PROPERTIES: Final = (
    ("os_type", "osType", "OS type"),
    ("os_state", "osState", "OS state"),
    ("hyper_v_generation", "hyperVGeneration", "hypervisor generation"),
)


def check_os_compatibility(source: OsProperties, taker: OsProperties, *, source_name: str, taker_name: str) -> None:
    """Refuse to make something from a source that declares another system.

    Args:
        source: what the source says.
        taker: what is said of what is to be made.
        source_name: the source, as people know it.
        taker_name: what is to be made, likewise.

    Raises:
        InvalidInput: both say something, and not the same.
    """
    for field, path, words in _PROPERTIES:
        theirs, ours = getattr(source, field), getattr(taker, field)
        if None not in (theirs, ours) and theirs != ours:
            raise InvalidInput(
                f"The {words} of the source '{source_name}' is {theirs}, that of '{taker_name}' is {ours}.",
                found=f"{path} {theirs} in the source",
                expected=f"{path} {ours}, as '{taker_name}' says",
                hint="name another source, or make this from it with what the source says",
                target=f"properties.{path}",
            )


def inherit_declared(source: OsProperties, said: OsProperties) -> OsProperties:
    """What a copy says: what was said of it, else what its source says."""
    return OsProperties(
        os_type=said.os_type or source.os_type,
        os_state=said.os_state or source.os_state,
        hyper_v_generation=said.hyper_v_generation or source.hyper_v_generation,
    )
