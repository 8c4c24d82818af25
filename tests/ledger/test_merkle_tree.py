"""Trees, proofs and signed notes agree with the definitions of RFC 6962 and C2SP, computed in the simplest way (M22)."""

import base64
import hashlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.ledger.log.merkle_tree import (
    HASH_BYTES,
    MemoryTree,
    StoredTree,
    compute_root,
    compute_root_of_proof,
    hash_leaf,
    hash_pair,
    prove_inclusion,
)
from imgstore.ledger.log.signed_notes import (
    UnknownKeyError,
    add_signature,
    check_endorsement,
    endorse_key,
    format_verifier_key,
    make_key_id,
    read_checkpoint,
    sign_checkpoint,
)
from imgstore.operations.ledger_log.keys import check_signature, find_public_key, sign_with

ORIGIN = "imgstore/u/ledger"
SIGNED_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
PRIVATE = [bytes([number]) * 32 for number in range(3)]
PUBLIC = [find_public_key(each) for each in PRIVATE]


def simple_root(leaves: list[bytes]) -> bytes:
    """The definition of MTH in RFC 6962, section 2.1."""
    if len(leaves) < 2:
        return hash_leaf(leaves[0]) if leaves else hashlib.sha256().digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hash_pair(simple_root(leaves[:split]), simple_root(leaves[split:]))


class Stored:
    """Hashes by level, in memory."""

    def __init__(self) -> None:
        self.levels: dict[int, bytearray] = {0: bytearray()}

    def read_hashes(self, level: int, first: int, count: int) -> bytes:
        found = bytes(self.levels.get(level, b"")[first * HASH_BYTES : (first + count) * HASH_BYTES])
        if len(found) != count * HASH_BYTES:
            raise LookupError(level, first, count)
        return found

    def append(self, size: int, leaves: bytes) -> None:
        for level, number, found in list(StoredTree(self).complete_subtrees(size, leaves)):
            assert len(self.levels.setdefault(level, bytearray())) == number * HASH_BYTES
            self.levels[level] += found
        self.levels[0] += leaves


@given(st.lists(st.sampled_from([1, 2, 3, 17, 255, 256, 257, 700]), min_size=1, max_size=5), st.data())
def test_roots_and_proofs_are_those_of_the_definition(batches: list[int], data: st.DataObject) -> None:
    stored, leaves = Stored(), list[bytes]()
    for count in batches:
        new = [b"%d" % (len(leaves) + number) for number in range(count)]
        stored.append(len(leaves), b"".join(map(hash_leaf, new)))
        leaves += new
    size = data.draw(st.integers(1, len(leaves)))
    index = data.draw(st.integers(0, size - 1))
    first = data.draw(st.integers(0, len(leaves)))
    root = simple_root(leaves[:size])
    stored_tree = StoredTree(stored)
    memory = MemoryTree(bytes(stored.levels[0][first * HASH_BYTES :]), first, stored_tree)
    assert compute_root(memory, size) == root
    assert compute_root(MemoryTree(bytes(stored.levels[0])), size) == root
    if size == len(leaves):
        assert compute_root(stored_tree, size) == root
        path = prove_inclusion(stored_tree, index, size)
    else:
        path = prove_inclusion(memory, index, size)
    assert len(path) <= (size - 1).bit_length()
    assert compute_root_of_proof(hash_leaf(leaves[index]), index, size, path) == root
    assert compute_root_of_proof(hash_leaf(b"other"), index, size, path) != root
    if path:
        assert compute_root_of_proof(hash_leaf(leaves[index]), index, size, path[:-1]) != root
    assert compute_root_of_proof(hash_leaf(leaves[index]), index, size, [*path, root]) != root
    assert compute_root_of_proof(hash_leaf(leaves[index]), size, size, path) is None


def test_key_ids_are_those_of_other_programs() -> None:
    """The key of Go's checksum database, as the `go` command has the key."""
    published = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
    public = base64.b64decode(published.split("+", 2)[2])[1:]
    assert make_key_id("sum.golang.org", public) == "033de0ae"
    assert format_verifier_key("sum.golang.org", public) == published


def test_checkpoint_reads_back_and_each_change_is_found() -> None:
    root = hashlib.sha256(b"root").digest()
    note = sign_checkpoint(ORIGIN, 7, root, PUBLIC[0], sign_with(PRIVATE[0]), signed_at=SIGNED_AT)
    read = read_checkpoint(note, ORIGIN, PUBLIC, check_signature)
    assert (read.size, read.root, read.signed_at, read.signed_by) == (7, root, SIGNED_AT, [PUBLIC[0]])
    both = add_signature(note, ORIGIN, PUBLIC[1], sign_with(PRIVATE[1]), signed_at=datetime(2027, 1, 1, tzinfo=UTC))
    assert read_checkpoint(both, ORIGIN, PUBLIC[1:], check_signature).signed_by == [PUBLIC[1]]
    assert read_checkpoint(both, ORIGIN, PUBLIC, check_signature).signed_at == SIGNED_AT
    with pytest.raises(UnknownKeyError):
        read_checkpoint(note, ORIGIN, PUBLIC[1:], check_signature)
    for place, letter in enumerate(note):
        changed = note[:place] + ("A" if letter != "A" else "B") + note[place + 1 :]
        with pytest.raises(ValueError):
            read_checkpoint(changed, ORIGIN, PUBLIC, check_signature, is_own=True)


def test_endorsement_names_one_key() -> None:
    note = endorse_key(ORIGIN, PUBLIC[1], PUBLIC[0], sign_with(PRIVATE[0]))
    check_endorsement(note, ORIGIN, PUBLIC[1], PUBLIC[0], check_signature)
    for successor, signer in ((PUBLIC[2], PUBLIC[0]), (PUBLIC[1], PUBLIC[2])):
        with pytest.raises(ValueError):
            check_endorsement(note, ORIGIN, successor, signer, check_signature)
