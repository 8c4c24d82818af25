"""Publish local files as an image version on a server. The files become temporary managed disks.

The order is: upload the disks, create the version from the uploads, wait for the source region, delete the disks. The
server stores the bytes in the pool of the gallery only (invariant S1). The name of a disk follows from the version and
the LUN, so the same command finds the disks of an earlier run.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from imgstore.domain.disks.upload_tags import UPLOAD_MISMATCH
from imgstore.domain.errors import (
    AccessDenied,
    Conflict,
    ImgstoreError,
    InvalidInput,
    NotFound,
    PropertyChangeNotAllowed,
    StoreError,
    WorkHeld,
)
from imgstore.domain.names import compute_id, definition_id, region_key, version_id
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.requests import VersionRequest
from imgstore.domain.states import ReplicaState
from imgstore.domain.storage.digests import digest_of
from imgstore.remote.arm_client import Server
from imgstore.remote.local_disk import LocalDisk
from imgstore.remote.upload import Upload, digest_of_file, discard, is_uploaded, upload
from imgstore.wire.json_text import Json
from imgstore.wire.requests.client import storage_profile, version_body

_STATUS: Final = {"$expand": "ReplicationStatus"}
_SOURCE_TYPES: Final = ("snapshots", "disks")
"""The resource types in which a source without an id is looked up, in order."""
_STAGES: Final = {"Completed": Stage.COMPLETED, "Failed": Stage.FAILED, "Degraded": Stage.FAILED}
_NAME_DIGITS: Final = 24
_RACES_MAX: Final = 8
"""The number of lost uploads after which the error has another cause."""
_RACE_SECONDS: Final = 0.1
_LOST_CODES: Final = (Conflict.code, NotFound.code, WorkHeld.code, StoreError.code)
"""The codes of an upload that was ended, a deleted disk, an upload in use, and a write during the deletion."""
_INGESTED_STATES: Final = ("Completed", "Degraded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The sources of a version: one common source, or a source per disk."""

    whole: str | None = None
    """The id of the common source of all disks: a managed image or another version."""
    disks: Mapping[int | None, "LocalDisk | str"]
    """The source of each disk by LUN, a local file, a URL or an id. The OS disk has the key None."""

    @property
    def files(self) -> dict[int | None, LocalDisk]:
        """The local files to upload."""
        return {lun: source for lun, source in self.disks.items() if isinstance(source, LocalDisk)}

    def storage(self, uploads: Mapping[int | None, Upload]) -> Json:
        """Return the storage profile of the body."""
        if self.whole is not None:
            return {"source": {"id": self.whole}}
        named = {lun: uploads[lun].disk_id if lun in uploads else source for lun, source in self.disks.items()}
        return storage_profile(
            {lun: {"id" if str(source).startswith("/") else "uri": source} for lun, source in named.items()}
        )


def publish(server: Server, request: VersionRequest, sources: Sources, *, wait: bool) -> Json:
    """Create or resume a version, or update an existing version, and return the version with its status.

    Equal commands at the same time share the temporary disks (invariant W23). The first command that ends an upload
    revokes the URL of the others, and the first command that ends deletes the disks. The other commands then begin
    again, find the ended upload or the version, and follow.

    Args:
        server: The server.
        request: The request.
        sources: The disks.
        wait: Wait for all regions, else for the source region.

    Raises:
        NotFound: The image definition does not exist. Nothing is uploaded.
        PropertyChangeNotAllowed: The version exists with other disks or in another source region.
        ReplicationFailed: A region failed. The other regions are usable.
        ImgstoreError: The error of the server.
    """
    races, shares_uploads = 0, True
    while True:
        try:
            return _attempt(server, request, sources, wait=wait, shares_uploads=shares_uploads)
        except _UploadLost as lost:
            races += 1
            if races > _RACES_MAX:
                raise lost.error from None
            shares_uploads = not lost.was_shared
            server.connection.pause(races * _RACE_SECONDS)


def forecast(server: Server, request: VersionRequest, sources: Sources) -> Json:
    """Return the effects of `publish` on the bill. The server predicts, and stores no bytes.

    The local files become temporary managed disks, as in `publish`, and are deleted afterwards. The stores of the server
    get no bytes of such a disk.

    Raises:
        NotFound: The image definition does not exist. Nothing is uploaded.
        PropertyChangeNotAllowed: The version exists with other disks or in another source region.
        ImgstoreError: The error of the server.
    """
    version = version_id(server.subscription, request.group, request.gallery, request.definition, request.version)
    existing = server.find(version, **_STATUS)
    if existing is not None and is_ingested(existing) and not (sources.files and needs_source(existing)):
        _check_same_disks(server, existing, request, sources)
        storage = None if sources.files else sources.storage({})
        return server.post_action(
            version, "whatIf", version_body(request, location=None, storage=storage), query={"method": "PATCH"}
        )
    location = region_key(server.location(server.gallery(request.group, request.gallery), request.location))
    server.show(definition_id(server.subscription, request.group, request.gallery, request.definition))
    # Separate names, because a `publish` of the same version may use its uploads now.
    uploads = {
        lun: Upload(
            disk_id=compute_id(server.subscription, request.group, "disks", upload_name(f"{version}/what-if", lun)),
            disk=disk,
            location=location,
            version=version,
        )
        for lun, disk in sources.files.items()
    }
    try:
        for each in uploads.values():
            upload(server, each)
        return server.post_action(
            version, "whatIf", version_body(request, location=location, storage=sources.storage(uploads))
        )
    finally:
        for each in uploads.values():
            discard(server, each.disk_id)


class _UploadLost(Exception):
    """Another command has ended or deleted an upload of this command."""

    def __init__(self, error: ImgstoreError, *, was_shared: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.was_shared = was_shared
        """Whether this command used an upload of another command, whose bytes may be missing on the server."""


def _attempt(server: Server, request: VersionRequest, sources: Sources, *, wait: bool, shares_uploads: bool) -> Json:
    """Publish a version once. Raises errors as `publish`, and _UploadLost."""
    version = version_id(server.subscription, request.group, request.gallery, request.definition, request.version)
    existing = server.find(version, **_STATUS)
    if existing is not None and is_ingested(existing):
        _check_same_disks(server, existing, request, sources)
    if existing is not None and is_ingested(existing) and not (sources.files and needs_source(existing)):
        storage = None if sources.files else sources.storage({})
        _run_and_watch(
            server, version, "PATCH", version_body(request, location=None, storage=storage), existing, wait=wait
        )
        with suppress(AccessDenied):  # The caller needs no right to disks, because nothing is uploaded.
            for lun in sources.files:  # A killed command may have left disks.
                discard(server, _upload_id(server, request, version, lun))
        return server.show(version, **_STATUS)
    gallery = server.gallery(request.group, request.gallery)
    location = region_key(server.location(gallery, request.location))
    uploads = {
        lun: Upload(disk_id=_upload_id(server, request, version, lun), disk=disk, location=location, version=version)
        for lun, disk in sources.files.items()
    }
    if uploads:
        server.show(
            definition_id(server.subscription, request.group, request.gallery, request.definition)
        )  # Raises NotFound before the bytes are sent.
    for each in uploads.values():
        each.disk.check()  # The upload of the first disk may take an hour before the second disk is opened.
    was_shared = False
    for each in uploads.values():
        if shares_uploads and is_uploaded(server, each):
            was_shared = True
        else:
            _upload_file(server, each)
    body = version_body(request, location=location, storage=sources.storage(uploads))
    try:
        try:
            _run_and_watch(server, version, "PUT", body, existing, wait=wait)
        except ImgstoreError as error:
            if error.error_code != UPLOAD_MISMATCH:
                raise
            for each in uploads.values():  # The ranges of an earlier run were of another file.
                discard(server, each.disk_id)
                _upload_file(server, each)
            _run_and_watch(server, version, "PUT", body, None, wait=wait)
    except ImgstoreError as error:
        if was_shared or _names_upload(error, uploads.values()):
            raise _UploadLost(error, was_shared=was_shared) from error
        _clean_up(server, version, uploads, error)
        raise
    _clean_up(server, version, uploads, None)
    return server.show(version, **_STATUS)


def _names_upload(error: ImgstoreError, uploads: Collection[Upload]) -> bool:
    """Return whether a version was refused because another command uses or has deleted an upload."""
    is_missing = any(f"Source {each.disk_id} is not found" in error.message for each in uploads)
    return is_missing or (bool(uploads) and error.error_code == WorkHeld.code)


def _upload_file(server: Server, wanted: Upload) -> None:
    """Upload a file.

    Raises:
        _UploadLost: another command has revoked the URL, has deleted the disk, or creates the version from the upload.
    """
    try:
        upload(server, wanted)
    except ImgstoreError as error:
        if error.error_code in _LOST_CODES:
            raise _UploadLost(error) from error
        raise


def _upload_id(server: Server, request: VersionRequest, version: str, lun: int | None) -> str:
    return compute_id(server.subscription, request.group, "disks", upload_name(version, lun))


def upload_name(version: str, lun: int | None) -> str:
    """Return the name of the temporary disk for a disk of a version."""
    text = f"{version.lower()}/{'os' if lun is None else lun}"
    return f"imgstore-upload-{digest_of(text.encode()).hex()[:_NAME_DIGITS]}"


def find_source(server: Server, group: str, source: str) -> str:
    """Return the id of a snapshot or managed disk. An id is returned unchanged.

    Raises:
        InvalidInput: The resource does not exist.
    """
    if source.startswith("/"):
        return source
    for kind in _SOURCE_TYPES:
        found = compute_id(server.subscription, group, kind, source)
        if server.find(found) is not None:
            return found
    raise InvalidInput(
        f"The source '{source}' does not exist.",
        found=f"no snapshot and no managed disk with this name in the resource group '{group}'",
        expected="the name of a snapshot or disk, or a full id",
        hint=f"`imgstore disk list -g {group}` shows the disks",
        target="source",
    )


def is_ingested(version: Json) -> bool:
    """Return whether the ingest of a version is complete, so that the sources are no longer needed."""
    return any(each["state"] in _INGESTED_STATES for each in _replicas(version))


def needs_source(version: Json) -> bool:
    """Return whether each copy of an ingested version is damaged, so that only the source can repair the version."""
    return all(each["state"] != ReplicaState.COMPLETED for each in _replicas(version))


def _replicas(version: Json) -> list[Json]:
    summary = version["properties"].get("replicationStatus", {}).get("summary", [])
    return [
        replica | {"region": region["region"], "details": region["details"]}
        for region in summary
        for replica in region.get("replicas", [])
    ]


def _check_same_disks(server: Server, existing: Json, request: VersionRequest, sources: Sources) -> None:
    """Check that an ingested version has the bytes of the files and the requested region."""
    if request.location is not None and region_key(request.location) != existing["location"]:
        raise PropertyChangeNotAllowed("location", found=request.location, expected=existing["location"])
    if not sources.files:
        return
    profile = existing["properties"]["storageProfile"]
    digests: dict[int | None, str | None] = {None: profile["osDiskImage"].get("diskDigest")}
    digests |= {each["lun"]: each.get("diskDigest") for each in profile.get("dataDiskImages", ())}
    if set(digests) != set(sources.disks):
        raise PropertyChangeNotAllowed(
            "galleryImageVersion.properties.storageProfile.dataDiskImages",
            found=f"data disks at LUN {_luns(sources.disks)}",
            expected=f"data disks at LUN {_luns(digests)}",
        )
    for lun, disk in sources.files.items():
        found = digest_of_file(server, disk).hex()
        if found != digests[lun]:
            where = "osDiskImage" if lun is None else f"dataDiskImages[{lun}]"
            raise PropertyChangeNotAllowed(
                f"galleryImageVersion.properties.storageProfile.{where}.source",
                found=f"{disk.path}, disk digest {found}",
                expected=f"disk digest {digests[lun]}",
            )


def _luns(disks: Mapping[int | None, object]) -> str:
    return ", ".join(str(lun) for lun in disks if lun is not None) or "none"


def _clean_up(server: Server, version: str, uploads: Mapping[int | None, Upload], error: ImgstoreError | None) -> None:
    """Delete the temporary disks if the ingest is complete. Otherwise report that the disks stay."""
    if not uploads:
        return
    try:
        existing = server.find(version, **_STATUS)
        if error is None or (existing is not None and is_ingested(existing)):
            for each in uploads.values():
                discard(server, each.disk_id)
            return
    except ImgstoreError as later:
        if error is None:
            raise
        error.add_note(f"the state of the version is unknown: {later.message}")
    names = ", ".join(each.disk_id.rpartition("/")[2] for each in uploads.values())
    if error is not None:
        error.add_note(
            f"the uploaded disks stay, and the same command resumes; `imgstore disk delete` removes the disks: {names}"
        )


def _run_and_watch(server: Server, version: str, method: str, body: Json, existing: Json, *, wait: bool) -> None:
    """Create or change a version, and report the progress until the end."""
    watch = _ProgressWatcher(server, version, existing, wait=wait)
    answer = server.begin(method, version, body)
    try:
        server.finish(answer, watch)
    finally:
        with suppress(ImgstoreError):  # `finish` raises the error of the operation.
            watch()


class _ProgressWatcher:
    """A reporter of the progress of each replica. A call returns True when no further wait is needed."""

    def __init__(self, server: Server, version: str, existing: Json, *, wait: bool) -> None:
        self._server, self._version, self._wait = server, version, wait
        before = _replicas(existing) if existing is not None else []
        self._complete_tasks = {_task_name(each) for each in before if each["state"] == "Completed"}
        self._last_events: dict[str, ProgressEvent] = {}

    def __call__(self) -> bool:
        existing = self._server.find(self._version, **_STATUS)
        if existing is None:
            return False
        for each in _replicas(existing):
            if _task_name(each) not in self._complete_tasks:
                self._report(each)
        return not self._wait and is_ingested(existing)

    def _report(self, replica: Json) -> None:
        task = _task_name(replica)
        last = self._last_events.get(task)
        if replica["state"] == "Pending" and last is None:
            return
        event = ProgressEvent(
            task=task,
            stage=_STAGES.get(replica["state"], Stage.STARTED if last is None else Stage.MOVED),
            bytes_done=replica["bytesDone"],
            bytes_total=replica["bytesTotal"],
            detail=replica["details"] or replica["state"],
        )
        if event != last:
            self._last_events[task] = event
            self._server.subscriber(event)


def _task_name(replica: Json) -> str:
    """Return the name of the progress task of a replica, such as "westus2/0"."""
    return f"{region_key(replica['region'])}/{replica['replica']}"
