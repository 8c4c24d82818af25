"""Read values from JSON bodies. Each error names the path of the invalid value."""

import json
from collections.abc import Mapping
from typing import Final

from imgstore.domain.errors import InvalidInput
from imgstore.wire.json_text import Json

_INTEGERS: Final = range(-(2**31), 2**31)
_INTEGER_CHARACTERS_MAX: Final = len(str(_INTEGERS.start))


def value_at(resource: Json, path: str) -> Json:
    """Return the value at a path of names with dots, or None."""
    here = resource
    for name in path.split("."):
        here = here.get(name) if isinstance(here, Mapping) else None
    return here


def text_of(value: Json, path: str) -> str | None:
    """Return a text. A number or a boolean becomes its JSON text.

    Raises:
        InvalidInput: The value is a list or an object.
    """
    if isinstance(value, list | Mapping):
        raise invalid_value(path, value, "text")
    return value if value is None or isinstance(value, str) else json.dumps(value)


def integer_of(value: Json, path: str) -> int:
    """Return an integer. A text of ASCII digits is accepted, because Azure's JSON parser accepts such a text.

    Raises:
        InvalidInput: The value is not an integer of 32 bits.
    """
    digits = value.removeprefix("-") if isinstance(value, str) and value.isascii() else ""
    if isinstance(value, str) and digits.isdigit() and len(value) <= _INTEGER_CHARACTERS_MAX:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value in _INTEGERS:
        return value
    raise invalid_value(path, value, f"a whole number from {_INTEGERS.start} to {_INTEGERS.stop - 1}")


def flag_of(value: Json, path: str, *, absent: bool = False) -> bool:
    """Return a boolean. The texts ``true`` and ``false`` are accepted in any case.

    Args:
        value: The value.
        path: The path of the value, for the error.
        absent: The result for None.

    Raises:
        InvalidInput: The value is not a boolean.
    """
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if value is None or isinstance(value, bool):
        return absent if value is None else value
    raise invalid_value(path, value, "true or false")


def tags_of(resource: Json) -> dict[str, str]:
    """Return the tags of a resource.

    Raises:
        InvalidInput: The tags are not an object of texts.
    """
    tags = value_at(resource, "tags")
    if not isinstance(tags, Mapping | None):
        raise invalid_value("tags", tags, "an object of texts")
    texts = {name: text_of(value, f"tags.{name}") for name, value in (tags or {}).items()}
    return {name: text for name, text in texts.items() if text is not None}


def invalid_value(path: str, value: Json, expected: str) -> InvalidInput:
    """Return the error of a value that is not allowed at a path."""
    return InvalidInput(
        f"The value of '{path}' is invalid.",
        found=json.dumps(value, ensure_ascii=False, default=str),
        expected=expected,
        hint="`show` prints the current resource",
        target=path,
    )
