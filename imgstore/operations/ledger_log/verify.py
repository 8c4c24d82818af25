"""Verify the ledger against the log of its sealed entries (invariant M22).

The leaves of the log are the basis. Each leaf is compared with the row of its entry, and the tree of all leaves with each
signed checkpoint. So a change of a row shows the entry, and a change of a row together with its leaf shows the checkpoint
and the block of 256 leaves.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from imgstore.catalog import Transaction
from imgstore.domain.errors import InvalidInput
from imgstore.domain.identity.access import INSTALLATION, Action, Principal
from imgstore.ledger.log.checkpoint_lines import Coverage, find_line_faults, read_coverage
from imgstore.ledger.log.lateness import (
    LATE_BEGIN,
    LATE_END,
    LATE_ENTRY,
    Border,
    EntryTimes,
    find_displaced,
    find_late,
    is_continued,
    read_time,
)
from imgstore.ledger.log.log_entries import (
    FINDINGS_MAX,
    BucketCheckpoint,
    LogFinding,
    LogFindingKind,
    LogHead,
    LogKey,
    LogVerification,
    ReadEntry,
    UnsealedEntry,
)
from imgstore.ledger.log.merkle_tree import (
    HASH_BYTES,
    STORED_LEVELS,
    MemoryTree,
    StoredTree,
    compute_root,
    is_hash,
)
from imgstore.ledger.log.signed_notes import (
    Checkpoint,
    UnknownKeyError,
    check_endorsement,
    make_key_id,
    make_origin,
    read_checkpoint,
)
from imgstore.ledger.months import Month
from imgstore.ledger.prices.recorded_lists import find_price_list_faults
from imgstore.ledger.storage.periods import derive_uid
from imgstore.operations.activity_log import permit
from imgstore.operations.installation import Installation
from imgstore.operations.ledger_log.bucket_checkpoints import read_bucket_checkpoints
from imgstore.operations.ledger_log.keys import check_signature, find_public_key
from imgstore.operations.ledger_log.settlement import find_month_end

SECONDS_MAX: Final = 10.0
"""The default time limit for the answers of all regions."""
_POSITIONS_MAX: Final = 10
_INTERVALS: Final = "intervals/"
_BLOCK: Final = 1 << STORED_LEVELS
_KEY_BYTES: Final = 32


def verify_log(
    installation: Installation,
    principal: Principal,
    *,
    older: str | None = None,
    newer_only: bool = False,
    seconds_max: float = SECONDS_MAX,
) -> LogVerification:
    """Compare the ledger, the leaves, the checkpoints and the keys with each other, and the log with the buckets.

    Args:
        installation: the installation.
        principal: an operator.
        older: the text of a checkpoint that was kept elsewhere. The log must extend the checkpoint.
        newer_only: leave out the rows and the leaves of entries that `older` covers. The stored hashes of subtrees must
            give the root of `older`.
        seconds_max: the time limit for the answers of all regions. A region without an answer is left out.

    Raises:
        InvalidInput: `older` is no checkpoint of this log, or is missing with `newer_only`.
        AccessDenied: the principal may not read the installation.
    """
    permit(installation, principal, Action.READ, INSTALLATION)
    if newer_only and older is None:
        raise InvalidInput(
            "A verification of newer entries alone needs an older checkpoint.",
            found="no checkpoint",
            expected="a file with a checkpoint of this log",
            hint="name the file with --checkpoint",
            target="checkpoint",
        )
    # Before the snapshot of the catalog: a checkpoint is in the catalog first.
    buckets = read_bucket_checkpoints(installation, seconds_max)
    with installation.catalog.reading() as transaction:
        origin = make_origin(transaction.installation.get().uid)
        month_end = find_month_end(transaction, installation)
        return _Verification(transaction, origin, month_end).run(older, newer_only=newer_only, buckets=buckets)


@dataclass(slots=True)
class _Verification:
    """The state of a verification in one snapshot."""

    transaction: Transaction
    origin: str
    month_end: datetime
    """The end of the last month that has ended."""
    findings: list[LogFinding] = field(default_factory=list)
    more_findings: int = 0

    def run(self, older: str | None, *, newer_only: bool, buckets: Sequence[BucketCheckpoint] = ()) -> LogVerification:
        """Compare everything. See `verify_log`."""
        log = self.transaction.ledger_log
        keys, heads = log.list_keys(), self._check_heads(log.list_heads())
        public_keys = self._check_keys(keys, heads)
        checkpoints = {head.size: self._read_head(head, public_keys) for head in heads}
        extended = None if older is None else self._read_older(older, public_keys)
        end = log.next_position()
        first = min(extended.size, end) // _BLOCK * _BLOCK if newer_only and extended is not None else 0
        coverages = [
            (found.size, read_coverage(found.extension)) for found in checkpoints.values() if found is not None
        ]
        self._check_lines(heads, checkpoints, keys)
        hashes, times, verified, unsealed = self._compare_rows(
            first, end, [(covered, coverage) for covered, coverage in coverages if coverage is not None]
        )
        self._compare_price_lists()
        tree = MemoryTree(hashes, first, StoredTree(log))
        in_order = first + len(hashes) // HASH_BYTES
        self._compare_subtrees(tree, first, in_order)
        self._compare_roots(tree, first, in_order, heads, times)
        newest = heads[-1].size if heads else 0
        if newest < in_order:
            text = f"the newest checkpoint does not cover all {in_order} leaves"
            self._add(LogFindingKind.CHECKPOINT, str(newest), text)
        if extended is not None:
            self._compare_older(tree, in_order, extended)
        for bucket in buckets:
            self._compare_bucket(tree, in_order, bucket, public_keys)
        return LogVerification(
            size=log.count_leaves(),
            verified=verified,
            skipped=first,
            checkpoints=len(heads),
            newest=checkpoints.get(newest),
            unsealed=unsealed,
            findings=self.findings,
            more_findings=self.more_findings,
            extends=extended,
            buckets=buckets,
            keys=keys,
        )

    def _add(self, kind: LogFindingKind, subject: str, text: str) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(LogFinding(kind=kind, subject=subject, text=text))
        else:
            self.more_findings += 1

    def _check_lines(
        self, heads: Sequence[LogHead], checkpoints: Mapping[int, Checkpoint | None], keys: Sequence[LogKey]
    ) -> None:
        """Compare the checkpoints with each other and with the keys."""
        reported: set[tuple[str, str]] = set()
        for previous, head in zip([None, *heads], heads, strict=False):
            found = checkpoints[head.size]
            for kid, text in [] if found is None else find_line_faults(found.extension, previous, keys):
                if not kid:
                    self._add(LogFindingKind.CHECKPOINT, str(head.size), text)
                elif (kid, text) not in reported:
                    reported.add((kid, text))
                    self._add(LogFindingKind.KEY, kid, text)

    def _check_heads(self, heads: Sequence[Any]) -> list[LogHead]:
        """Return the checkpoints with usable columns. SQLite stores any value in any column."""
        usable: list[LogHead] = []
        for head in heads:
            if isinstance(head.size, int) and isinstance(head.root, str) and isinstance(head.note, str):
                usable.append(head)
            else:
                self._add(LogFindingKind.CHECKPOINT, str(head.size), "a column has a value of a wrong type")
        return usable

    def _check_keys(self, keys: Sequence[LogKey], heads: Sequence[LogHead]) -> list[bytes]:
        """Return the usable public keys."""
        usable: list[bytes] = []
        if keys and not heads:
            self._add(
                LogFindingKind.CHECKPOINT, "none", "the log has keys and no checkpoint, so the checkpoints were removed"
            )
        for place, key in enumerate(keys):
            former = keys[place - 1] if place else None
            if not isinstance(key.public_key, bytes) or len(key.public_key) != _KEY_BYTES:
                self._add(LogFindingKind.KEY, key.kid, "the public key has a wrong length")
                continue
            usable.append(key.public_key)
            if key.kid != make_key_id(self.origin, key.public_key) or key.number != place + 1:
                self._add(
                    LogFindingKind.KEY, key.kid, "the id or the number of the key does not belong to the public key"
                )
            if former is not None and former.retired_at != key.created_at:
                self._add(LogFindingKind.KEY, key.kid, "the previous key was not retired when this key was made")
            if key.private_key is not None and not _fits(key):
                self._add(LogFindingKind.KEY, key.kid, "the private key does not belong to the public key")
            if key.endorsement is not None:
                try:
                    public_key = b"" if former is None else former.public_key
                    check_endorsement(key.endorsement, self.origin, key.public_key, public_key, check_signature)
                except ValueError as error:
                    self._add(LogFindingKind.KEY, key.kid, f"the previous key has not named this key: {error}")
        return usable

    def _read_head(self, head: LogHead, public_keys: Sequence[bytes]) -> Checkpoint | None:
        try:
            checkpoint = read_checkpoint(head.note, self.origin, public_keys, check_signature, is_own=True)
        except ValueError as error:
            self._add(LogFindingKind.CHECKPOINT, str(head.size), f"the signed text is not valid: {error}")
            return None
        if checkpoint.size != head.size or _encode(checkpoint.root) != head.root:
            self._add(LogFindingKind.CHECKPOINT, str(head.size), "size or root differ from the signed text")
        return checkpoint

    def _read_older(self, note: str, public_keys: Sequence[bytes]) -> Checkpoint | None:
        """Read the checkpoint that was kept elsewhere.

        Raises:
            InvalidInput: the text is no checkpoint of this log.
        """
        try:
            return read_checkpoint(note, self.origin, public_keys, check_signature)
        except UnknownKeyError:
            self._add(LogFindingKind.EXTENSION, "checkpoint", "no key of this log has signed the older checkpoint")
            return None
        except ValueError as error:
            raise InvalidInput(
                "The file has no checkpoint of this log.",
                found=str(error),
                expected="the output of `imgstore bill checkpoint` of this installation",
                hint="name another file",
                target="checkpoint",
            ) from error

    def _compare_rows(
        self, first: int, size: int, coverages: Sequence[tuple[int, Coverage]]
    ) -> tuple[bytearray, EntryTimes, int, list[UnsealedEntry]]:
        """Compare each row with its leaf.

        Returns:
            The hashes of the leaves up to the first missing leaf, the times of the equal rows, their number, and the
            entries that are not sealed.
        """
        log = self.transaction.ledger_log
        count = min(size - first, log.count_leaves())
        hashes, seen, times = bytearray(count * HASH_BYTES), bytearray(count), EntryTimes(count)
        unsealed: list[ReadEntry] = []
        equal, sha256 = 0, hashlib.sha256
        for read in log.stream_entries(first):
            entry, leaf, time, position, sealed_hash, begin = read
            if position is None:
                unsealed.append(read)
                continue
            place = position - first if isinstance(position, int) else -1
            if 0 <= place < count and is_hash(sealed_hash):
                seen[place] = 1
                hashes[place * HASH_BYTES : (place + 1) * HASH_BYTES] = sealed_hash
            if time is None:
                self._add(LogFindingKind.REOPENED, entry, "the storage interval is sealed, and has no end now")
            elif sha256(b"\x00" + leaf.encode()).digest() != sealed_hash:
                self._add(LogFindingKind.CHANGED, entry, "the row has other values than the sealed entry")
            else:
                equal += 1
                if 0 <= place < count:
                    times.add(place, begin, time)
        if 0 in seen:
            self._find_missing(first, hashes, seen)
        border = self._find_late(first, times, coverages, unsealed)
        found = [UnsealedEntry(entry=each.entry, time=str(each.time)) for each in unsealed]
        return hashes, times, equal, [*found, *self._check_open_intervals(border)]

    def _check_open_intervals(self, border: Border) -> list[UnsealedEntry]:
        """Report open intervals that an older checkpoint excludes. Return the open intervals of past months."""
        found: list[UnsealedEntry] = []
        for entry, begin in self.transaction.ledger_log.stream_open_intervals():
            opened_at = read_time(begin)
            if border.is_opened_late(opened_at):
                self._add(LogFindingKind.LATE, entry, LATE_BEGIN)
            if opened_at < self.month_end.timestamp():
                found.append(UnsealedEntry(entry=entry, time=begin, is_open=True))
        return found

    def _find_missing(self, first: int, hashes: bytearray, seen: bytearray) -> None:
        """Report leaves without a row, and positions without a leaf. Cut the hashes at the first missing leaf."""
        for position, entry, found in self.transaction.ledger_log.stream_leaves(first):
            place = position - first if isinstance(position, int) else -1
            if not 0 <= place < len(seen) or not is_hash(found):
                self._add(LogFindingKind.LEAF, str(position), f"the leaf of {entry} has no usable position or hash")
            elif not seen[place]:
                seen[place] = 1
                hashes[place * HASH_BYTES : (place + 1) * HASH_BYTES] = found
                self._add(LogFindingKind.MISSING, str(entry), f"the row of the sealed entry {position} is missing")
        gap = seen.find(0)
        if gap >= 0:
            self._add(LogFindingKind.LEAF, str(first + gap), f"the log has no leaf at the position {first + gap}")
            del hashes[gap * HASH_BYTES :]

    def _find_late(
        self,
        first: int,
        times: EntryTimes,
        coverages: Sequence[tuple[int, Coverage]],
        unsealed: Sequence[ReadEntry],
    ) -> Border:
        """Report entries that were added behind a checkpoint that should cover the entries.

        Returns:
            The border for open intervals.
        """
        late, border = find_late(times, first, coverages)
        ended: list[ReadEntry] = []
        if late.entries or late.opened or late.ended:
            names: list[str] = []
            for position, entry, _ in self.transaction.ledger_log.stream_leaves(first):
                if position - first in late.entries:
                    self._add(LogFindingKind.LATE, str(entry), LATE_ENTRY)
                elif position - first in late.opened:
                    self._add(LogFindingKind.LATE, str(entry), LATE_BEGIN)
                elif position - first in late.ended:
                    names.append(str(entry))
            ended += self.transaction.ledger_log.read_entries(names)
        for each in unsealed:
            if each.begin is None:
                if border.is_late(read_time(each.time or "")):
                    self._add(LogFindingKind.LATE, each.entry, LATE_ENTRY)
            elif border.is_opened_late(read_time(each.begin)):
                self._add(LogFindingKind.LATE, each.entry, LATE_BEGIN)
            elif border.is_late(read_time(each.time or "")):
                ended.append(each)
        for entry in self._find_unsettled(ended):
            self._add(LogFindingKind.LATE, entry, LATE_END)
        return border

    def _find_unsettled(self, ended: Sequence[ReadEntry]) -> list[str]:
        """Return the intervals that no settlement has closed, because no interval continues them from a month end on."""
        following: dict[str, str] = {}
        for each in ended:
            end = datetime.fromtimestamp(read_time(each.time or ""), UTC)
            if end == Month.of(end).begin:
                following[each.entry] = _INTERVALS + derive_uid(each.entry.removeprefix(_INTERVALS), end)
        found = {each.entry: each.leaf for each in self.transaction.ledger_log.read_entries(following.values())}
        return [
            each.entry
            for each in ended
            if (leaf := found.get(following.get(each.entry, ""))) is None or not is_continued(each.leaf, leaf)
        ]

    def _compare_price_lists(self) -> None:
        lists = [(each.entry, each.leaf) for each in self.transaction.ledger_log.list_price_lists()]
        for entry, text in find_price_list_faults(lists):
            self._add(LogFindingKind.PRICE_LIST, entry, text)

    def _compare_subtrees(self, tree: MemoryTree, first: int, size: int) -> None:
        """Compare the stored hashes of subtrees with the leaves."""
        expected: set[tuple[int, int]] = set()
        level, width = 1, _BLOCK
        while width <= size:
            expected |= {(level, number) for number in range(first // width, size // width)}
            level, width = level + 1, width * _BLOCK
        for level, number, found in self.transaction.ledger_log.list_subtrees():
            if (level, number) in expected:
                expected.remove((level, number))
                if found == _find_node(tree, level * STORED_LEVELS, number):
                    continue
            elif (
                first and isinstance(level, int) and isinstance(number, int) and number < first >> level * STORED_LEVELS
            ):
                continue
            self._add(
                LogFindingKind.SUBTREE, _positions(level, number), "the stored hash of these leaves is another one"
            )
        for level, number in sorted(expected):
            self._add(LogFindingKind.SUBTREE, _positions(level, number), "the stored hash of these leaves is missing")

    def _compare_roots(
        self, tree: MemoryTree, first: int, size: int, heads: Sequence[LogHead], times: EntryTimes
    ) -> None:
        """Compare the roots of the leaves with the checkpoints. Leaves out of the order of time come first."""
        begins = {head.size: begin for begin, head in zip([0, *(each.size for each in heads)], heads, strict=False)}
        wrong = [head for head in heads if first < head.size <= size and _find_root(tree, head.size) != head.root]
        for head in wrong:
            displaced = find_displaced(times, first, begins[head.size], head.size)
            if displaced:
                names = ", ".join(str(position) for position in displaced[:_POSITIONS_MAX])
                self._add(
                    LogFindingKind.LEAF, names, "the leaves of these positions are not in the order of their times"
                )
        for head in heads:
            if head.size > size:
                self._add(LogFindingKind.CHECKPOINT, str(head.size), f"the log has only {size} leaves in order")
            elif wrong and head is wrong[0]:
                text = f"the leaves {begins[head.size]} to {head.size - 1} give another root than the checkpoint"
                self._add(LogFindingKind.CHECKPOINT, str(head.size), text)
            elif head in wrong:
                self._add(LogFindingKind.CHECKPOINT, str(head.size), "the leaves give another root than the checkpoint")

    def _compare_older(self, tree: MemoryTree, size: int, older: Checkpoint) -> None:
        if older.size > size:
            text = f"the older checkpoint has {older.size} entries, and the log has only {size} leaves in order"
            self._add(LogFindingKind.EXTENSION, str(older.size), text)
        elif _find_root(tree, older.size) != _encode(older.root):
            text = "the log does not extend the older checkpoint: sealed entries were replaced"
            self._add(LogFindingKind.EXTENSION, str(older.size), text)

    def _compare_bucket(
        self, tree: MemoryTree, size: int, bucket: BucketCheckpoint, public_keys: Sequence[bytes]
    ) -> None:
        """Compare the log with the newest checkpoint of a region."""
        if bucket.note is None:
            return
        subject = f"region {bucket.region}"
        try:
            found = read_checkpoint(bucket.note, self.origin, public_keys, check_signature)
        except UnknownKeyError:
            self._add(
                LogFindingKind.EXTENSION, subject, "no key of this log has signed the newest checkpoint of the region"
            )
            return
        except ValueError as error:
            text = f"the newest checkpoint of the region is not valid: {error}"
            self._add(LogFindingKind.CHECKPOINT, subject, text)
            return
        if found.size > size:
            text = (
                f"the region has a checkpoint with {found.size} entries, and the log has only {size} leaves in order: entries "
                "were removed, or the catalog is older than its buckets (`imgstore catalog adopt`)"
            )
            self._add(LogFindingKind.EXTENSION, subject, text)
        elif _find_root(tree, found.size) != _encode(found.root):
            text = "the log does not extend the newest checkpoint of the region: sealed entries were replaced"
            self._add(LogFindingKind.EXTENSION, subject, text)


def _find_node(tree: MemoryTree, level: int, index: int) -> bytes | None:
    """Return the hash of a subtree, or None if a stored hash is missing."""
    try:
        return tree.node(level, index)
    except LookupError:
        return None


def _find_root(tree: MemoryTree, size: int) -> str | None:
    """Return a root in base64, or None if a stored hash is missing."""
    try:
        return _encode(compute_root(tree, size))
    except LookupError:
        return None


def _encode(root: bytes) -> str:
    return base64.b64encode(root).decode("ascii")


def _fits(key: LogKey) -> bool:
    try:
        return find_public_key(key.private_key or b"") == key.public_key
    except (TypeError, ValueError):
        return False


def _positions(level: object, number: object) -> str:
    if not isinstance(level, int) or not isinstance(number, int) or not 0 < level < STORED_LEVELS:
        return f"level {level}, number {number}"
    width = 1 << level * STORED_LEVELS
    return f"leaves {number * width} to {(number + 1) * width - 1}"
