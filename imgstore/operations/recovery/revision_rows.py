"""Read the rows of resources from the buckets, and add the columns that no revision contains."""

from collections.abc import Mapping, Sequence
from typing import Any

from imgstore.catalog import Transaction
from imgstore.catalog.storage.rebuilt_rows import Rows
from imgstore.catalog.storage.revisions import KINDS
from imgstore.domain.effects import Effects
from imgstore.domain.resources import Slot
from imgstore.domain.storage.digests import Digest
from imgstore.domain.storage.revisions import OWNER_KINDS
from imgstore.operations.gallery.galleries import FINGERPRINT_KEY_BYTES
from imgstore.operations.recovery.rebuild import merge_rows
from imgstore.operations.recovery.rebuild_plan import FoundResource
from imgstore.operations.recovery.rebuilt_manifests import Content, ManifestIndex, pack_contents


def read_rows(
    index: ManifestIndex, resources: Mapping[str, Sequence[FoundResource]]
) -> tuple[dict[Digest, Content], dict[str, list[dict[str, Any]]]]:
    """Return the contents of the manifests of resources, and the rows by table, in the order of the tables.

    Args:
        index: the places of the manifests. Unreadable manifests are noted.
        resources: the resources by kind.
    """
    contents: dict[Digest, Content] = {}
    rows: list[Rows] = []
    for kind in KINDS:
        found = resources.get(kind, ())
        if kind in OWNER_KINDS:
            read = index.read(found)
            index.note_unreadable(kind, found, read)
            contents |= read
            rows += [index.repair_rows(kind, each)[0] for each in found]
        else:
            rows += [each.rows for each in found]
    return contents, merge_rows(rows)


def write_rows(
    transaction: Transaction,
    effects: Effects,
    slots: Mapping[str, Slot],
    rows: dict[str, list[dict[str, Any]]],
    contents: Mapping[Digest, Content],
    fingerprint_keys: Mapping[str, bytes],
) -> None:
    """Write rows with the columns that no revision contains. A pool without a key gets a new key (invariant K8).

    Args:
        transaction: the open transaction.
        effects: the source of new keys.
        slots: the slots of the manifests by uid.
        rows: the rows of `read_rows`.
        contents: the contents of `read_rows`.
        fingerprint_keys: the known keys by uid of the pool.
    """
    for row in rows.get("pools", ()):
        row["fingerprint_key"] = fingerprint_keys.get(row["uid"]) or effects.random_bytes(FINGERPRINT_KEY_BYTES)
    manifests = rows.get("manifests", [])
    pools = {row["uid"]: slots[row["slot_uid"]].key.pool_uid for row in manifests}
    # A pool must exist before its segments.
    early = {name: rows.pop(name) for name in list(rows) if name in {"groups", "pools", "slots"}}
    transaction.rebuilt_rows.write(early)
    packed = pack_contents(transaction, contents, [(pools[row["uid"]], row["digest"]) for row in manifests])
    for row in manifests:
        row["segment_ids"] = packed[pools[row["uid"]], row["digest"]]
    transaction.rebuilt_rows.write(rows)
