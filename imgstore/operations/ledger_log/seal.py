"""Seal entries of the ledger into the log (invariants M20 and M21).

A worker seals the entries in batches after the transactions that added the entries. A batch is one transaction with the
leaves, the hashes of subtrees and a signed checkpoint. So sealing may be killed and repeated at any time. Checkpoints are
also objects in the buckets: `ledger/checkpoints/<uid>/<size>`.
"""

import base64
from collections.abc import Sequence
from typing import Final

from imgstore.catalog import Transaction
from imgstore.domain.effects import Effects
from imgstore.domain.errors import CatalogOutdated, Conflict, ImgstoreError, ObjectCorrupt, StoreMismatch
from imgstore.domain.identity.access import INSTALLATION, Action, Principal
from imgstore.domain.storage.object_keys import ledger_checkpoint_key
from imgstore.ledger.log.checkpoint_lines import Coverage, format_lines, read_coverage
from imgstore.ledger.log.lateness import LATE_ENTRY, Border, read_time
from imgstore.ledger.log.log_entries import LogFinding, LogFindingKind, LogHead, SealReport
from imgstore.ledger.log.merkle_tree import StoredTree, compute_root, hash_leaf
from imgstore.ledger.log.signed_notes import make_origin, read_checkpoint, sign_checkpoint
from imgstore.ledger.prices.recorded_lists import find_price_list_faults
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation
from imgstore.operations.ledger_log.keys import check_signature, ensure_signing_key, sign_with
from imgstore.operations.ledger_log.settlement import settle_months
from imgstore.operations.revisions import list_used_regions, write_ledger_checkpoints

_ENTRIES_AT_ONCE: Final = 2_000
"""Entries of one transaction, about 0.3 s. Other processes wait for the transaction on SQLite."""


def seal_now(installation: Installation, principal: Principal) -> SealReport:
    """Settle the past months, seal all entries, and write the checkpoint and the new rows of the ledger into the buckets.

    Raises:
        ObjectCorrupt: the log does not match its newest checkpoint, so nothing was sealed.
        CatalogOutdated: the catalog is older than its buckets.
        StoreError: a bucket does not take the checkpoint. The entries are sealed.
        AccessDenied: the principal is no administrator of the installation.
    """
    with record_activity(installation, principal, Action.ADMINISTER, INSTALLATION, "imgstore/bill/seal"):
        with installation.catalog.reading() as transaction:
            outdated = transaction.installation.get().outdated
        if outdated is not None:
            raise CatalogOutdated(
                "The catalog is older than its buckets, so nothing is sealed.",
                found=outdated,
                expected="a catalog with all entries of the ledger",
                hint="take the newer entries with `imgstore catalog adopt` first",
                target="catalog",
            )
        settle_months(installation)
        report = seal_entries(installation)
        write_log_checkpoint(installation)
        write_ledger_checkpoints(installation)
        return report


def seal_entries(installation: Installation) -> SealReport:
    """Seal all entries that are not sealed. May be killed and repeated. An outdated catalog seals nothing.

    Raises:
        ObjectCorrupt: the log does not match its newest checkpoint, so nothing was sealed.
    """
    catalog = installation.catalog.without_operation
    with catalog.reading() as transaction:
        is_outdated = transaction.installation.get().outdated is not None
        now = transaction.now()
        coverage = Coverage(complete_until=now, open_since=transaction.ledger.find_oldest_open() or now)
        waiting = [] if is_outdated else [each.entry for each in transaction.ledger_log.list_unsealed()]
        refused = _find_refused(transaction, waiting)
        head = transaction.ledger_log.newest_head()
        is_complete = is_outdated or _matches(transaction, head)
    if not is_complete:
        with catalog.transaction() as transaction:
            _repair_subtrees(transaction)
    subjects = {each.subject for each in refused}
    waiting = [entry for entry in waiting if entry not in subjects]
    sealed = 0
    for at in range(0, len(waiting), _ENTRIES_AT_ONCE):
        installation.keeper.check_cancelled()
        batch = waiting[at : at + _ENTRIES_AT_ONCE]
        # A killed run leaves entries, so only the last checkpoint of a run states a coverage.
        found = coverage if at + len(batch) == len(waiting) else None
        with catalog.transaction() as transaction:
            sealed += _seal_batch(transaction, installation.effects, batch, found)
    with catalog.reading() as transaction:
        head = transaction.ledger_log.newest_head()
    return SealReport(
        sealed=sealed,
        size=0 if head is None else head.size,
        checkpoint=None if head is None else head.note,
        refused=refused,
    )


def write_log_checkpoint(installation: Installation) -> int:
    """Write the newest checkpoint into each used region, unless the region has the checkpoint. May be repeated.

    Returns:
        The number of regions that took the checkpoint now. Regions without an answer are skipped.

    Raises:
        StoreMismatch: a region has another checkpoint of the same size, so another catalog has sealed other entries.
    """
    with installation.catalog.reading() as transaction:
        own, head = transaction.installation.get(), transaction.ledger_log.newest_head()
        regions = list_used_regions(installation, transaction)
    if head is None or own.outdated is not None:
        return 0
    written = 0
    for region in regions:
        try:
            written += _put_checkpoint(installation, region, head)
        except StoreMismatch:
            raise
        except ImgstoreError as error:  # The next run repeats the put.
            installation.note("ledger", f"{region} has not taken the newest checkpoint of the log: {error.message}")
    return written


def _put_checkpoint(installation: Installation, region: str, head: LogHead) -> bool:
    store, key = installation.locator.installation_store(region), ledger_checkpoint_key(installation.uid, head.size)
    try:
        store.put(key, head.note.encode(), only_if_absent=True)
    except Conflict:
        found = store.get(key).decode(errors="replace")
        text = head.note.rpartition("\n\n")[0]
        if found.rpartition("\n\n")[0] != text:
            raise StoreMismatch(
                f"{store.name} has another checkpoint of the ledger's log with {head.size} entries.",
                found=found.partition("\n\n")[0].replace("\n", " "),
                expected=text.replace("\n", " "),
                hint="another catalog has sealed other entries: compare with `imgstore bill verify --checkpoint FILE`",
                target=key,
            ) from None
        return False
    return True


def _find_refused(transaction: Transaction, waiting: Sequence[str]) -> list[LogFinding]:
    """Return the faults of price lists that are not sealed yet. A statement applies a price list to all later entries."""
    log = transaction.ledger_log
    lists = {entry for entry in waiting if entry.startswith("price_lists/")}
    if not lists:
        return []
    border, head = Border(newest=read_time(log.find_newest_sealed_time() or "")), log.newest_head()
    if head is not None:
        _add_coverage(transaction, head, border)
    present = log.list_price_lists()
    faults = [
        LogFinding(kind=LogFindingKind.PRICE_LIST, subject=entry, text=text)
        for entry, text in find_price_list_faults([(each.entry, each.leaf) for each in present])
    ]
    late = [
        LogFinding(kind=LogFindingKind.LATE, subject=each.entry, text=LATE_ENTRY)
        for each in present
        if border.is_late(read_time(each.time or ""))
    ]
    return [each for each in (*faults, *late) if each.subject in lists]


def _add_coverage(transaction: Transaction, head: LogHead, border: Border) -> None:
    origin = make_origin(transaction.installation.get().uid)
    keys = [key.public_key for key in transaction.ledger_log.list_keys()]
    try:
        coverage = read_coverage(read_checkpoint(head.note, origin, keys, check_signature).extension)
    except ValueError:  # A verification reports such a checkpoint, and the next batch refuses other leaves.
        return
    if coverage is not None:
        border.add_coverage(coverage)


def _seal_batch(transaction: Transaction, effects: Effects, waiting: list[str], coverage: Coverage | None) -> int:
    """Seal entries in one transaction, without those that another process has sealed. Return the number of entries."""
    log, own = transaction.ledger_log, transaction.installation.get()
    log.lock()
    leaves = [
        (each.entry, hash_leaf(each.leaf.encode()))
        for each in log.read_entries(waiting)
        if each.position is None and each.time is not None
    ]
    if not leaves or own.outdated is not None:
        return 0
    head = log.newest_head()
    if not _matches(transaction, head):
        raise _mismatch_error(head)
    before = 0 if head is None else head.size
    key, private_key = ensure_signing_key(transaction, effects)
    log.append(before, leaves)
    size = before + len(leaves)
    root = compute_root(StoredTree(log), size)
    note = sign_checkpoint(
        make_origin(own.uid),
        size,
        root,
        key.public_key,
        sign_with(private_key),
        signed_at=transaction.now(),
        extension=format_lines(coverage, head, key),
    )
    log.add_head(LogHead(size=size, root=base64.b64encode(root).decode("ascii"), note=note))
    return len(leaves)


def _matches(transaction: Transaction, head: LogHead | None) -> bool:
    """Return whether the stored hashes give the root of the newest checkpoint. A log never signs other hashes."""
    log = transaction.ledger_log
    if log.next_position() != (0 if head is None else head.size):
        return False
    if head is None:
        return True
    try:
        return base64.b64encode(compute_root(StoredTree(log), head.size)).decode("ascii") == head.root
    except LookupError:
        return False


def _repair_subtrees(transaction: Transaction) -> None:
    """Compute the hashes of subtrees again, which are derived from the leaves.

    Raises:
        ObjectCorrupt: the leaves do not match the newest checkpoint.
    """
    log = transaction.ledger_log
    log.lock()
    head = log.newest_head()
    if not log.rebuild_subtrees() or not _matches(transaction, head):
        raise _mismatch_error(head)


def _mismatch_error(head: LogHead | None) -> ObjectCorrupt:
    return ObjectCorrupt(
        "The log of the ledger does not match its newest checkpoint, so nothing was sealed.",
        found="other leaves in the catalog",
        expected="no leaf" if head is None else f"the root {head.root} of {head.size} entries",
        hint="`imgstore bill verify` names the differences; restore the catalog from a backup, or `imgstore catalog rebuild`",
        target="ledger",
    )
