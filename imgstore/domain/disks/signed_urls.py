"""Grants: for a while whoever has a signed URL may read a disk, or write the upload that it is to be made from."""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

SECONDS_MAX: Final = 2**31 - 1
"""The longest that a grant can be asked for."""


class AccessLevel(StrEnum):
    """What a grant allows, in Azure's spelling."""

    READ = "Read"
    WRITE = "Write"


class DiskState(StrEnum):
    """What a managed disk waits for, in Azure's spelling."""

    UNATTACHED = "Unattached"
    ACTIVE_SAS = "ActiveSAS"
    """Somebody may read it by a signed URL."""
    READY_TO_UPLOAD = "ReadyToUpload"
    ACTIVE_UPLOAD = "ActiveUpload"
    """Somebody may write its upload."""
    ATTACHED = "Attached"
    """A machine has it, and nobody reads it by URL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskGrant:
    """What holds of a disk until it is revoked or its time is up. A disk has one at a time."""

    uid: str
    level: AccessLevel
    expires_at: datetime

    def signature(self, key: bytes, disk_uid: str, expires_at: datetime) -> str:
        """What a URL of this grant is signed with: HMAC-SHA256 over all that it says.

        Args:
            key: the installation's.
            disk_uid: whose bytes.
            expires_at: the URL's own end, not after the grant's: a grant may have been prolonged since.
        """
        said = "\n".join(("imgstore blob 1", disk_uid, self.uid, self.level.value, format_expiry(expires_at)))
        return hmac.new(key, said.encode(), hashlib.sha256).hexdigest()


def format_expiry(time: datetime) -> str:
    """A URL's end as its query says it: whole seconds, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
