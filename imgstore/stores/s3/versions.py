"""The versions of objects in a bucket with S3 versioning."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, groupby
from typing import Any, Final

from botocore import exceptions as vendor

from imgstore.domain.errors import StoreDenied, StoreError
from imgstore.stores.access import (
    DELETE,
    DELETE_VERSION,
    GET,
    LIST,
    LIST_VERSIONS,
    NO_RETENTION,
    PROBE_BODY,
    PROBES,
    PUT,
    StoreAccess,
)
from imgstore.stores.interface import split_batches
from imgstore.stores.object_versions import NULL_VERSION, KeyVersions, ObjectVersion, Versioning, VersioningState
from imgstore.stores.s3.store import S3Store, error_code
from imgstore.stores.wrappers.retry import Retrier

_UNSUPPORTED: Final = frozenset({"NotImplemented", "MethodNotAllowed", "UnsupportedOperation"})


class BucketVersions:
    """The versions of the objects of a bucket (`KeepsVersions`). Safe to use from several threads at once."""

    def __init__(self, store: S3Store, new_uid: Callable[[], str], *, retrier: Retrier | None = None) -> None:
        """Name the bucket without a request.

        Args:
            store: the store of the bucket.
            new_uid: makes the key of a probe.
            retrier: repeats requests. Each request may be sent twice without harm.
        """
        self._store = store
        self._new_uid = new_uid
        self._retry = retrier or Retrier()

    @property
    def name(self) -> str:
        """See `KeepsVersions.name`."""
        return self._store.name

    def read_versioning(self) -> Versioning:
        """See `KeepsVersions.read_versioning`. Without the right to ask, a probe shows the versioning."""
        try:
            answer = self._retry(lambda: self._send("get_bucket_versioning"))
        except StoreError as error:
            if error.retryable:
                raise
            return Versioning(state=self._probe_state())
        if answer is None:
            return Versioning(state=VersioningState.OFF)
        return Versioning(
            state=VersioningState(answer.get("Status") or VersioningState.OFF),
            mfa_delete=answer.get("MFADelete") == "Enabled",
        )

    def _probe_state(self) -> VersioningState:
        """Return the versioning as the answer to a put shows it.

        Raises:
            StoreError: the store does not answer.
        """
        key = f"{PROBES}{self._new_uid()}"
        try:
            version_id = self._store.put_with_version(key, b"")
            self._erase(key, version_id)
        except StoreDenied:
            return VersioningState.UNKNOWN
        if version_id is None:
            return VersioningState.OFF
        return VersioningState.SUSPENDED if version_id == NULL_VERSION else VersioningState.ENABLED

    def _erase(self, key: str, version_id: str | None) -> str | None:
        """Delete a probe with its version and its delete marker. Return the reason if the store keeps the version.

        Raises:
            StoreError: the credentials may not delete objects, or the store does not answer.
        """
        marker_id = self._store.delete_with_version(key)
        versions = [_probe_version(key, each) for each in dict.fromkeys((version_id, marker_id)) if each is not None]
        kept = self.delete_versions(versions)
        return next((reason for version, reason in kept.items() if version.version_id == version_id), None)

    def probe_access(self) -> StoreAccess:
        """Find the missing rights and the locks of the bucket with a small object, which is deleted afterwards.

        Raises:
            StoreError: the store does not answer.
        """
        found = StoreAccess(versioning=self.read_versioning(), object_lock=self._describe_lock())
        key = f"{PROBES}{self._new_uid()}"
        version_ids: list[str | None] = []
        if found.attempt(PUT, lambda: version_ids.append(self._store.put_with_version(key, PROBE_BODY))):
            found.attempt(GET, lambda: self._store.get(key))
        found.attempt(LIST, lambda: next(self._store.list(key), None))
        kept: list[str | None] = []
        found.attempt(DELETE, lambda: kept.append(self._erase(key, version_ids[0] if version_ids else None)))
        if found.versioning.state is not VersioningState.OFF:
            found.attempt(LIST_VERSIONS, lambda: next(self.list_versions(key), None))
        if kept and kept[0] is not None:
            found.kept_reason = kept[0]
            if found.object_lock is None and kept[0].startswith("AccessDenied"):
                found.missing_rights.append(DELETE_VERSION)
        return found

    def list_versions(self, prefix: str = "") -> Iterator[KeyVersions]:
        """See `KeepsVersions.list_versions`."""
        every = chain.from_iterable(self._list_pages(prefix))
        for key, versions in groupby(every, key=lambda version: version.key):
            yield KeyVersions(key=key, versions=tuple(versions))

    def _list_pages(self, prefix: str) -> Iterator[Sequence[ObjectVersion]]:
        more: dict[str, str] = {}
        while True:
            page = self._retry(partial(self._send, "list_object_versions", Prefix=prefix, **more)) or {}
            with self._store._translate_errors(None):
                found = [_version(each, is_marker=False) for each in page.get("Versions", ())]
                found += [_version(each, is_marker=True) for each in page.get("DeleteMarkers", ())]
                before, more = more, {}
                if page.get("IsTruncated"):
                    more = {"KeyMarker": page["NextKeyMarker"]}
                    if page.get("NextVersionIdMarker"):
                        more["VersionIdMarker"] = page["NextVersionIdMarker"]
                    if more == before:
                        raise ValueError("a listing whose next page is the same page")
            yield sorted(found, key=lambda version: version.key)
            if not more:
                return

    def delete_versions(self, versions: Sequence[ObjectVersion]) -> Mapping[ObjectVersion, str]:
        """See `KeepsVersions.delete_versions`."""
        kept: dict[ObjectVersion, str] = {}
        for batch in split_batches(versions):
            named = {(each.key, each.version_id): each for each in batch}
            objects = [{"Key": key, "VersionId": version_id} for key, version_id in named]
            try:
                answer = self._retry(partial(self._send, "delete_objects", Delete={"Objects": objects, "Quiet": True}))
            except StoreDenied as error:  # The whole request is refused.
                kept |= dict.fromkeys(batch, error.found or error.message)
                continue
            for fault in (answer or {}).get("Errors", ()):
                version = named.get((fault.get("Key"), fault.get("VersionId")))
                if version is not None and fault.get("Code") not in {"NoSuchKey", "NoSuchVersion"}:
                    kept[version] = f"{fault.get('Code', '')}: {fault.get('Message', '')}"
        return kept

    def _describe_lock(self) -> str | None:
        """Describe the object lock of the bucket; None without a lock, or without the right to ask."""
        try:
            answer = self._send("get_object_lock_configuration")
        except StoreError:
            return None
        found = (answer or {}).get("ObjectLockConfiguration", {})
        if found.get("ObjectLockEnabled") != "Enabled":
            return None
        kept = found.get("Rule", {}).get("DefaultRetention", {})
        if not kept:
            return NO_RETENTION
        unit = "days" if kept.get("Days") else "years"
        return f"{kept.get('Mode')}, {kept.get('Days') or kept.get('Years')} {unit}"

    def _send(self, operation: str, **how: Any) -> Mapping[str, Any] | None:
        """Send a request about the bucket; None if the server does not know the operation."""
        with self._store._translate_errors(None):
            try:
                answer: Mapping[str, Any] = getattr(self._store._client, operation)(Bucket=self._store.bucket, **how)
            except vendor.ClientError as error:
                if error_code(error) in _UNSUPPORTED:
                    return None
                raise
        return answer


def _version(found: Mapping[str, Any], *, is_marker: bool) -> ObjectVersion:
    return ObjectVersion(
        key=found["Key"],
        version_id=found["VersionId"],
        stored_bytes=0 if is_marker else int(found["Size"]),
        etag=None if is_marker else found.get("ETag"),
        is_latest=bool(found["IsLatest"]),
        is_marker=is_marker,
    )


def _probe_version(key: str, version_id: str) -> ObjectVersion:
    return ObjectVersion(key=key, version_id=version_id, stored_bytes=0, etag=None, is_latest=False, is_marker=False)
