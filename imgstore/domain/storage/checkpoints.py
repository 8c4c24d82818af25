"""Checkpoints: proofs in the buckets of the age of the catalog (invariant G15).

The catalog numbers events with a rising sequence. A work that writes first puts an empty object into the slot's zone.
The name contains a number of the sequence and a uid, and the catalog recorded both before. A catalog without a
checkpoint of a bucket is therefore older than the bucket: an older backup, or another catalog.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Checkpoint:
    """A number of the catalog's sequence, with the recorded uid."""

    sequence: int
    uid: str

    @property
    def name(self) -> str:
        """The last part of the object key. Names sort in the order of the sequence."""
        return f"{self.sequence:020d}-{self.uid}"

    @staticmethod
    def parse(name: str) -> "Checkpoint | None":
        """Parse a name. Return None for other names."""
        digits, dash, uid = name.partition("-")
        return Checkpoint(int(digits), uid) if dash and uid and len(digits) == 20 and digits.isdecimal() else None
