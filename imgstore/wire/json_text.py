"""JSON as text: amounts of money exactly as they were reckoned, instants as Azure writes them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias

Json: TypeAlias = Any
"""None, bool, int, float, Decimal, str, and lists and dicts of these."""

_INDENT: Final = "  "


def instant(time: datetime) -> str:
    """`time` as Azure writes it: seven decimals and the offset."""
    return f"{time:%Y-%m-%dT%H:%M:%S.%f}0{time.isoformat()[-6:]}"


def decimal_text(amount: Decimal) -> str:
    """`amount` in full, never as an exponent, without zeros that say nothing: ``0.0123``, ``2``."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def dumps(value: Json) -> str:
    """`value` as JSON, indented as az does.

    The standard encoder knows no Decimal but through float, which would print 0.1 + 0.2 as 0.30000000000000004. So
    ``json.loads(text, parse_float=Decimal)`` gives the very amounts back.
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
