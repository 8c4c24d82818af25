"""Object keys below the prefix of a slot, and keys at the top of a zone.

The layout is permanent: docs/internals/layout.md.
"""

import re
import uuid
from typing import Final

from imgstore.domain.disks.version_disks import DISK_KEYS, OS_DISK
from imgstore.domain.storage.digests import Digest, digest_of
from imgstore.domain.storage.sizes import SEGMENT_BYTES_MAX

FORMAT_KEY: Final = "FORMAT"
"""At the top of each zone: the installation, region and zone, and the version of the layout."""

LAYOUT_VERSION: Final = 1

ZONE: Final = "zone/"
"""At the top of each zone: uids and checkpoints, so that a single LIST returns both."""
_ZONE_UIDS: Final = f"{ZONE}uid/"
CHECKPOINTS: Final = f"{ZONE}checkpoints/"

POOLS: Final = "pools/"
"""Above the prefixes of slots."""

SEGMENTS: Final = "segments/"
MANIFESTS: Final = "manifests/"
FINGERPRINTS: Final = "fingerprints/"
WORKS: Final = "works/"
PACKS: Final = "packs/"
"""Below a slot: the boot packs (invariant D18)."""
REPAIRS: Final = "repairs/"
OWNERS: Final = "owners/"
"""Below a slot: the revisions of the versions and stored disks of the slot (invariant B18)."""
INSTALLATION: Final = "installation/"
"""At the top of each zone: the revisions of all other resources, and of deleted versions and stored disks."""
LEDGER_CHECKPOINTS: Final = "ledger/checkpoints/"
"""At the top of each zone: the signed checkpoints of the ledger's log."""

_SEGMENT: Final = re.compile(r"(?:^|/)segments/([0-9a-f]{2})/\1[0-9a-f]{62}\Z")
_PACK: Final = re.compile(r"packs/([0-9a-f]{64})")
_PLAIN_PART: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_OWNER_REVISION: Final = re.compile(r"owners/([^/]+)/([0-9]{20})")
_INSTALLATION_REVISION: Final = re.compile(r"installation/([^/]+)/([^/]+)/([0-9]{20})")


def segment_key(name: Digest) -> str:
    """Return the key of a segment: the BLAKE3 of the bytes.

    The first two digits limit a directory to 10,000 entries per TiB.
    """
    digits = name.hex()
    return f"{SEGMENTS}{digits[:2]}/{digits}"


def is_segment_key(key: str) -> bool:
    """Return whether `segment_key` makes such a key. The key may have a prefix."""
    return _SEGMENT.search(key) is not None


def bytes_max(key: str) -> int | None:
    """Return the size of the largest object with such a key, or None without a limit. The key may have a prefix."""
    return SEGMENT_BYTES_MAX if is_segment_key(key) else None


def segment_name(key: str) -> Digest:
    """Return the name at the end of a segment's key. The key may have a prefix."""
    return bytes.fromhex(key.rsplit("/", 1)[-1])


def manifest_key(owner_uid: str, disk: str) -> str:
    """Return the key of a manifest, from the owner and the disk key ("os", "lun-0")."""
    return f"{MANIFESTS}{owner_uid}/{disk}"


def manifest_owner(key: str) -> str:
    """Return the uid of the owner in the key of a manifest below a slot."""
    return key.removeprefix(MANIFESTS).partition("/")[0]


def packing_uid(work_uid: str, disk: str) -> str:
    """Return the packing uid of a disk in a work. Manifests and fingerprints contain the packing uid.

    The OS disk has the uid of the work. A manifest has space for a single uid, so the uid of a data disk is derived
    from the uid of the work and the disk key.
    """
    return work_uid if disk == OS_DISK else str(uuid.UUID(bytes=digest_of(f"{work_uid}/{disk}".encode())[:16]))


def packing_uids(work_uid: str) -> frozenset[str]:
    """Return all possible packing uids of a work."""
    return frozenset(packing_uid(work_uid, disk) for disk in DISK_KEYS)


def fingerprints_key(packing_uid: str) -> str:
    """Return the key of the fingerprints of the blocks that one ingest of one disk packed."""
    return f"{FINGERPRINTS}{packing_uid}"


def pack_key(manifest_digest: Digest) -> str:
    """Return the key of the boot pack of the disk that a manifest describes."""
    return f"{PACKS}{manifest_digest.hex()}"


def packed_manifest(key: str) -> Digest | None:
    """Return the digest of the manifest in the key of a boot pack below a slot, else None."""
    found = _PACK.fullmatch(key)
    return None if found is None else bytes.fromhex(found[1])


def work_key(work_uid: str) -> str:
    """Return the key of a start marker.

    `LastModified` of the empty object is the start of the work, by the store's clock.
    """
    return f"{WORKS}{work_uid}"


def zone_uid_key(uid: str) -> str:
    """Return the key of the empty object that identifies a zone. The object is written once and never replaced."""
    return f"{_ZONE_UIDS}{uid}"


def checkpoint_key(name: str) -> str:
    """Return the key of the empty object of a checkpoint (`domain/storage/checkpoints.py`)."""
    return f"{CHECKPOINTS}{name}"


def zone_uid(key: str) -> str | None:
    """Return the zone uid in a key at the top of a zone, else None."""
    return key.removeprefix(_ZONE_UIDS) if key.startswith(_ZONE_UIDS) else None


def checkpoint_name(key: str) -> str | None:
    """Return the checkpoint in a key at the top of a zone, else None."""
    return key.removeprefix(CHECKPOINTS) if key.startswith(CHECKPOINTS) else None


def uid_part(uid: str) -> str:
    """Return the part of a key that names a resource: the uid, or "_" and 32 hexadecimal digits of the uid's BLAKE3.

    The uid of a setting, a zone or a subscription is a name, which may contain characters that no key may contain.
    """
    return uid if _PLAIN_PART.fullmatch(uid) else f"_{digest_of(uid.encode()).hex()[:32]}"


def owner_revision_key(uid: str, number: int) -> str:
    """Return the key of a revision of a version or stored disk, below the slot. Keys sort by the revision number."""
    return f"{OWNERS}{uid_part(uid)}/{number:020d}"


def installation_revision_key(kind: str, uid: str, number: int) -> str:
    """Return the key of a revision at the top of a zone. Keys sort by the revision number."""
    return f"{INSTALLATION}{kind}/{uid_part(uid)}/{number:020d}"


def ledger_checkpoint_key(installation_uid: str, size: int) -> str:
    """Return the key of the signed checkpoint of a log with `size` entries, at the top of a zone.

    An adopted bucket may have the checkpoints of a former installation.
    """
    return f"{LEDGER_CHECKPOINTS}{uid_part(installation_uid)}/{size:020d}"


def parse_owner_revision(key: str) -> tuple[str, int] | None:
    """Return (part of the uid, revision number) of a key below a slot, or None for other keys."""
    found = _OWNER_REVISION.fullmatch(key)
    return None if found is None else (found[1], int(found[2]))


def parse_installation_revision(key: str) -> tuple[str, str, int] | None:
    """Return (kind, part of the uid, revision number) of a key at the top of a zone, or None for other keys."""
    found = _INSTALLATION_REVISION.fullmatch(key)
    return None if found is None else (found[1], found[2], int(found[3]))
