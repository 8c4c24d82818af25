"""Reports about recovery files and the recovery of a catalog."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryFileReport:
    """A written or checked recovery file."""

    path: Path
    file_bytes: int
    written_at: datetime
    installation_uid: str
    pools: int
    """The number of fingerprint keys."""
    signing_keys: int
    variables: Sequence[str]
    """The names of the environment variables with values in the file."""
    missing: Sequence[str] = ()
    """The ids of keys that the installation has and the file does not have."""
    changed_settings: Sequence[str] = ()
    """The settings that differ between the installation and the file: `regions.yaml`, or names of variables."""
    is_in_home: bool = False
    """Whether the file is below the home, so that a loss of the home loses the file."""

    @property
    def is_current(self) -> bool:
        """Whether the file has everything that a rebuild needs."""
        return not self.missing and not self.changed_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryCover:
    """The keys that the newest recovery file contains, as the catalog remembers."""

    written_at: datetime | None
    """The time of the newest file, or None if no file was written."""
    missing: Sequence[str]
    """The ids of keys that are not in the newest file."""
