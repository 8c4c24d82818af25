"""Names made from other names, the same that Azure makes: ``guid`` and ``uniqueString`` of templates."""

import uuid
from collections.abc import Sequence
from typing import Final

_GUIDS: Final = uuid.UUID("11fb06fb-712d-4ddd-98c7-e71bbd588830")
"""Azure's namespace, as the Bicep documentation of ``guid`` gives it."""
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz234567"
_BITS: Final = 0xFFFF_FFFF
_LOW, _HIGH = 0x239B_961B, 0xAB0E_9789
"""What the two halves are multiplied by."""


def guid(texts: Sequence[str]) -> str:
    """A UUID of version 5 over the texts with dashes between. Azure gives the same."""
    return str(uuid.uuid5(_GUIDS, "-".join(texts)))


def unique_string(texts: Sequence[str]) -> str:
    """Thirteen letters for the texts with dashes between.

    Azure does not publish how it makes them. This is what its clients' library is known to do, and gives the values that
    were seen there: a hash of 64 bits after MurmurHash3 (Appleby, 2011) of two lanes of 32, five bits a letter, the last
    letter's lowest bit zero. Values that Azure made may differ all the same: read names back from what stands.
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
