"""The rights and the free space that a store grants, found with small objects under a key of their own."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Final

from imgstore.domain.errors import StoreDenied, StoreError
from imgstore.stores.errors import format_on_one_line
from imgstore.stores.interface import ObjectStore
from imgstore.stores.object_versions import UNVERSIONED, Versioning, VersioningState

PROBES: Final = "imgstore-probe/"
"""The prefix of the objects with which a store is probed."""

PROBE_BODY: Final = bytes(8192)
"""A full file system accepts empty files, and the reserve of a directory accepts files up to 4,096 bytes."""

CLOCK_SKEW_MAX: Final = timedelta(minutes=15)
"""S3 refuses a request whose time differs by more.

https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, RequestTimeTooSkewed
"""

PUT: Final = "s3:PutObject"
GET: Final = "s3:GetObject"
LIST: Final = "s3:ListBucket"
DELETE: Final = "s3:DeleteObject"
LIST_VERSIONS: Final = "s3:ListBucketVersions"
DELETE_VERSION: Final = "s3:DeleteObjectVersion"
READ_VERSIONING: Final = "s3:GetBucketVersioning"
READ_LOCK: Final = "s3:GetBucketObjectLockConfiguration"
CREATE_BUCKET: Final = "s3:CreateBucket"
REQUIRED: Final = (GET, LIST, PUT, DELETE)
"""The rights without which no zone can be used."""


NO_RETENTION: Final = "on, without a default retention"
"""The description of an object lock that keeps no new object."""


@dataclass(slots=True, kw_only=True)
class StoreAccess:
    """The result of a probe."""

    missing_rights: list[str] = field(default_factory=list)
    """The rights that the store refused, in S3's names. A directory uses the same names."""
    denial: StoreDenied | None = None
    """The first refusal of a store whose rights have no names."""
    error: StoreError | None = None
    """The first error other than a refusal, for example of a full store."""
    versioning: Versioning = UNVERSIONED
    object_lock: str | None = None
    """The mode and time of the bucket's object lock, for people; None without a lock."""
    kept_reason: str | None = None
    """Why the store keeps the version of the probe."""

    @property
    def has_retention(self) -> bool:
        """Whether the object lock keeps each new object for some time."""
        return self.object_lock not in {None, NO_RETENTION}

    @property
    def is_refused(self) -> bool:
        """Whether the store refused everything, so that no single right is the cause."""
        return set(REQUIRED) <= set(self.missing_rights)

    @property
    def problem(self) -> str | None:
        """Why the store cannot be used, and the remedy."""
        lacking = [right for right in self.missing_rights if right in REQUIRED]
        if lacking and self.denial is None:
            return f"the credentials lack {', '.join(lacking)}; permit these actions for the bucket and its objects"
        first = self.denial or self.error
        return None if first is None else format_on_one_line(first)

    @property
    def warnings(self) -> list[str]:
        """Describe why deleted objects stay in the store and are billed, and the remedies."""
        found = []
        lacking = [right for right in self.missing_rights if right not in REQUIRED]
        if self.versioning.state is VersioningState.UNKNOWN:
            found.append(f"it is unknown whether deleted objects stay as old versions; permit {READ_VERSIONING}")
        elif self.versioning.state is not VersioningState.OFF:
            state = self.versioning.state.value.lower()
            found.append(f"versioning is {state}: deleted objects stay as old versions, which are billed, until ")
            found[-1] += (
                f"a lifecycle rule expires them, because the credentials lack {', '.join(lacking)}"
                if lacking
                else "`imgstore gc` deletes the versions"
            )
        if self.object_lock is not None:
            found.append(
                f"object lock ({self.object_lock}): a locked object stays and is billed until its retention or legal hold "
                "ends; use a bucket without a lock, or a short retention"
            )
        elif self.kept_reason is not None and not lacking:
            found.append(f"the store keeps versions: {self.kept_reason}")
        if self.versioning.mfa_delete:
            found.append("MFA delete: no version can be deleted; use a lifecycle rule, or switch MFA delete off")
        return found

    def attempt(self, right: str, act: Callable[[], object], *, has_named_rights: bool = True) -> bool:
        """Run `act`. Note a refusal as a missing right, and any other error. Return whether `act` succeeded.

        Args:
            right: the right that `act` needs, in S3's names.
            act: the request.
            has_named_rights: whether the store has rights of these names. False notes the store's own refusal also.
        """
        try:
            act()
        except StoreDenied as error:
            self.missing_rights.append(right)
            if not has_named_rights:
                self.denial = self.denial or error
        except StoreError as error:
            self.error = self.error or error
        else:
            return True
        return False


def probe_store(store: ObjectStore, uid: str) -> StoreAccess:
    """Put, list, read and delete a small object in a store without versions and without named rights."""
    key = f"{PROBES}{uid}"
    found = StoreAccess()
    attempt = partial(found.attempt, has_named_rights=False)
    if attempt(PUT, lambda: store.put(key, PROBE_BODY)):
        attempt(GET, lambda: store.get(key))
    attempt(LIST, lambda: list(store.list(key)))
    attempt(DELETE, lambda: store.delete([key]))
    return found
