"""Checkpoints: proof in the buckets of how far the catalog had come.

The catalog numbers its events with a sequence that only rises. A work that writes into a slot first leaves an empty
object there whose name holds such a number and a uid, both of which the catalog recorded before. A catalog that does not
know a checkpoint of its own buckets is older than they are: it was restored from a backup, or is another one.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Checkpoint:
    """One number of the catalog's sequence, and the uid that was recorded with it."""

    sequence: int
    uid: str

    @property
    def name(self) -> str:
        """The last part of its object's key. Names sort as sequences do."""
        return f"{self.sequence:020d}-{self.uid}"

    @staticmethod
    def parse(name: str) -> "Checkpoint | None":
        """Read a name back; None for what is no checkpoint's name."""
        digits, dash, uid = name.partition("-")
        return Checkpoint(int(digits), uid) if dash and uid and len(digits) == 20 and digits.isdecimal() else None
