"""Reckons money: pure arithmetic in Decimal over rows that are only ever added."""
