"""A process that runs one command and kills itself at a chosen step.

`CrashScene.run_job` starts the process with ``python -m`` and its orders as JSON.

The process counts every step with an effect outside: each change of a directory's files (write, sync, rename, link,
remove), each request to an S3 store, and each commit of the catalog, before and after. At the step with the number
`fatal`, the process sends itself `signal`. With `fatal` 0 the process completes and prints the number of steps. With
`watch`, the process sends itself the signal after the first commit with the named state (`present_states`).
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

from imgstore.bootstrap import Settings, open_installation
from imgstore.catalog import Transaction
from imgstore.catalog.engine.database import Database
from imgstore.domain.disks.signed_urls import AccessLevel
from imgstore.domain.requests import DiskRequest, ImageRequest, MachineRequest, OsProfile, ScrubRequest, UploadRequest
from imgstore.domain.resources import DiskKind, ImageVersion, ReplicationMode
from imgstore.domain.storage.works import WorkKind
from imgstore.operations.disks import disks, signed_urls, uploads
from imgstore.operations.disks.commit import commit_disk
from imgstore.operations.disks.from_source import create_from_source
from imgstore.operations.installation import Installation
from imgstore.operations.machines import images, machines
from imgstore.operations.machines.create import create_machine
from imgstore.operations.maintenance.scrub import scrub
from imgstore.operations.maintenance.worker import run_worker
from imgstore.stores.s3.store import S3Store
from tests.support import sample_gallery
from tests.support.sample_gallery import ADMIN, GROUP, create_version


class StepCounter:
    """A counter of steps that sends one signal."""

    def __init__(self, fatal: int, number: int) -> None:
        """Send the signal `number` at the step `fatal`."""
        self.count = 0
        self._fatal = fatal
        self._signal = number
        self._lock = threading.Lock()

    def step(self) -> None:
        """Count a step."""
        with self._lock:
            self.count += 1
            struck = self.count == self._fatal
        if struck:
            os.kill(os.getpid(), self._signal)

    def around(self, holder: Any, name: str) -> None:
        """Count a step before and after each call of `holder.name`."""
        real: Callable[..., Any] = getattr(holder, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.step()
            result = real(*args, **kwargs)
            self.step()
            return result

        setattr(holder, name, counted)

    def wrap_commits(self) -> None:
        """Count a step before and after each commit of the catalog."""
        real: Callable[..., AbstractContextManager[Any]] = Database.writing

        @contextmanager
        def counted(database: Database, *args: Any) -> Iterator[Any]:
            with real(database, *args) as session:
                yield session
                self.step()
            self.step()

        setattr(Database, "writing", counted)  # noqa: B010 - mypy takes no method for another

    def stop_at_state(self, installation: Installation, watched: str) -> None:
        """Send the signal after the first commit of the catalog with a state.

        Args:
            installation: the installation with the catalog.
            watched: the state as in `present_states`.
        """
        real: Callable[..., AbstractContextManager[Any]] = Database.writing

        @contextmanager
        def looking(database: Database, *args: Any) -> Iterator[Any]:
            with real(database, *args) as session:
                yield session
            with installation.catalog.reading() as transaction:
                if watched in present_states(transaction):
                    os.kill(os.getpid(), self._signal)

        setattr(Database, "writing", looking)  # noqa: B010 - mypy takes no method for another


def present_states(transaction: Transaction) -> frozenset[str]:
    """Return the states of all rows of a small catalog, each as "replica Degraded" or "disk Creating".

    A soft-deleted version is "version SoftDeleted". A work has its kind: "ingest Open", or "disk-work Open" for the
    work of a disk. A disk that waits for its upload is also "upload ReadyToUpload", and a disk with a signed URL is
    "grant active". A leased maintenance task is "maintenance-turn Leased".
    """
    found = set[str]()
    for version in _versions(transaction):
        found.add(f"version {'SoftDeleted' if version.soft_deleted_at else version.provisioning_state}")
        found.update(f"replica {replica.state}" for replica in transaction.replicas.list(version.uid))
    for slot in [slot for pool in transaction.pools.list() for slot in transaction.slots.list(pool.uid)]:
        found.update(f"segment {each.gc_state}" for each in transaction.deletion_marks.list(slot.uid))
        found.update(
            f"{disk.kind.removesuffix('s')} {disk.provisioning_state}" for disk in transaction.disks.in_slot(slot.uid)
        )
        found.update(f"upload {disk.disk_state}" for disk in transaction.disks.in_slot(slot.uid) if disk.awaits_upload)
        found.update("grant active" for disk in transaction.disks.in_slot(slot.uid) if disk.grant is not None)
    subscription = transaction.installation.get().subscription
    found.update(f"machine {each.provisioning_state}" for each in transaction.machines.list(subscription))
    for work in transaction.works.list_open():
        found.add(f"{'disk-work' if work.kind is WorkKind.DISK else work.kind} {work.state}")
    found.update("maintenance-turn Leased" for turn in transaction.maintenance_tasks.list() if turn.holder is not None)
    return frozenset(found)


def _versions(transaction: Transaction) -> Iterator[ImageVersion]:
    for gallery in transaction.galleries.list(transaction.installation.get().subscription):
        for definition in transaction.definitions.list(gallery.uid):
            yield from transaction.versions.list(definition.uid)


def run(job: str, orders: dict[str, Any], installation: Installation) -> None:
    """Run the command."""
    version = orders.get("version", "1.0.0")
    if job == "publish":
        data = {int(lun): path for lun, path in orders.get("data", {}).items()}
        sample_gallery.publish_disks(installation, orders["source"], data, version, orders["targets"])
    elif job == "disk":
        words = {"allow_remote": orders.get("allow_remote", False), "lun": orders.get("lun")}
        sample_gallery.make_disk(installation, orders["name"], orders["location"], version, **words)
    elif job == "disk of a file":
        kind = DiskKind(orders.get("kind", DiskKind.DISK))
        request = DiskRequest(
            group=GROUP, name=orders["name"], source=orders["source"], location="southcentralus", kind=kind
        )
        create_from_source(installation, ADMIN, request)
    elif job == "commit":
        commit_disk(installation, ADMIN, DiskRequest(group=GROUP, name=orders["name"], source=orders["overlay"]))
    elif job == "upload":
        _upload(installation, orders["name"], Path(orders["file"]))
    elif job == "grant":
        _grant(installation, orders["name"], AccessLevel(orders["level"]))
    elif job == "revoke":
        uploads.revoke_access(installation, ADMIN, group=GROUP, name=orders["name"])
    elif job == "image":
        image = ImageRequest(group=GROUP, name=orders["name"], source=orders["source"], data_sources=orders["data"])
        images.create_image(installation, ADMIN, image)
    elif job == "publish stored":
        mode = ReplicationMode(orders.get("mode", "Full"))
        asked = sample_gallery.request(version, orders["targets"], replication_mode=mode)
        create_version(installation, ADMIN, asked, managed_image=orders["source"])
    elif job == "machine":
        profile = OsProfile(admin_username="azureuser")
        create_machine(installation, ADMIN, MachineRequest(group=GROUP, profile=profile, **orders["machine"]))
    elif job == "delete machine":
        machines.delete_machine(installation, ADMIN, group=GROUP, name=orders["name"])
    elif job == "delete image":
        disks.delete_disk(installation, ADMIN, group=GROUP, name=orders["name"], kind=DiskKind.IMAGE)
    elif job == "export":
        sample_gallery.export(installation, Path(orders["path"]), orders["location"], version)
    elif job == "retarget":
        sample_gallery.retarget(installation, orders["targets"], version)
    elif job == "delete":
        sample_gallery.delete(installation, version)
    elif job == "gc":
        sample_gallery.collect(installation)
    elif job == "scrub":
        scrub(installation, ADMIN, ScrubRequest())
    elif job == "worker":
        run_worker(installation, ADMIN, once=True)
    elif job == "delete disk":
        kind = DiskKind(orders.get("kind", DiskKind.DISK))
        disks.delete_disk(installation, ADMIN, group=GROUP, name=orders["name"], kind=kind)
    else:
        raise AssertionError(job)


def _upload(installation: Installation, name: str, file: Path) -> None:
    """Send a fixed VHD to a disk that waits for its upload, and grant a signed URL for more data."""
    data = file.read_bytes()
    request = UploadRequest(group=GROUP, name=name, location="southcentralus", upload_bytes=len(data))
    with closing(uploads.open_spool(installation, uploads.create_upload(installation, ADMIN, request))) as spool:
        spool.write(0, [data])
    _grant(installation, name, AccessLevel.WRITE)


def _grant(installation: Installation, name: str, level: AccessLevel) -> None:
    signed_urls.grant_access(
        installation, ADMIN, group=GROUP, name=name, level=level, duration_seconds=600, server_url="https://localhost"
    )


def parse_settings(orders: dict[str, Any]) -> Settings:
    """Create the settings from the orders of a scene."""
    regions = orders.get("regions")
    return Settings(
        home=Path(orders["home"]),
        regions=None if regions is None else Path(regions),
        database=orders.get("database"),
        environ=orders.get("environ", {}),
        cache_bytes=0,  # A repeated job must have as many steps. tests/transfer/ kills processes inside the cache.
    )


def main() -> None:
    """Run the orders in the only argument."""
    orders = json.loads(sys.argv[1])
    steps = StepCounter(orders["fatal"], orders.get("signal", signal.SIGKILL))
    with open_installation(parse_settings(orders)) as installation:
        for name in ("fsync", "rename", "link", "unlink", "pwrite"):
            steps.around(os, name)
        for name in ("put", "delete", "get", "list"):
            steps.around(S3Store, name)
        steps.wrap_commits()
        if "watch" in orders:
            steps.stop_at_state(installation, orders["watch"])
        run(orders["job"], orders, installation)
    print(steps.count)


if __name__ == "__main__":
    main()
