"""The tags of resources, with the limits of Azure Resource Manager.

Source: "Use tags to organize your Azure resources and management hierarchy", Limitations. The codes and messages are
those that Azure's clients show (docs/azure.md).
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from imgstore.domain.errors import InvalidInput

NO_TAGS: Final[Mapping[str, str]] = MappingProxyType({})

TAGS_MAX: Final = 50
NAME_CHARACTERS_MAX: Final = 512
VALUE_CHARACTERS_MAX: Final = 256
FORBIDDEN_CHARACTERS: Final = "<>%&\\?/"
RESERVED_PREFIXES: Final = ("azure", "microsoft", "windows")

_FORBIDDEN: Final = re.compile(rf"[{re.escape(FORBIDDEN_CHARACTERS)}\x00-\x1f\x7f]")
_FREE_PREFIXES: Final = ("hidden-", "link")
"""Azure's portal writes such names, with resource ids inside: ``hidden-link:/subscriptions/...``."""
_SHOWN_CHARACTERS: Final = 40


def apply_tags(wanted: Mapping[str, str] | None, existing: Mapping[str, str] = NO_TAGS) -> Mapping[str, str]:
    """Return the tags of a resource after a request.

    Args:
        wanted: The tags of the request, which replace all present tags. None keeps the present tags.
        existing: The present tags. Equal tags are not checked, because earlier versions of imgstore had no limits.

    Raises:
        InvalidInput: The tags of the request break a limit of Azure.
    """
    if wanted is None or wanted == existing:
        return existing
    _check(wanted)
    return dict(wanted) or NO_TAGS


def find_tag(tags: Mapping[str, str], name: str) -> str | None:
    """Return the value of a tag by its lower-case name. The case of names does not matter, as in Azure."""
    return next((value for key, value in tags.items() if key.lower() == name), None)


def _check(tags: Mapping[str, str]) -> None:
    if len(tags) > TAGS_MAX:
        raise _invalid_tags(
            f"Too many tags specified. Requested tag count - '{len(tags)}'. Maximum number of tags allowed - "
            f"'{TAGS_MAX}'.",
            found=f"{len(tags)} tags",
            expected=f"at most {TAGS_MAX} tags",
            hint="join several values in one tag",
            code="InvalidTags",
        )
    lower = [name.lower() for name in tags]
    _refuse(
        [name for name in tags if lower.count(name.lower()) > 1],
        "The request content was invalid and could not be deserialized: 'An item with the same key has already been "
        "added.'",
        expected="each name once: the names of tags are the same in upper and lower case",
        hint="keep one of these tags",
        code="InvalidRequestContent",
    )
    _refuse(
        [name for name in tags if not name.lower().startswith(_FREE_PREFIXES) and _FORBIDDEN.search(name)],
        "The tag names {} have reserved characters '<,>,%,&,\\,?,/' or control characters.",
        expected=f"names without {' '.join(FORBIDDEN_CHARACTERS)} and control characters",
        hint="use other characters, such as '-', '.', ':' or '_'",
        code="InvalidTagNameCharacters",
    )
    _refuse(
        [name for name in tags if not name.strip() or len(name) > NAME_CHARACTERS_MAX],
        "The tag names {} are empty or too large. Maximum allowed length for tag name - "
        f"'{NAME_CHARACTERS_MAX}' characters.",
        expected=f"names of 1 to {NAME_CHARACTERS_MAX} characters",
        hint="choose a shorter name, and store the long text in the description",
        code="InvalidTagName",
    )
    _refuse(
        [name for name in tags if name.lower().startswith(RESERVED_PREFIXES)],
        "The tag names {} have reserved prefixes 'azure, microsoft, windows'.",
        expected="names that do not begin with azure, microsoft or windows, in any case",
        hint="put another word in front, for example os-windows",
        code="InvalidTagName",
    )
    _refuse(
        [name for name, value in tags.items() if len(value) > VALUE_CHARACTERS_MAX],
        "Tag value too large. The values of the tags {} exceeded the maximum length. Maximum allowed length for tag "
        f"value - '{VALUE_CHARACTERS_MAX}' characters.",
        expected=f"values of at most {VALUE_CHARACTERS_MAX} characters",
        hint="shorten the value, or divide the value among several tags",
        code="InvalidTagValueLength",
    )


def _refuse(names: Iterable[str], message: str, *, expected: str, hint: str, code: str) -> None:
    shown = ", ".join(name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}..." for name in names)
    if shown or any(not name for name in names):
        raise _invalid_tags(
            message.replace("{}", f"'{shown}'"), found=repr(shown), expected=expected, hint=hint, code=code
        )


def _invalid_tags(message: str, *, found: str, expected: str, hint: str, code: str) -> InvalidInput:
    return InvalidInput(message, found=found, expected=expected, hint=hint, target="tags", code=code)
