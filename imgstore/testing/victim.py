"""A process that runs one command and dies at a chosen step of it.

Run by ``scenes.Scene.victim``, as ``python -m``, with its orders as JSON.

Every step that changes something the outside can see is counted: each change of a directory's files (written, synced,
renamed, linked, removed), each request to an S3 store, each commit of the catalog, before and after. At the step whose
number is `fatal` the process sends itself `signal`; with `fatal` 0 it runs through and prints how many steps there were.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from imgstore.bootstrap import Settings, open_installation
from imgstore.catalog.database import Database
from imgstore.domain.resources import DiskKind
from imgstore.operations import disks, images, versions
from imgstore.operations.images import ImageRequest
from imgstore.operations.installation import Installation
from imgstore.operations.making import DiskRequest, create_from_source
from imgstore.stores.s3 import S3Store
from imgstore.testing import installations
from imgstore.testing.installations import ADMIN, GROUP


class Steps:
    """Counts, and strikes once."""

    def __init__(self, fatal: int, number: int) -> None:
        """Strike at step `fatal` with the signal of that number."""
        self.count = 0
        self._fatal = fatal
        self._signal = number
        self._lock = threading.Lock()

    def step(self) -> None:
        """One more."""
        with self._lock:
            self.count += 1
            struck = self.count == self._fatal
        if struck:
            os.kill(os.getpid(), self._signal)

    def around(self, holder: Any, name: str) -> None:
        """A step before and one after each call of `holder.name`."""
        real: Callable[..., Any] = getattr(holder, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.step()
            result = real(*args, **kwargs)
            self.step()
            return result

        setattr(holder, name, counted)

    def around_commits(self) -> None:
        """A step before and one after each commit of the catalog."""
        real: Callable[..., AbstractContextManager[Any]] = Database.writing

        @contextmanager
        def counted(database: Database, *args: Any) -> Iterator[Any]:
            with real(database, *args) as session:
                yield session
                self.step()
            self.step()

        setattr(Database, "writing", counted)  # noqa: B010 - mypy takes no method for another


def run(job: str, orders: dict[str, Any], installation: Installation) -> None:
    """The command itself."""
    version = orders.get("version", "1.0.0")
    if job == "publish":
        data = {int(lun): path for lun, path in orders.get("data", {}).items()}
        installations.publish_disks(installation, orders["source"], data, version, orders["targets"])
    elif job == "disk":
        installations.make_disk(installation, orders["name"], orders["location"], version, orders.get("lun"))
    elif job == "disk of a file":
        request = DiskRequest(group=GROUP, name=orders["name"], source=orders["source"], location="southcentralus")
        create_from_source(installation, ADMIN, request)
    elif job == "image":
        asked = ImageRequest(group=GROUP, name=orders["name"], source=orders["source"], data_sources=orders["data"])
        images.create_image(installation, ADMIN, asked)
    elif job == "publish stored":
        versions.create_version(
            installation, ADMIN, installations.request(version, orders["targets"]), managed_image=orders["source"]
        )
    elif job == "delete image":
        disks.delete_disk(installation, ADMIN, group=GROUP, name=orders["name"], kind=DiskKind.IMAGE)
    elif job == "export":
        installations.export(installation, Path(orders["path"]), orders["location"], version)
    elif job == "retarget":
        installations.retarget(installation, orders["targets"], version)
    elif job == "delete":
        installations.delete(installation, version)
    elif job == "gc":
        installations.collect(installation)
    elif job == "delete disk":
        disks.delete_disk(installation, ADMIN, group=GROUP, name=orders["name"])
    else:
        raise AssertionError(job)


def settings_of(orders: dict[str, Any]) -> Settings:
    """The settings that a scene's orders name."""
    regions = orders.get("regions")
    return Settings(
        home=Path(orders["home"]),
        regions=None if regions is None else Path(regions),
        database=orders.get("database"),
        environ=orders.get("environ", {}),
    )


def main() -> None:
    """Run what the one argument orders."""
    orders = json.loads(sys.argv[1])
    steps = Steps(orders["fatal"], orders.get("signal", signal.SIGKILL))
    with open_installation(settings_of(orders)) as installation:
        for name in ("fsync", "rename", "link", "unlink", "pwrite"):
            steps.around(os, name)
        for name in ("put", "delete", "get", "list"):
            steps.around(S3Store, name)
        steps.around_commits()
        run(orders["job"], orders, installation)
    print(steps.count)


if __name__ == "__main__":
    main()
