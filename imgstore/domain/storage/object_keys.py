"""Where things lie in a bucket, below a slot's prefix. The layout is a promise: DESIGN.md, "Bytes at rest"."""

import re
import uuid
from typing import Final

from imgstore.domain.disks.version_disks import DISK_KEYS, OS_DISK
from imgstore.domain.storage.digests import Digest, digest_of

FORMAT_KEY: Final = "FORMAT"
"""At the top of each zone: which installation, region and zone it belongs to, and the layout's version."""

LAYOUT_VERSION: Final = 1

ZONE: Final = "zone/"
"""At the top of each zone: its uids and its checkpoints, so that one LIST tells both."""
_ZONE_UIDS: Final = f"{ZONE}uid/"
_CHECKPOINTS: Final = f"{ZONE}checkpoints/"

SEGMENTS: Final = "segments/"
MANIFESTS: Final = "manifests/"
FINGERPRINTS: Final = "fingerprints/"
WORKS: Final = "works/"
REPAIRS: Final = "repairs/"

_SEGMENT: Final = re.compile(r"(?:^|/)segments/([0-9a-f]{2})/\1[0-9a-f]{62}\Z")


def segment_key(name: Digest) -> str:
    """A segment, by the BLAKE3 of its bytes. Two digits of fan-out keep a directory below 10,000 entries a TiB."""
    digits = name.hex()
    return f"{SEGMENTS}{digits[:2]}/{digits}"


def is_segment_key(key: str) -> bool:
    """Whether a key (with or without a prefix) is one that `segment_key` makes."""
    return _SEGMENT.search(key) is not None


def segment_name(key: str) -> Digest:
    """The name that a segment's key (with or without a prefix) ends in."""
    return bytes.fromhex(key.rsplit("/", 1)[-1])


def manifest_key(owner_uid: str, disk: str) -> str:
    """A manifest, by its owner and the disk's key ("os", "lun-0")."""
    return f"{MANIFESTS}{owner_uid}/{disk}"


def packing_uid(work_uid: str, disk: str) -> str:
    """What a work packs a disk under: manifests and fingerprints name it.

    The work's own uid for the OS disk; for a data disk, since a manifest has room for a uid and no more, one that follows
    from the work and the disk's key.
    """
    return work_uid if disk == OS_DISK else str(uuid.UUID(bytes=digest_of(f"{work_uid}/{disk}".encode())[:16]))


def packing_uids(work_uid: str) -> frozenset[str]:
    """All that a work may pack under."""
    return frozenset(packing_uid(work_uid, disk) for disk in DISK_KEYS)


def fingerprints_key(packing_uid: str) -> str:
    """The fingerprints of the blocks that one ingest packed of one disk."""
    return f"{FINGERPRINTS}{packing_uid}"


def work_key(work_uid: str) -> str:
    """The empty object whose LastModified is a work's start by the store's own clock."""
    return f"{WORKS}{work_uid}"


def zone_uid_key(uid: str) -> str:
    """The empty object whose key says which zone this is. Written once, never replaced."""
    return f"{_ZONE_UIDS}{uid}"


def checkpoint_key(name: str) -> str:
    """The empty object that proves how far the catalog had come (`domain/storage/checkpoints.py`)."""
    return f"{_CHECKPOINTS}{name}"


def zone_uid(key: str) -> str | None:
    """The uid that a key of a zone's top names, if it names one."""
    return key.removeprefix(_ZONE_UIDS) if key.startswith(_ZONE_UIDS) else None


def checkpoint_name(key: str) -> str | None:
    """The checkpoint that a key of a zone's top names, if it names one."""
    return key.removeprefix(_CHECKPOINTS) if key.startswith(_CHECKPOINTS) else None
