"""The template functions ``guid`` and ``uniqueString``, compatible with Azure."""

import uuid
from collections.abc import Sequence
from typing import Final

_GUIDS: Final = uuid.UUID("11fb06fb-712d-4ddd-98c7-e71bbd588830")
"""Azure's namespace, from the Bicep documentation of ``guid``."""
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz234567"
_BITS: Final = 0xFFFF_FFFF
_LOW, _HIGH = 0x239B_961B, 0xAB0E_9789
"""The multipliers of the two halves."""


def guid(texts: Sequence[str]) -> str:
    """Return the version 5 UUID of the texts, joined with dashes. Azure returns the same value."""
    return str(uuid.uuid5(_GUIDS, "-".join(texts)))


def unique_string(texts: Sequence[str]) -> str:
    """Return thirteen letters for the texts, joined with dashes.

    Azure does not publish the algorithm. This function follows a known client library, and returns the values that were
    observed in Azure. The algorithm is a 64-bit hash after MurmurHash3 (Appleby, 2011) with two 32-bit lanes. Each
    letter encodes five bits, and the lowest bit of the last letter is zero. Azure's values may still differ, so read
    names from existing resources.
    """
    value = _hash64("-".join(texts).encode()) << 1
    return "".join(_LETTERS[value >> shift & 31] for shift in range(60, -1, -5))


def _hash64(data: bytes) -> int:
    one = two = 0
    whole = len(data) - len(data) % 8
    for at in range(0, whole, 8):
        one ^= _scramble_first(data[at : at + 4])
        one = (_rotate(one, 19) + two) * 5 + 0x561C_CD1B & _BITS
        two ^= _scramble_second(data[at + 4 : at + 8])
        two = (_rotate(two, 13) + one) * 5 + 0x0BCA_A747 & _BITS
    one ^= _scramble_first(data[whole : whole + 4])
    two ^= _scramble_second(data[whole + 4 :])
    two ^= len(data)
    one = (one ^ len(data)) + two & _BITS
    two = two + one & _BITS
    one, two = _mix(one), _mix(two)
    one = one + two & _BITS
    return (two + one & _BITS) << 32 | one


def _scramble_first(piece: bytes) -> int:
    return _rotate(int.from_bytes(piece, "little") * _LOW & _BITS, 15) * _HIGH & _BITS


def _scramble_second(piece: bytes) -> int:
    return _rotate(int.from_bytes(piece, "little") * _HIGH & _BITS, 17) * _LOW & _BITS


def _rotate(value: int, by: int) -> int:
    return (value << by | value >> 32 - by) & _BITS


def _mix(value: int) -> int:
    value = (value ^ value >> 16) * 0x85EB_CA6B & _BITS
    value = (value ^ value >> 13) * 0xC2B2_AE35 & _BITS
    return value ^ value >> 16
