"""Parse the JSON of templates, with comments, unquoted names and multi-line texts. az sends templates unchanged."""

import json
import re
from typing import Any, Final

from imgstore.wire.json_text import Json

# An unclosed text or comment extends to the end, so no character is scanned twice.
_TEXT: Final = r'"(?:[^"\\]|\\.)*(?:"|\Z)'
_COMMENTS: Final = re.compile(rf"(?P<text>{_TEXT})|//[^\n]*|/\*(?:.*?\*/|.*\Z)", re.DOTALL)
_NAMES: Final = re.compile(rf"(?P<text>{_TEXT})|(?P<before>[{{,]\s*)(?P<name>[A-Za-z_$]\w*)(?=\s*:)", re.DOTALL)


def read_jsonc(text: str, **how: Any) -> Json:
    """Parse a template as JSON. `how` are arguments of `json.loads`.

    Raises:
        ValueError: The text is not JSON.
    """
    bare = _COMMENTS.sub(lambda match: match["text"] or " ", text)
    quoted = _NAMES.sub(lambda match: match["text"] or f'{match["before"]}"{match["name"]}"', bare)
    return json.loads(quoted, strict=False, **how)
