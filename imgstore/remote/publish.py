"""Files here become an image version there: as disks that last until the version has their bytes.

The order: the disks are uploaded; the version is asked for, from them; its source region has it; the disks go. Each disk
is named after the version and its own place in it, so the same command finds what an earlier one brought.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from imgstore.domain.errors import ImgstoreError, InvalidInput, PropertyChangeNotAllowed
from imgstore.domain.names import compute_id, region_key, version_id
from imgstore.domain.progress import ProgressEvent, Stage
from imgstore.domain.requests import VersionRequest
from imgstore.domain.storage.digests import digest_of
from imgstore.remote.arm_client import Server
from imgstore.remote.local_disk import LocalDisk
from imgstore.remote.upload import Upload, digest_of_file, discard, upload
from imgstore.wire.json_text import Json
from imgstore.wire.requests.client import storage_profile, version_body

_STATUS: Final = {"$expand": "ReplicationStatus"}
_LOOKED_FOR: Final = ("snapshots", "disks")
"""Where a source that is named only may be, in this order."""
_STAGES: Final = {"Completed": Stage.COMPLETED, "Failed": Stage.FAILED, "Degraded": Stage.FAILED}
_NAME_DIGITS: Final = 24
_ARRIVED: Final = ("Completed", "Degraded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where a version's disks come from: one of the two."""

    whole: str | None = None
    """The id of what all of them come from: a managed image or another version."""
    disks: Mapping[int | None, "LocalDisk | str"]
    """Each disk's own by its LUN, the OS disk's by None: a file here, a URL that the server reads, an id."""

    @property
    def files(self) -> dict[int | None, LocalDisk]:
        """Those that are to be brought."""
        return {lun: source for lun, source in self.disks.items() if isinstance(source, LocalDisk)}

    def storage(self, uploads: Mapping[int | None, Upload]) -> Json:
        """As a body names them."""
        if self.whole is not None:
            return {"source": {"id": self.whole}}
        named = {lun: uploads[lun].disk_id if lun in uploads else source for lun, source in self.disks.items()}
        return storage_profile(
            {lun: {"id" if str(source).startswith("/") else "uri": source} for lun, source in named.items()}
        )


def publish(server: Server, request: VersionRequest, sources: Sources, *, wait: bool) -> Json:
    """Make a version, or go on with it where it stood, or change what may change; the version with its status.

    Args:
        server: where.
        request: what is asked for.
        sources: its disks.
        wait: until all regions have it; else until the source region has.

    Raises:
        PropertyChangeNotAllowed: it stands, with other disks or in another source region.
        ReplicationFailed: a region failed; the others serve.
        ImgstoreError: as the server raised it.
    """
    version = version_id(server.subscription, request.group, request.gallery, request.definition, request.version)
    standing = server.find(version, **_STATUS)
    if standing is not None and has_arrived(standing):
        _check_same_disks(server, standing, request, sources)
        storage = None if sources.files else sources.storage({})
        _run_and_watch(
            server, version, "PATCH", version_body(request, location=None, storage=storage), standing, wait=wait
        )
        return server.show(version, **_STATUS)
    gallery = server.gallery(request.group, request.gallery)
    location = region_key(server.location(gallery, request.location))
    uploads = {
        lun: Upload(
            disk_id=compute_id(server.subscription, request.group, "disks", upload_name(version, lun)),
            disk=disk,
            location=location,
            tags={"imgstore-for": version[-200:]},
            is_temporary=True,
        )
        for lun, disk in sources.files.items()
    }
    for each in uploads.values():
        upload(server, each)
    body = version_body(request, location=location, storage=sources.storage(uploads))
    try:
        _run_and_watch(server, version, "PUT", body, standing, wait=wait)
    except ImgstoreError as error:
        _clean(server, version, uploads, error)
        raise
    _clean(server, version, uploads, None)
    return server.show(version, **_STATUS)


def upload_name(version: str, lun: int | None) -> str:
    """What the disk is called that brings one of a version's disks."""
    text = f"{version.lower()}/{'os' if lun is None else lun}"
    return f"imgstore-upload-{digest_of(text.encode()).hex()[:_NAME_DIGITS]}"


def find_source(server: Server, group: str, source: str) -> str:
    """The id of a snapshot or managed disk that is named, or its id as it is.

    Raises:
        InvalidInput: there is none of that name.
    """
    if source.startswith("/"):
        return source
    for kind in _LOOKED_FOR:
        found = compute_id(server.subscription, group, kind, source)
        if server.find(found) is not None:
            return found
    raise InvalidInput(
        f"There is no source '{source}'.",
        found=f"no snapshot and no managed disk of that name in the group '{group}'",
        expected="one, or the full id of one elsewhere",
        hint=f"`imgstore disk list -g {group}` shows the disks",
        target="source",
    )


def has_arrived(version: Json) -> bool:
    """Whether the source has been taken in, so that it need not be there any more."""
    return any(each["state"] in _ARRIVED for each in _replicas(version))


def _replicas(version: Json) -> list[Json]:
    summary = version["properties"].get("replicationStatus", {}).get("summary", [])
    return [
        replica | {"region": region["region"], "details": region["details"]}
        for region in summary
        for replica in region.get("replicas", [])
    ]


def _check_same_disks(server: Server, standing: Json, request: VersionRequest, sources: Sources) -> None:
    """See that a version that has its bytes has those of the files, and stands where it is asked for."""
    if request.location is not None and region_key(request.location) != standing["location"]:
        raise PropertyChangeNotAllowed("location", found=request.location, expected=standing["location"])
    if not sources.files:
        return
    profile = standing["properties"]["storageProfile"]
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


def _clean(server: Server, version: str, uploads: Mapping[int | None, Upload], error: ImgstoreError | None) -> None:
    """Let the disks go that brought the bytes, if the version has these; else say that they stay."""
    if not uploads:
        return
    try:
        standing = server.find(version, **_STATUS)
        if error is None or (standing is not None and has_arrived(standing)):
            for each in uploads.values():
                discard(server, each.disk_id)
            return
    except ImgstoreError as later:
        if error is None:
            raise
        error.add_note(f"what became of it could not be asked: {later.message}")
    names = ", ".join(each.disk_id.rpartition("/")[2] for each in uploads.values())
    if error is not None:
        error.add_note(
            f"what was uploaded stays, and the same command goes on from it; `imgstore disk delete` removes it: {names}"
        )


def _run_and_watch(server: Server, version: str, method: str, body: Json, standing: Json, *, wait: bool) -> None:
    """Have a version made or changed, and tell how far it is until it is done."""
    watch = _ProgressWatcher(server, version, standing, wait=wait)
    answer = server.begin(method, version, body)
    try:
        server.finish(answer, watch)
    finally:
        with suppress(ImgstoreError):  # How it ended is said by what `finish` raises.
            watch()


class _ProgressWatcher:
    """Tells how far each replica is, between two looks at the operation; True once nobody needs to wait."""

    def __init__(self, server: Server, version: str, standing: Json, *, wait: bool) -> None:
        self._server, self._version, self._wait = server, version, wait
        before = _replicas(standing) if standing is not None else []
        self._whole = {_task_name(each) for each in before if each["state"] == "Completed"}
        self._told: dict[str, ProgressEvent] = {}

    def __call__(self) -> bool:
        standing = self._server.find(self._version, **_STATUS)
        if standing is None:
            return False
        for each in _replicas(standing):
            if _task_name(each) not in self._whole:
                self._tell(each)
        return not self._wait and has_arrived(standing)

    def _tell(self, replica: Json) -> None:
        task = _task_name(replica)
        last = self._told.get(task)
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
            self._told[task] = event
            self._server.subscriber(event)


def _task_name(replica: Json) -> str:
    """Whose news it is, as at a home: "westus2/0"."""
    return f"{region_key(replica['region'])}/{replica['replica']}"
