"""The minor units of currencies."""

from decimal import Decimal
from typing import Final

_DIGITS: Final = {
    **dict.fromkeys(
        [
            "BIF",
            "CLP",
            "DJF",
            "GNF",
            "ISK",
            "JPY",
            "KMF",
            "KRW",
            "PYG",
            "RWF",
            "UGX",
            "UYI",
            "VND",
            "VUV",
            "XAF",
            "XOF",
            "XPF",
        ],
        0,
    ),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}
"""Digits after the decimal point, where other than two (ISO 4217, list one)."""


def minor_unit(currency: str) -> Decimal:
    """Return the smallest amount of a currency, for example 0.01 for USD and 1 for JPY (ISO 4217, list one)."""
    return Decimal(1).scaleb(-_DIGITS.get(currency, 2))
