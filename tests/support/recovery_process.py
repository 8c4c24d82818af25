"""A process that kills backups and restores at many steps, in forked children, and repeats each killed command.

Started with ``python -m``, the job and its paths as JSON. The process has one thread, so that a fork is safe.

Steps are the calls of `os` that change files. A killed restore must leave a home that is refused, or no home, or a
complete home. A killed backup must leave no file.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from imgstore.bootstrap import Settings, open_installation
from imgstore.domain.errors import Conflict
from imgstore.operations.recovery import backup_file
from imgstore.operations.recovery.backup import backup_catalog
from imgstore.operations.recovery.restore import RestoreRequest, restore_backup
from imgstore.operations.recovery.restore_mark import mark_path
from tests.support.crash_process import StepCounter
from tests.support.sample_gallery import ADMIN

STEPS: Final = ("open", "pwrite", "ftruncate", "fsync", "mkdir", "link", "rename", "unlink")


def run_child(act: Callable[[], object], fatal: int) -> bool:
    """Run an action in a child that is killed at a step. Return whether the action ended before the step."""
    child = os.fork()
    if not child:
        counter = StepCounter(fatal, signal.SIGKILL)
        for name in STEPS:
            counter.around(os, name)
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - the parent reports
            sys.stderr.write(f"step {fatal}: {error!r}\n")
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        return False
    assert status == 0, f"the action failed, see above; step {fatal}"
    return True


def check_refused(home: Path) -> None:
    """Check that a home with the mark of a restore is not opened."""
    mark = mark_path(home)
    if not mark.exists() or not mark.stat().st_size:
        return
    try:
        with open_installation(Settings(home=home, environ={})):
            raise AssertionError(f"{home} was opened")
    except Conflict:
        pass


def kill_restores(file: Path, folder: Path) -> int:
    """Kill a restore at each third step, and finish each restore. Return the number of steps."""
    catalog = b"".join((backup := backup_file.open_backup(file)).read(backup.catalog))
    for fatal in range(1, 10_000, 3):
        home = folder / f"home-{fatal}"
        request = RestoreRequest(file=file, home=home)
        is_complete = run_child(partial(restore_backup, request), fatal)
        check_refused(home)
        if not (home / "catalog.sqlite").exists() or mark_path(home).exists():
            restore_backup(request)
        assert (home / "catalog.sqlite").read_bytes() == catalog
        assert not mark_path(home).exists()
        found = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
        assert found == set(backup.members) - {"regions.yaml"}, found
        shutil.rmtree(home)
        if is_complete:
            return fatal - 1
    raise AssertionError("the restore never ended")


def kill_backups(home: Path, folder: Path) -> int:
    """Kill a backup at some steps. Return the number of killed backups."""

    def act() -> None:
        with open_installation(Settings(home=home, environ={})) as installation:
            backup_catalog(installation, ADMIN, folder / "b.tar")

    for killed, fatal in enumerate(range(1, 10_000, 4)):
        is_complete = run_child(act, fatal)
        if (folder / "b.tar").exists():
            backup_file.open_backup(folder / "b.tar")
            (folder / "b.tar").unlink()
        if is_complete:
            assert not list(folder.iterdir()), "the leftovers of killed backups are removed"
            return killed
    raise AssertionError("the backup never ended")


def kill_database_restore(file: Path, home: Path, database: str) -> int:
    """Kill a restore in the middle of the dump, and repeat the restore."""
    request = RestoreRequest(file=file, home=home, database=database)
    backup = backup_file.open_backup(file)

    def act() -> None:
        real = backup_file.Backup.read

        def read(self: backup_file.Backup, member: backup_file.Member) -> Iterator[bytes]:
            for number, part in enumerate(real(self, member)):
                if member == backup.catalog and number:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield part

        setattr(backup_file, "MIB", backup.catalog.stored_bytes // 2)  # noqa: B010 - the size of a part
        setattr(backup_file.Backup, "read", read)  # noqa: B010 - mypy takes no function for a method
        restore_backup(request)

    assert not run_child(act, 0)
    assert mark_path(home).exists()
    restore_backup(request)
    return 1


if __name__ == "__main__":
    job, *paths = json.loads(sys.argv[1])
    if job == "restore":
        print(kill_restores(Path(paths[0]), Path(paths[1])))
    elif job == "backup":
        print(kill_backups(Path(paths[0]), Path(paths[1])))
    else:
        print(kill_database_restore(Path(paths[0]), Path(paths[1]), paths[2]))
