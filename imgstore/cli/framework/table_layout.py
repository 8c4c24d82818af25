"""Lay out tables in at most `TABLE_COLUMNS_MAX` columns. A table that is too wide wraps its texts and loses nothing."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Final

TABLE_COLUMNS_MAX: Final = 100
_GAP: Final = "  "
_LINES_MAX: Final = 3
"""A column that is narrower than `_WORD_COLUMNS_MAX` wraps a text into about so many lines at most."""
_TEXT_COLUMNS_MIN: Final = 12
"""A column of texts is not made narrower."""
_WORD_COLUMNS_MAX: Final = 36
"""A word up to this length is not broken: people copy UUIDs."""
_SOFT_HYPHEN: Final = "\u00ad"
_PARTS: Final = re.compile(r"[A-Z]*[^A-Z]+|[A-Z]+")
"""The parts of a heading: "StorageAccountType" is "Storage", "Account", "Type"."""


def lay_out(headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[bool]) -> str:
    """Format rows below their headings, in columns.

    A table that is too wide wraps the texts of its widest columns. If words would break, each row becomes a block with a
    line for each heading.

    Args:
        headings: the heading of each column.
        rows: the cells of each row.
        numbers: whether each column contains numbers, which are right-aligned and never wrapped.
    """
    natural = [max(map(text_columns, column)) for column in zip(headings, *rows, strict=True)]
    least = [
        min(wide, max(_heading_columns(heading), *_cell_columns(cells, number=number)))
        for wide, number, heading, *cells in zip(natural, numbers, headings, *rows, strict=True)
    ]
    widths = fit_widths(natural, least)
    if widths is None:
        return "\n\n".join("\n".join(_block(headings, row)) for row in rows)
    pieces = [
        [_wrap_heading(heading, width) for heading, width in zip(headings, widths, strict=True)],
        [["-" * width] for width in widths],
        *([_wrap(cell, width) for cell, width in zip(row, widths, strict=True)] for row in rows),
    ]
    return "\n".join(line for cells in pieces for line in _lines(cells, widths, numbers))


def fit_widths(natural: Sequence[int], least: Sequence[int]) -> list[int] | None:
    """Return the width of each column, after the widest columns became narrower. None if the columns do not fit.

    Args:
        natural: the width of the longest cell or heading of each column.
        least: the least width of each column.
    """
    widths = list(natural)
    room = TABLE_COLUMNS_MAX - len(_GAP) * (len(widths) - 1)
    if sum(least) > room:
        return None
    while sum(widths) > room:
        place = max((each for each in range(len(widths)) if widths[each] > least[each]), key=widths.__getitem__)
        widths[place] -= 1
    return widths


def _heading_columns(heading: str) -> int:
    """Return the least width of a heading, which wraps before capital letters."""
    return max(map(text_columns, _PARTS.findall(heading)), default=0)


def _cell_columns(cells: Sequence[str], *, number: bool) -> Iterator[int]:
    """Yield the least widths of the cells of a column."""
    if number:
        yield from map(text_columns, cells)
        return
    yield _TEXT_COLUMNS_MIN
    yield min(_WORD_COLUMNS_MAX, max(map(text_columns, cells), default=0) // _LINES_MAX)
    yield min(_WORD_COLUMNS_MAX, max((text_columns(word) for cell in cells for word in cell.split()), default=0))


def text_columns(text: str) -> int:
    """Return the number of columns of a text in a terminal."""
    return len(text) if text.isascii() else sum(map(_character_columns, text))


def _character_columns(character: str) -> int:
    if character == _SOFT_HYPHEN:  # Terminals show this format character.
        return 1
    if unicodedata.combining(character) or unicodedata.category(character) in {"Cf", "Me", "Mn"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"F", "W"} else 1


def _lines(cells: Sequence[Sequence[str]], widths: Sequence[int], numbers: Sequence[bool]) -> Iterator[str]:
    """Yield the lines of a row from the lines of its cells."""
    for line in zip_longest(*cells, fillvalue=""):
        yield _GAP.join(_pad(*each) for each in zip(line, widths, numbers, strict=True)).rstrip()


def _pad(text: str, width: int, number: bool) -> str:  # noqa: FBT001 - as it is called
    blanks = " " * (width - text_columns(text))
    return blanks + text if number else text + blanks


def _wrap_heading(heading: str, width: int) -> list[str]:
    """Split a heading into lines, before capital letters where possible."""
    if text_columns(heading) <= width:
        return [heading]
    lines = [""]
    for part in _PARTS.findall(heading):
        if text_columns(lines[-1] + part) > width and lines[-1]:
            lines.append("")
        lines[-1] += part
    return [piece for line in lines for piece in _wrap(line, width)]


def _wrap(text: str, width: int) -> list[str]:
    """Split a text into lines, at spaces where possible."""
    lines: list[str] = []
    while text_columns(text) > width:
        end = columns = 0
        while end < len(text) and columns + _character_columns(text[end]) <= width:
            columns += _character_columns(text[end])
            end += 1
        end = max(end, 1)
        space = text.rfind(" ", 0, end + 1)
        if space > 0:
            lines.append(text[:space].rstrip())
            text = text[space:].lstrip()
        else:
            lines.append(text[:end])
            text = text[end:]
    return [*lines, text]


def _block(headings: Sequence[str], cells: Sequence[str]) -> Iterator[str]:
    """Yield a line for each heading with a value, with the value beside the heading."""
    wide = max(map(text_columns, headings))
    kept = min(wide, TABLE_COLUMNS_MAX // 2)
    for heading, cell in zip(headings, cells, strict=True):
        if not cell:
            continue
        name = _wrap(heading, kept)
        value = _wrap(cell, TABLE_COLUMNS_MAX - kept - len(_GAP))
        for left, right in zip_longest(name, value, fillvalue=""):
            yield f"{_pad(left, kept, number=False)}{_GAP}{right}".rstrip()
