"""Values of a resource that was edited as JSON, read back with an error that names the path of what is wrong."""

import json
from collections.abc import Mapping

from imgstore.domain.errors import InvalidInput
from imgstore.wire.json_text import Json


def value_at(resource: Json, path: str) -> Json:
    """What is at a path of names with dots between; None where nothing is."""
    here = resource
    for name in path.split("."):
        here = here.get(name) if isinstance(here, Mapping) else None
    return here


def text_of(value: Json, path: str) -> str | None:
    """A text: a number or a truth value that was typed is the text that was typed.

    Raises:
        InvalidInput: it is a list or an object.
    """
    if isinstance(value, list | Mapping):
        raise invalid_value(path, value, "text")
    return value if value is None or isinstance(value, str) else json.dumps(value)


def flag_of(value: Json, path: str, *, absent: bool = False) -> bool:
    """A truth value, also spelt as text in any case.

    Args:
        value: what stands there; None is `absent`.
        path: where.
        absent: what nothing means.

    Raises:
        InvalidInput: it is something else.
    """
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if value is None or isinstance(value, bool):
        return absent if value is None else value
    raise invalid_value(path, value, "true or false")


def tags_of(resource: Json) -> dict[str, str]:
    """The resource's tags.

    Raises:
        InvalidInput: they are no texts by name.
    """
    tags = value_at(resource, "tags")
    if not isinstance(tags, Mapping | None):
        raise invalid_value("tags", tags, "an object of texts")
    texts = {name: text_of(value, f"tags.{name}") for name, value in (tags or {}).items()}
    return {name: text for name, text in texts.items() if text is not None}


def invalid_value(path: str, value: Json, expected: str) -> InvalidInput:
    """What is raised for a value that does not fit its place."""
    return InvalidInput(
        f"The value of '{path}' is invalid.",
        found=json.dumps(value, ensure_ascii=False, default=str),
        expected=expected,
        hint="`show` prints the resource as it is",
        target=path,
    )
