"""Recognise text files in another encoding than UTF-8, for a clear error."""

import codecs
from typing import Final

_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # first, because it begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def find_encoding_fault(content: bytes) -> str | None:
    """Describe why a text is not UTF-8, with or without a byte order mark. None for UTF-8.

    Editors and shells of Windows write UTF-16, and older editors write a single byte for each letter.
    """
    name = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    if name is None and b"\0" in content:
        name = "UTF-16 or binary"
    if name is not None:
        return f"the file is {name}; save the file as UTF-8"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f"line {line} has the byte 0x{content[error.start]:02x}, which is not UTF-8; save the file as UTF-8"
    return None
