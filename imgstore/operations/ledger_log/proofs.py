"""Prove that an entry of the ledger is sealed, without any other entry (invariant M22)."""

from imgstore.domain.errors import Conflict, NotFound, ObjectCorrupt
from imgstore.domain.identity.access import INSTALLATION, Action, Principal
from imgstore.ledger.log.log_entries import EntryProof
from imgstore.ledger.log.merkle_tree import StoredTree, compute_root_of_proof, hash_leaf, prove_inclusion
from imgstore.ledger.log.signed_notes import Checkpoint, format_proof, format_verifier_key, make_origin, read_checkpoint
from imgstore.operations.activity_log import permit
from imgstore.operations.installation import Installation
from imgstore.operations.ledger_entries import find_entry
from imgstore.operations.ledger_log.keys import check_signature


def prove_entry(installation: Installation, principal: Principal, name: str) -> EntryProof:
    """Return the proof that the newest checkpoint covers an entry.

    Args:
        installation: the installation.
        principal: a reader of the charges of the entry's subscription.
        name: the key of a transfer, the uid of a storage interval or a price list, or an id with the name of the table.

    Raises:
        NotFound: the principal can see no such entry.
        AccessDenied: the principal may not read the charges of the installation's subscription, and can see no such entry
            in another subscription.
        Conflict: the entry is not sealed yet.
        ObjectCorrupt: the entry or the log was changed.
    """
    entry, _ = find_entry(
        installation,
        principal,
        name,
        expected="the key of a transfer, or the uid of a closed storage interval or a price list",
        hint="`imgstore bill verify` lists the entries that are not sealed",
    )
    with installation.catalog.reading() as transaction:
        log = transaction.ledger_log
        head = log.newest_head()
        (read,) = log.read_entries([entry])
        if read.time is None and read.position is None:
            raise Conflict(
                f"The storage interval {entry} is open, so the interval is no entry of the ledger yet.",
                found="an interval without an end",
                expected="a closed interval",
                hint="the interval ends when the stored bytes change",
                target="entry",
            )
        if read.position is None:
            raise Conflict(
                f"The entry {entry} is not sealed yet.",
                found=f"an entry of {read.time} without a position in the log",
                expected="a sealed entry",
                hint="wait for the next run of a worker, or run `imgstore bill seal`",
                target="entry",
            )
        if head is None:
            raise _changed_error(entry, "no checkpoint")
        try:
            path = prove_inclusion(StoredTree(log), read.position, head.size)
        except LookupError as error:
            raise _changed_error(entry, str(error)) from error
        origin = make_origin(transaction.installation.get().uid)
        keys = log.list_keys()
    try:
        checkpoint = read_checkpoint(head.note, origin, [key.public_key for key in keys], check_signature)
    except ValueError as error:
        raise _changed_error(entry, f"the newest checkpoint is not valid: {error}") from error
    root = compute_root_of_proof(hash_leaf(read.leaf.encode()), read.position, checkpoint.size, path)
    if root != checkpoint.root:
        raise _changed_error(entry, "a row or a leaf with other values")
    return EntryProof(
        entry=entry,
        leaf=read.leaf,
        index=read.position,
        checkpoint=checkpoint,
        proof=format_proof(read.position, path, head.note),
        hashes=len(path),
        verifier_key=format_verifier_key(origin, checkpoint.signed_by[-1]),
    )


def show_checkpoint(installation: Installation, principal: Principal) -> tuple[str, Checkpoint]:
    """Return the newest signed checkpoint as text, and its content.

    Raises:
        NotFound: no entry is sealed.
        ObjectCorrupt: the checkpoint was changed.
        AccessDenied: the principal may not read the installation.
    """
    permit(installation, principal, Action.READ, INSTALLATION)
    with installation.catalog.reading() as transaction:
        head, keys = transaction.ledger_log.newest_head(), transaction.ledger_log.list_keys()
        origin = make_origin(transaction.installation.get().uid)
    if head is None:
        raise NotFound(
            "The log of the ledger has no checkpoint yet.",
            found="no sealed entry",
            expected="a checkpoint, which a worker makes once an hour",
            hint="run `imgstore bill seal`",
            target="checkpoint",
        )
    try:
        return head.note, read_checkpoint(head.note, origin, [key.public_key for key in keys], check_signature)
    except ValueError as error:
        raise ObjectCorrupt(
            "The newest checkpoint of the ledger's log was changed.",
            found=str(error),
            expected="a checkpoint with a signature of this installation",
            hint="`imgstore bill verify` names the differences",
            target="checkpoint",
        ) from error


def _changed_error(entry: str, found: str) -> ObjectCorrupt:
    return ObjectCorrupt(
        f"The entry {entry} cannot be proven, because the ledger or its log was changed.",
        found=found,
        expected="the values that were sealed",
        hint="`imgstore bill verify` names the differences",
        target="entry",
    )
