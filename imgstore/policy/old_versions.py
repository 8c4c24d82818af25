"""Decide which versions of deleted and replaced objects garbage collection may delete (invariant G17)."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from imgstore.domain.resources import StorageAccountType
from imgstore.domain.storage.object_keys import FORMAT_KEY, INSTALLATION, POOLS, REPAIRS, ZONE
from imgstore.stores.access import PROBES
from imgstore.stores.object_versions import NULL_VERSION, KeyVersions, ObjectVersion, Versioning, VersioningState

_OWN: Final = re.compile(
    rf"{FORMAT_KEY}"
    rf"|{POOLS}[^/]+/({'|'.join(StorageAccountType)})/replica-\d+/"
    r"(segments/[0-9a-f]{2}/[0-9a-f]{64}|manifests/[^/]+/[^/]+|(fingerprints|works|packs)/[^/]+|owners/[^/]+/\d{20})"
    rf"|{INSTALLATION}[^/]+/[^/]+/\d{{20}}"
    rf"|{ZONE}(uid|checkpoints)/[^/]+"
    rf"|{REPAIRS}[^/]+/[0-9a-f]{{64}}"
    rf"|{PROBES}.+"
)


def is_own_key(key: str) -> bool:
    """Return whether imgstore writes such keys. Versions of other keys belong to somebody else.

    The prefix alone proves nothing: another program may write `pools/1.jpg` into the same bucket.
    """
    return _OWN.fullmatch(key) is not None


def slot_prefix(key: str) -> str | None:
    """Return the prefix of the slot of a key; None for a key outside of slots."""
    parts = key.split("/", 4)
    return "/".join(parts[:4]) + "/" if key.startswith(POOLS) and len(parts) > 4 else None


def choose_removable(
    found: KeyVersions, state: VersioningState, *, is_named: bool
) -> tuple[Sequence[ObjectVersion], Sequence[ObjectVersion]]:
    """Choose the versions of a key that may be deleted.

    A version of an object that the catalog names is deleted only if the present object has the same content: a deleted
    or replaced object may be needed again. With suspended versioning, `NULL_VERSION` is never deleted by id: a new
    object gets the same id, and a late delete would remove the new object.

    Args:
        found: all versions of the key.
        state: the versioning of the bucket.
        is_named: whether the catalog, or an unknown manifest, names the object.

    Returns:
        The versions, and the delete markers to delete after the versions.
    """
    latest = found.latest
    removable = [
        each
        for each in found.old
        if (state is VersioningState.ENABLED or each.version_id != NULL_VERSION)
        and (
            not is_named
            or (latest is not None and (each.is_copy_of(latest) or (each.is_marker and not each.is_latest)))
        )
    ]
    return [each for each in removable if not each.is_marker], [each for each in removable if each.is_marker]


def choose_markers(
    found: KeyVersions, markers: Sequence[ObjectVersion], kept: Mapping[ObjectVersion, str]
) -> Sequence[ObjectVersion]:
    """Choose the delete markers that may be deleted after the versions.

    The marker of a deleted object stays as long as a version stays, because the version would be the object again.
    """
    stays = any(not each.is_marker and not each.is_latest and each in kept for each in found.old)
    return [each for each in markers if not (each.is_latest and stays)]


@dataclass(slots=True, kw_only=True)
class VersionSweep:
    """The old versions of one zone: the versions that were or would be deleted, and the versions that stay."""

    region: str
    zone: str
    store: str
    """The name of the store, for people."""
    versioning: Versioning
    removed: int = 0
    """In a plan: the versions that a collection would delete."""
    removed_bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0
    kept_markers: int = 0
    """Delete markers that stay. Markers have no content."""
    reasons: Counter[str] = field(default_factory=Counter)
    """The reasons why versions stay, with the number of versions."""
    kept_keys: dict[str, int] = field(default_factory=dict)
    """The stored bytes of deleted objects that stay as old versions, by key."""
    problem: str | None = None
    """Why the old versions are not known, or not all of them."""

    def add_removed(self, version: ObjectVersion) -> None:
        """Count a deleted version."""
        self.removed += 1
        self.removed_bytes += version.stored_bytes

    def add_kept(self, found: KeyVersions, version: ObjectVersion, reason: str) -> None:
        """Count a version that stays."""
        if version.is_marker:
            self.kept_markers += 1
            return
        self.kept += 1
        self.kept_bytes += version.stored_bytes
        self.reasons[reason] += 1
        if found.latest is not None and found.latest.is_marker:
            self.kept_keys[found.key] = self.kept_keys.get(found.key, 0) + version.stored_bytes
