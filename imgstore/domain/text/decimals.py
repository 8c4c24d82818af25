"""Decimals as text."""

from decimal import Decimal


def decimal_text(value: Decimal) -> str:
    """Format a decimal in full, without an exponent and without trailing zeros: ``0.0123``, ``2``. -0 is ``0``."""
    text = format(value or Decimal(0), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
