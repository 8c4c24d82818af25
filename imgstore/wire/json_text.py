"""Write JSON: amounts of money exactly, and instants in Azure's format."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias

from imgstore.domain.text.decimals import decimal_text

Json: TypeAlias = Any
"""None, bool, int, float, Decimal, str, and lists and dicts of these types."""

_INDENT: Final = "  "


def instant(time: datetime) -> str:
    """Format a time as Azure does, with seven decimals and the offset."""
    return f"{time:%Y-%m-%dT%H:%M:%S.%f}0{time.isoformat()[-6:]}"


def dumps(value: Json) -> str:
    """Format a value as JSON with the indentation of az.

    The standard encoder converts a Decimal to a float and would print 0.1 + 0.2 as 0.30000000000000004. This function
    keeps each digit, so ``json.loads(text, parse_float=Decimal)`` returns the same amounts.
    """
    return "".join(_chunks(value, "\n"))


def _chunks(value: Json, newline: str) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        inner = newline + _INDENT
        opening = "{" + inner
        for key, item in value.items():
            yield f"{opening}{json.dumps(key, ensure_ascii=False)}: "
            yield from _chunks(item, inner)
            opening = "," + inner
        yield newline + "}"
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        inner = newline + _INDENT
        opening = "[" + inner
        for item in value:
            yield opening
            yield from _chunks(item, inner)
            opening = "," + inner
        yield newline + "]"
    else:
        yield decimal_text(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)
