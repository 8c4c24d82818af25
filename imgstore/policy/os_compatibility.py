"""Check that a resource and its source declare the same operating system.

Only declared properties count. A guess from a partition table causes a warning elsewhere.
"""

from typing import Final

from imgstore.domain.errors import InvalidInput
from imgstore.domain.resources import OsProperties

_PROPERTIES: Final = (
    ("os_type", "osType", "OS type"),
    ("os_state", "osState", "OS state"),
    ("hyper_v_generation", "hyperVGeneration", "hypervisor generation"),
)


def check_os_compatibility(source: OsProperties, target: OsProperties, *, source_name: str, target_name: str) -> None:
    """Refuse a source that declares another operating system than the new resource.

    Args:
        source: The declared properties of the source.
        target: The declared properties of the new resource.
        source_name: The name of the source in messages.
        target_name: The name of the new resource in messages.

    Raises:
        InvalidInput: Both declare a property, with different values.
    """
    for field, path, words in _PROPERTIES:
        of_source, of_target = getattr(source, field), getattr(target, field)
        if None not in (of_source, of_target) and of_source != of_target:
            raise InvalidInput(
                f"The {words} of the source '{source_name}' is {of_source}, and the {words} of '{target_name}' is {of_target}.",
                found=f"{path} {of_source} in the source",
                expected=f"{path} {of_target}, as in '{target_name}'",
                hint="name another source, or create the resource with the values of the source",
                target=f"properties.{path}",
            )


def inherit_declared(source: OsProperties, said: OsProperties) -> OsProperties:
    """Complete the declared properties of a copy with the properties of the source."""
    return OsProperties(
        os_type=said.os_type or source.os_type,
        os_state=said.os_state or source.os_state,
        hyper_v_generation=said.hyper_v_generation or source.hyper_v_generation,
    )
