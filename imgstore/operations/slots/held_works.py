"""Wait for a work of another process instead of a refusal (invariant W23).

Two equal commands at the same time want the same work. The second command follows the work: it reports the saved
progress, and ends with the result of the first command. If the first process dies or is interrupted, the second takes
the work over.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from imgstore.catalog import Transaction
from imgstore.domain.errors import LostRace, NotFound, WorkLeased, error_from_json
from imgstore.domain.states import WorkState
from imgstore.domain.storage.works import Work
from imgstore.operations.installation import Installation
from imgstore.operations.progress import SavedProgress
from imgstore.operations.slots.removal import is_work_alive

_FIRST_LOOK_SECONDS: Final = 0.05
_LOOK_SECONDS_MAX: Final = 1.0
_RACES_MAX: Final = 5
"""The number of lost races after which the error is no race."""

_T = TypeVar("_T")


def follow_work(installation: Installation, work_uid: str, task: str) -> None:
    """Wait until no process does a work any more, and report the progress that the other process saves.

    Afterwards the caller reads the catalog again: the work is completed, or may be taken over.

    Args:
        installation: the installation.
        work_uid: the work.
        task: the name of the task for reports.

    Raises:
        ImgstoreError: the other process failed. The error has the parts of its error.
        KeyboardInterrupt: this process must end, or the operation was canceled.
    """
    progress = SavedProgress(installation, task)
    seconds, is_noted = _FIRST_LOOK_SECONDS, False
    while True:
        with installation.catalog.reading() as transaction:
            try:
                work = transaction.works.get(work_uid)
            except NotFound:
                return  # The resource was removed.
            is_held = is_held_elsewhere(installation, transaction, work)
        if not is_held:
            break
        if not is_noted:
            installation.note(task, f"{task}: another process does this work; its progress and its result follow")
            is_noted = True
        progress.report(work.bytes_done, work.bytes_total)
        installation.effects.wait(seconds)
        installation.keeper.check_cancelled()
        seconds = min(2 * seconds, _LOOK_SECONDS_MAX)
    if work.state is WorkState.COMPLETED:
        progress.end()
    elif work.failure is not None:
        error = error_from_json(work.failure)
        progress.fail(error.message)
        raise error
    elif is_noted and work.state is WorkState.OPEN:
        installation.note(task, f"{task}: the other process has stopped; this process takes over the work")


def is_held_elsewhere(installation: Installation, transaction: Transaction, work: Work) -> bool:
    """Return whether another process, or another thread of this process, does a work now."""
    if work.state is not WorkState.OPEN or not is_work_alive(transaction, work):
        return False
    keeper = installation.keeper
    return work.holder != keeper.holder or keeper.own_token(work.uid) == work.token


def run_or_follow(installation: Installation, task: str, attempt: Callable[[], _T]) -> _T:
    """Run a function that begins with the present rows. Follow the other process while it does the same work.

    Args:
        installation: the installation.
        task: the name of the task for reports.
        attempt: reads or writes the rows, and does the work. May be repeated.

    Raises:
        ImgstoreError: the error of `attempt`, or of the other process.
    """
    races = 0
    while True:
        try:
            return attempt()
        except WorkLeased as held:
            follow_work(installation, str(held.target), task)
        except LostRace:
            races += 1
            if races > _RACES_MAX:
                raise
            installation.effects.wait(races * _FIRST_LOOK_SECONDS)
