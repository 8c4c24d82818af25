"""Revisions: the rows of a resource in an object, so that a catalog can be rebuilt from the buckets (invariant B18).

An object has three lines: a magic with the version of the layout, an HMAC of the other two lines, and JSON. The JSON
contains plain values only. docs/internals/layout.md describes the format.
"""

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from imgstore.domain.errors import ObjectCorrupt, StoreMismatch
from imgstore.domain.storage.object_keys import installation_revision_key, owner_revision_key

LAYOUT: Final = 1
"""The version of the layout that this code writes."""
OWNER_KINDS: Final = frozenset({"versions", "disks"})
"""The kinds of resources with a slot. Their revisions are in the slot, and their deletion revisions in each region."""

JsonRow: TypeAlias = Mapping[str, Any]
"""A row of a table: column name to plain JSON value (`catalog/storage/revisions.py` encodes the columns)."""

_MAGIC: Final = b"imgstore revision "
_KEY_CONTEXT: Final = b"imgstore revision key 1"
_MAC_DIGITS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """The state of a resource at a revision number. The highest number of a kind and uid is valid."""

    kind: str
    uid: str
    number: int
    """Rises within an installation. Two revisions of an installation never have the same number."""
    installation_uid: str
    is_deleted: bool = False
    """Whether the resource no longer exists. A deletion has no rows."""
    rows: Mapping[str, Sequence[JsonRow]] = field(default_factory=dict)
    """The rows of the resource by table name, in the order of their keys."""
    previous: str | None = None
    """The HMAC (hexadecimal) of the previous ledger checkpoint. None for the first checkpoint and all other kinds."""

    @property
    def object_key(self) -> str:
        """The key of the object: below the slot of a version or stored disk that exists, else at the top of a zone."""
        if self.kind in OWNER_KINDS and not self.is_deleted:
            return owner_revision_key(self.uid, self.number)
        return installation_revision_key(self.kind, self.uid, self.number)


def derive_revision_key(hmac_key: bytes) -> bytes:
    """Return the key of the HMACs of revisions, derived from the key of the installation."""
    return hmac.digest(hmac_key, _KEY_CONTEXT, "sha256")


def encode_revision(revision: Revision, revision_key: bytes) -> bytes:
    """Encode a revision as the body of an object. Equal revisions give equal bytes.

    Args:
        revision: the revision, with plain JSON values.
        revision_key: the result of `derive_revision_key`.
    """
    document = {
        "kind": revision.kind,
        "uid": revision.uid,
        "number": revision.number,
        "installation": revision.installation_uid,
        "deleted": revision.is_deleted,
        "previous": revision.previous,
        "rows": revision.rows,
    }
    head = b"%s%d\n" % (_MAGIC, LAYOUT)
    text = json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    return b"%s%s\n%s" % (head, _compute_mac(revision_key, head, text).encode(), text)


def decode_revision(body: bytes, revision_key: bytes, *, object_key: str, installation_uid: str) -> Revision:
    """Verify and decode the body of an object.

    Args:
        body: the bytes of the object.
        revision_key: the result of `derive_revision_key`.
        object_key: the key of the object below the slot or at the top of the zone, without a prefix.
        installation_uid: the uid of the installation that must have written the object.

    Raises:
        ObjectCorrupt: the body is no revision, is cut off, has a wrong HMAC, or belongs to another key.
        StoreMismatch: a newer imgstore or another installation wrote the object.
    """
    head, mac, text = _split(body, object_key)
    if not hmac.compare_digest(mac, _compute_mac(revision_key, head, text).encode()):
        raise _corrupt_error(object_key, "a wrong HMAC", "the HMAC of this installation's key")
    document = json.loads(text)
    revision = Revision(
        kind=document["kind"],
        uid=document["uid"],
        number=document["number"],
        installation_uid=document["installation"],
        is_deleted=document["deleted"],
        rows=document["rows"],
        previous=document["previous"],
    )
    if revision.object_key != object_key:
        raise _corrupt_error(object_key, f"the content of {revision.object_key}", "the revision that the key names")
    if revision.installation_uid != installation_uid:
        raise StoreMismatch(
            f"The revision {object_key} belongs to another installation.",
            found=f"installation {revision.installation_uid}",
            expected=f"installation {installation_uid}",
            hint="correct the endpoint or bucket in regions.yaml",
            target=object_key,
        )
    return revision


def read_revision_mac(body: bytes, object_key: str) -> str:
    """Return the HMAC in the body of a revision, without verification. Ledger checkpoints name the previous HMAC.

    Raises:
        ObjectCorrupt, StoreMismatch: see `decode_revision`.
    """
    return _split(body, object_key)[1].decode()


def _split(body: bytes, object_key: str) -> tuple[bytes, bytes, bytes]:
    """Return the first line with its end, the HMAC in hexadecimal digits, and the third line with its end."""
    lines = body.split(b"\n")
    version = lines[0].removeprefix(_MAGIC)
    if not lines[0].startswith(_MAGIC) or not version.isdigit():
        raise _corrupt_error(object_key, "other bytes at the beginning", f"'{_MAGIC.decode()}{LAYOUT}'")
    if int(version) != LAYOUT:
        raise StoreMismatch(
            f"The revision {object_key} has an unknown layout.",
            found=f"layout {int(version)}",
            expected=f"layout {LAYOUT}",
            hint="use the version of imgstore that wrote the object, or a newer version",
            target=object_key,
        )
    if len(lines) != 4 or len(lines[1]) != _MAC_DIGITS or lines[3]:
        raise _corrupt_error(object_key, f"{len(body)} bytes that are cut off or extended", "three whole lines")
    return lines[0] + b"\n", lines[1], lines[2] + b"\n"


def _compute_mac(revision_key: bytes, head: bytes, text: bytes) -> str:
    return hmac.digest(revision_key, head + text, "sha256").hex()


def _corrupt_error(object_key: str, found: str, expected: str) -> ObjectCorrupt:
    return ObjectCorrupt(
        f"The revision {object_key} is damaged or forged.",
        found=found,
        expected=expected,
        hint="`imgstore scrub` writes the newest revision of each resource again while the catalog is intact",
        target=object_key,
    )
