"""Merkle trees of RFC 6962: hashes, roots and inclusion proofs.

A complete subtree of 2 to the power `level` leaves is named by `(level, index)`. The subtree begins at leaf
`index << level`. All functions ask a `NodeSource` for such subtrees, so a tree of 10^6 leaves needs about 20 of them for
a root or a proof. https://www.rfc-editor.org/rfc/rfc6962#section-2.1 defines the hashes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final, Protocol, TypeGuard

HASH_BYTES: Final = 32
STORED_LEVELS: Final = 8
"""The distance between stored levels: the hash of each 256 leaves, 65,536 leaves and so on is stored."""


class NodeSource(Protocol):
    """The hashes of complete subtrees."""

    def node(self, level: int, index: int) -> bytes:
        """Return the hash of the complete subtree with the leaves `index << level` to `(index + 1) << level`."""


class StoredHashes(Protocol):
    """Storage with the hashes of leaves, and of complete subtrees at each eighth level."""

    def read_hashes(self, level: int, first: int, count: int) -> bytes:
        """Return consecutive hashes of a level: 0 for leaves, 1 for subtrees of 256 leaves, 2 for 65,536 leaves.

        Raises:
            LookupError: a hash is missing.
        """


def is_hash(value: object) -> TypeGuard[bytes]:
    """Return whether a stored value is a hash."""
    return isinstance(value, bytes) and len(value) == HASH_BYTES


def hash_leaf(leaf: bytes) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def hash_pair(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def hash_pairs(hashes: bytes | bytearray) -> bytearray:
    """Return the hashes of the parents of an even number of consecutive hashes."""
    sha256 = hashlib.sha256
    view = memoryview(hashes)
    return bytearray().join(
        sha256(b"\x01" + view[at : at + 2 * HASH_BYTES]).digest() for at in range(0, len(hashes), 2 * HASH_BYTES)
    )


def compute_root(tree: NodeSource, size: int) -> bytes:
    """Return the root of the first `size` leaves. The root of an empty tree is the hash of nothing."""
    return _hash_range(tree, 0, size) if size else hashlib.sha256().digest()


def prove_inclusion(tree: NodeSource, index: int, size: int) -> list[bytes]:
    """Return the audit path of a leaf: the sibling of the leaf first, a child of the root last.

    Args:
        tree: the hashes.
        index: the position of the leaf, below `size`.
        size: the number of leaves.
    """
    path: list[bytes] = []
    first, count = 0, size
    while count > 1:
        left = _largest_power(count)
        if index - first < left:
            path.append(_hash_range(tree, first + left, count - left))
            count = left
        else:
            path.append(_hash_range(tree, first, left))
            first, count = first + left, count - left
    return path[::-1]


def compute_root_of_proof(leaf_hash: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that an audit path proves, or None if the path has a wrong length."""
    if not 0 <= index < size:
        return None
    last, found = size - 1, leaf_hash
    for sibling in path:
        if not last:
            return None
        if index % 2 or index == last:
            found = hash_pair(sibling, found)
            while not index % 2 and index:
                index, last = index >> 1, last >> 1
        else:
            found = hash_pair(found, sibling)
        index, last = index >> 1, last >> 1
    return None if last else found


class StoredTree:
    """The nodes of a tree whose leaves, and whose subtrees at each eighth level, are stored."""

    def __init__(self, stored: StoredHashes) -> None:
        self._stored = stored

    def node(self, level: int, index: int) -> bytes:
        """Return the hash of a complete subtree. See `NodeSource`."""
        below, height = divmod(level, STORED_LEVELS)
        found: bytes | bytearray = self._stored.read_hashes(below, index << height, 1 << height)
        for _ in range(height):
            found = hash_pairs(found)
        return bytes(found)

    def complete_subtrees(self, size: int, leaves: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Yield (level, index, hash) of each stored subtree that new leaves complete.

        Args:
            size: the number of leaves before.
            leaves: the hashes of the new leaves.
        """
        level, new = 0, leaves
        width = 1 << STORED_LEVELS
        while new:
            rest = size % width
            hashes = (self._stored.read_hashes(level, size - rest, rest) if rest else b"") + new
            level, size, new = level + 1, size // width, b""
            for at in range(len(hashes) // (width * HASH_BYTES)):
                found: bytes | bytearray = hashes[at * width * HASH_BYTES : (at + 1) * width * HASH_BYTES]
                for _ in range(STORED_LEVELS):
                    found = hash_pairs(found)
                new += found
                yield level, size + at, bytes(found)


class MemoryTree:
    """The nodes of a tree in memory, for the comparison of many roots. 10^6 leaves take 64 MB."""

    def __init__(self, leaves: bytes | bytearray, first: int = 0, before: NodeSource | None = None) -> None:
        """Compute all nodes.

        Args:
            leaves: the hashes of consecutive leaves.
            first: the position of the first leaf in `leaves`.
            before: the nodes of the leaves before `first`.
        """
        self._first, self._before = first, before
        self._levels: list[tuple[int, bytes | bytearray]] = [(first, leaves)]
        while len(leaves) >= 2 * HASH_BYTES:
            skipped = first % 2
            pairs = len(leaves) // HASH_BYTES - skipped
            leaves = hash_pairs(leaves[skipped * HASH_BYTES : (skipped + pairs - pairs % 2) * HASH_BYTES])
            first = (first + 1) // 2
            self._levels.append((first, leaves))

    def node(self, level: int, index: int) -> bytes:
        """Return the hash of a complete subtree. See `NodeSource`."""
        if level < len(self._levels):
            first, hashes = self._levels[level]
            at = (index - first) * HASH_BYTES
            if 0 <= at < len(hashes):
                return bytes(hashes[at : at + HASH_BYTES])
        if (index + 1) << level <= self._first and self._before is not None:
            return self._before.node(level, index)
        if not level:
            raise LookupError(f"no leaf {index}")
        return hash_pair(self.node(level - 1, 2 * index), self.node(level - 1, 2 * index + 1))


def _hash_range(tree: NodeSource, first: int, count: int) -> bytes:
    """Return the hash of consecutive leaves that are a subtree of the tree."""
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return tree.node(level, first >> level)
    left = _largest_power(count)
    return hash_pair(_hash_range(tree, first, left), _hash_range(tree, first + left, count - left))


def _largest_power(count: int) -> int:
    """Return the largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)
