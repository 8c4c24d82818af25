"""Grants of signed URLs. Until the end of the URL and of the grant, anyone with the URL may read or write the bytes."""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

SECONDS_MAX: Final = 2**31 - 1
"""The longest duration of a grant."""


class AccessLevel(StrEnum):
    """The access that a grant permits, in Azure's spelling."""

    READ = "Read"
    WRITE = "Write"


class DiskState(StrEnum):
    """The state of a managed disk, in Azure's spelling."""

    UNATTACHED = "Unattached"
    ACTIVE_SAS = "ActiveSAS"
    """A grant permits reading by signed URL."""
    READY_TO_UPLOAD = "ReadyToUpload"
    ACTIVE_UPLOAD = "ActiveUpload"
    """A grant permits writing the upload."""
    ATTACHED = "Attached"
    """The disk belongs to a machine, and no grant permits reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskGrant:
    """The access to a disk until revocation or expiry. A disk has at most one grant."""

    uid: str
    level: AccessLevel
    expires_at: datetime

    def signature(self, key: bytes, disk_uid: str, expires_at: datetime) -> str:
        """Return the signature of a URL: HMAC-SHA256 over the disk, the grant, the access level and the end of the URL.

        Args:
            key: the key of the installation.
            disk_uid: the disk.
            expires_at: the end of the URL, never after the end of the grant. A grant may be extended after the URL was
                issued.
        """
        message = "\n".join(("imgstore blob 1", disk_uid, self.uid, self.level.value, format_expiry(expires_at)))
        return hmac.new(key, message.encode(), hashlib.sha256).hexdigest()


def format_expiry(time: datetime) -> str:
    """Return the end of a URL as in the query: whole seconds, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
