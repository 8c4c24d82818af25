"""Versions of objects in stores that keep deleted and replaced objects (S3 versioning).

https://docs.aws.amazon.com/AmazonS3/latest/userguide/Versioning.html
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

NULL_VERSION: Final = "null"
"""The id of a version that was written without versioning. A later put or delete without versioning replaces it."""


class VersioningState(StrEnum):
    """The versioning of a bucket."""

    OFF = "Off"
    ENABLED = "Enabled"
    SUSPENDED = "Suspended"
    """New objects have the id `NULL_VERSION`. Older versions stay."""
    UNKNOWN = "Unknown"
    """The credentials may neither ask nor probe, or the store failed the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Versioning:
    """The versioning of a bucket, and the reasons for which versions cannot be deleted."""

    state: VersioningState
    mfa_delete: bool = False
    """A delete of a version needs a code of a device. imgstore has no such code."""


UNVERSIONED: Final = Versioning(state=VersioningState.OFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectVersion:
    """A version of an object, or a delete marker."""

    key: str
    version_id: str
    stored_bytes: int
    """0 for a delete marker."""
    etag: str | None
    """None for a delete marker."""
    is_latest: bool
    is_marker: bool

    def is_copy_of(self, other: "ObjectVersion") -> bool:
        """Return whether both versions have the same content, as far as the store tells."""
        return not self.is_marker and (self.stored_bytes, self.etag) == (other.stored_bytes, other.etag)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyVersions:
    """All versions of one key."""

    key: str
    versions: Sequence[ObjectVersion]

    @property
    def latest(self) -> ObjectVersion | None:
        """The present object, or the delete marker of a deleted object."""
        return next((each for each in self.versions if each.is_latest), None)

    @property
    def old(self) -> Sequence[ObjectVersion]:
        """Every version except the present object."""
        return [each for each in self.versions if each.is_marker or not each.is_latest]


class KeepsVersions(Protocol):
    """A store that may keep the versions of deleted and replaced objects."""

    @property
    def name(self) -> str:
        """The name of the store for people."""
        ...

    def read_versioning(self) -> Versioning:
        """Return the versioning of the bucket, with one request, or with a few if that request is refused.

        Raises:
            StoreError: the store does not answer.
        """
        ...

    def list_versions(self, prefix: str = "") -> Iterator[KeyVersions]:
        """List all versions of all keys with a prefix, in the order of the keys.

        Raises:
            StoreDenied: the credentials may not list versions.
            StoreError: the store does not answer.
        """
        ...

    def delete_versions(self, versions: Sequence[ObjectVersion]) -> Mapping[ObjectVersion, str]:
        """Delete versions by id. A missing version is no error.

        Returns:
            The reason for each version that the store keeps.

        Raises:
            StoreError: the store does not answer.
        """
        ...
