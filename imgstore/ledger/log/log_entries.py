"""The log of sealed entries: leaves, signed checkpoints and keys.

An entry is a row of the table `ledger`, a closed row of `intervals`, or a row of `price_lists`. Its id is "ledger/<key>",
"intervals/<uid>" or "price_lists/<uid>".
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

from imgstore.ledger.log.signed_notes import Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHead:
    """A signed checkpoint of the log."""

    size: int
    """The number of entries."""
    root: str
    """The root hash in base64."""
    note: str
    """The signed text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogKey:
    """A key that signs checkpoints, or has signed checkpoints."""

    kid: str
    """The id in the signatures: 8 hexadecimal digits."""
    number: int
    """1 for the first key."""
    public_key: bytes
    """32 bytes of Ed25519."""
    private_key: bytes | None = field(repr=False)
    """None for a retired key, and for a key that a recovery file did not contain."""
    created_at: datetime
    retired_at: datetime | None = None
    endorsement: str | None = None
    """A note in which the previous key names this key. None for the first key, and after the loss of the previous key."""


FINDINGS_MAX: Final = 1_000


class ReadEntry(NamedTuple):
    """An entry as the catalog has the row now. A tuple, because 10^6 entries are read at once."""

    entry: str
    leaf: str
    """The canonical JSON."""
    time: str | None
    """The time of a transfer or price list, or the end of an interval, as in the leaf.

    None for an open interval, which is no entry.
    """
    position: int | None
    """The position in the log. None for an entry that is not sealed."""
    sealed_hash: bytes | None
    """The hash of the sealed leaf."""
    begin: str | None
    """The begin of an interval, as in the leaf. None for another entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealReport:
    """The result of sealing."""

    sealed: int
    """The number of entries that were sealed now."""
    size: int
    """The number of entries in the log."""
    checkpoint: str | None
    """The newest checkpoint. None before the first entry."""
    refused: "Sequence[LogFinding]" = ()
    """Price lists that no code has written, which are not sealed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryProof:
    """The proof that an entry is in the log."""

    entry: str
    leaf: str
    """The canonical JSON of the entry."""
    index: int
    """The position in the log."""
    checkpoint: Checkpoint
    proof: str
    """The proof and the checkpoint as one text (c2sp.org/tlog-proof)."""
    hashes: int
    """The number of hashes of the proof."""
    verifier_key: str
    """The public key that has signed the checkpoint."""


class LogFindingKind(StrEnum):
    """A kind of difference between the ledger and its log."""

    CHANGED = "changed"
    """An entry whose row has other values than the sealed leaf."""
    MISSING = "missing"
    """A sealed entry without a row."""
    REOPENED = "reopened"
    """A sealed interval without an end."""
    LATE = "late"
    """An entry that was added behind a checkpoint that is newer than the entry."""
    PRICE_LIST = "price-list"
    """A price list whose digest, number or time does not match its prices or the other lists."""
    LEAF = "leaf"
    """A leaf that is missing, or at a wrong position."""
    SUBTREE = "subtree"
    """Leaves whose hashes or order differ from the stored hash of their subtree."""
    CHECKPOINT = "checkpoint"
    """A checkpoint that does not match the leaves, or whose signature is wrong."""
    KEY = "key"
    """A signing key that does not match its public part, or was not named by the previous key."""
    EXTENSION = "extension"
    """A checkpoint of a file or of the buckets that the log does not extend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFinding:
    """A difference between the ledger and its log."""

    kind: LogFindingKind
    subject: str
    """The id of the entry, the positions of leaves, the checkpoint or the key."""
    text: str


class UnsealedCount(NamedTuple):
    """The entries that are not sealed."""

    entries: int
    oldest: datetime | None
    """The time of the oldest entry. None without entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsealedEntry:
    """An entry, or an open storage interval of a past month, that no checkpoint covers yet."""

    entry: str
    time: str
    """The time of the entry, or the begin of an open interval."""
    is_open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketCheckpoint:
    """The newest checkpoint in the buckets of a region."""

    region: str
    note: str | None = None
    """The signed text. None without a checkpoint, and without an answer."""
    problem: str | None = None
    """The reason why the checkpoint is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogVerification:
    """The result of a verification."""

    size: int
    """The number of sealed entries: the leaves of the log, also behind a missing leaf."""
    verified: int
    """The number of sealed entries whose rows were compared."""
    skipped: int
    """The number of older entries whose rows were not read, on request."""
    checkpoints: int
    newest: Checkpoint | None
    unsealed: Sequence[UnsealedEntry]
    findings: Sequence[LogFinding]
    """The first differences, at most `FINDINGS_MAX`."""
    more_findings: int = 0
    extends: Checkpoint | None = None
    """The older checkpoint that was compared."""
    buckets: Sequence[BucketCheckpoint] = ()
    """The newest checkpoint of each region, or the reason why the checkpoint was not compared."""
    keys: Sequence[LogKey] = ()

    @property
    def is_intact(self) -> bool:
        """Whether no difference was found. Entries that are not sealed are no difference."""
        return not self.findings
