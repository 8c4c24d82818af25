"""JSON as templates are written: with comments, names without quotes, and texts of several lines. az sends them as they are."""

import json
import re
from typing import Any, Final

from imgstore.wire.json_text import Json

# What is not closed goes to the end, so that nothing is looked through twice.
_TEXT: Final = r'"(?:[^"\\]|\\.)*(?:"|\Z)'
_COMMENTS: Final = re.compile(rf"(?P<text>{_TEXT})|//[^\n]*|/\*(?:.*?\*/|.*\Z)", re.DOTALL)
_NAMES: Final = re.compile(rf"(?P<text>{_TEXT})|(?P<before>[{{,]\s*)(?P<name>[A-Za-z_$]\w*)(?=\s*:)", re.DOTALL)


def read_jsonc(text: str, **how: Any) -> Json:
    """What `text` says; `how` goes to `json.loads`.

    Raises:
        ValueError: it is none.
    """
    bare = _COMMENTS.sub(lambda match: match["text"] or " ", text)
    quoted = _NAMES.sub(lambda match: match["text"] or f'{match["before"]}"{match["name"]}"', bare)
    return json.loads(quoted, strict=False, **how)
