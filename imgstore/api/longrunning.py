"""Long-running operations: begun in threads of their own, answered when accepted, written down until they end.

A row is written before a command begins. What is refused before it was accepted is the answer to the request, and the
row goes; what happens later stands in the row. A process that ends, or dies, leaves its rows InProgress, and the next
one to start does the same commands again: all of them are what PUT, PATCH and DELETE are, good to repeat.
"""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeAlias

from imgstore.api.discretion import told
from imgstore.api.fair_pool import FairPool, PoolLimits
from imgstore.domain.access import Principal, administrator
from imgstore.domain.asynchronous import AsyncOperation
from imgstore.domain.errors import ImgstoreError, StoreError
from imgstore.operations.identities import standing_principal
from imgstore.operations.installation import Installation
from imgstore.operations.long_running import close_operation, drop_operation, open_operation, take_up_operations
from imgstore.wire.text import Json

_log: Final = logging.getLogger("imgstore.api")


class Stopping(ImgstoreError):
    """The server is about to end."""

    code = "ServerStopping"
    status = 503


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Who asks, where."""

    installation: Installation
    """Of the subscription that is asked for."""
    principal: Principal
    api_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What was begun."""

    operation_uid: str
    created: bool
    """Whether the resource is new."""
    body: Json
    """The resource as it stands; None of one that goes."""


Outcome: TypeAlias = tuple[bool, Json]
"""Whether the resource is new, and what it is now; None of one that goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A command to be done."""

    session: Session
    request: Mapping[str, Any]
    accept: Callable[[Outcome], None]
    """Answers the request before the command is done. Only the first call counts."""
    uid: str
    """The operation's."""


ASKS_AS_IT_GOES: Final = frozenset({"put-deployment"})
"""Commands that make several resources, each of which needs a right of its own, after they were accepted."""

Command: TypeAlias = Callable[[Task], Outcome]
"""Gives what it came to: the answer, unless one was given early."""


class LongRunner:
    """Does commands in its own threads."""

    def __init__(self, installation: Installation, commands: Mapping[str, Command], limits: PoolLimits) -> None:
        self._installation = installation
        self._commands = commands
        self._pool = FairPool(limits, "operation")

    def begin(
        self, caller: str, session: Callable[[], Session], kind: str, request: Mapping[str, Any]
    ) -> "Future[Accepted]":
        """Do a command; the answer is there once it was accepted or refused.

        Args:
            caller: the object id of who asks: whose share of the threads it takes.
            session: who asks; called in the thread.
            kind: the command's name.
            request: what it needs, as JSON.

        Raises:
            CallerQueueFull, PoolQueueFull: too many commands wait.
        """
        answer: Future[Accepted] = Future()
        begun = self._pool.submit(caller, lambda: self._begin(answer, session, kind, request))
        begun.add_done_callback(lambda done: _pass_on_refusal(done, answer))
        return answer

    def resume(self) -> int:
        """Go on with what dead processes left; tells how many there were."""
        left = take_up_operations(self._installation)
        for operation in left:
            # Rows without a caller are of no principal's share; `_resume` refuses them.
            self._pool.submit(operation.principal_uid or "", partial(self._resume, operation), bounded=False)
        return len(left)

    def close(self, wait_seconds: float) -> None:
        """Stop what runs at its next request to a store; its rows stay, for the next process to go on from.

        An operation that does not stop within so many seconds is abandoned.
        """
        self._installation.keeper.interrupt()
        if not self._pool.close(wait_seconds):
            _log.warning("operations still ran when the server ended; the next server resumes them")

    def _begin(
        self, answer: "Future[Accepted]", ask: Callable[[], Session], kind: str, request: Mapping[str, Any]
    ) -> None:
        try:
            session = ask()
            whole = {**request, "api_version": session.api_version}
            opened = open_operation(session.installation, session.principal, kind=kind, request=whole)
        except Exception as error:  # noqa: BLE001 - whatever it is, the handler waits for it
            answer.set_exception(error)
            return

        def accept(outcome: Outcome) -> None:
            if not answer.done():
                created, body = outcome
                answer.set_result(Accepted(operation_uid=opened.uid, created=created, body=body))

        self._perform(opened, Task(session=session, request=whole, accept=accept, uid=opened.uid), answer)

    def _perform(self, operation: AsyncOperation, task: Task, answer: "Future[Accepted]") -> None:
        """Do it and write its end down; then answer, so that the first look at what was quick finds its end."""
        try:
            outcome = self._commands[operation.kind](task)
            close_operation(task.session.installation, operation.uid)
        except Exception as error:  # noqa: BLE001 - told to whoever asks
            if not isinstance(error, ImgstoreError):
                _log.exception("operation %s (%s) failed in a way that was not foreseen", operation.uid, operation.kind)
            self._failed(operation, task.session.installation, answer, error)
        except BaseException:  # noqa: BLE001 - the process is to end: the row stays for the next one
            if not answer.done():
                answer.set_exception(Stopping("The server is stopping.", hint="send the same request again"))
        else:
            task.accept(outcome)

    def _failed(
        self, operation: AsyncOperation, installation: Installation, answer: "Future[Accepted]", error: Exception
    ) -> None:
        try:
            if answer.done():
                close_operation(installation, operation.uid, told(installation, error)["error"])
            else:
                drop_operation(installation, operation.uid)
        except StoreError as lost:
            _log.warning("the end of operation %s could not be written down: %s", operation.uid, lost)
        if not answer.done():
            answer.set_exception(error)

    def _principal(self, operation: AsyncOperation) -> Principal:
        """In whose name it goes on: whether they may was decided when it was accepted, but for what asks as it goes."""
        if operation.kind not in ASKS_AS_IT_GOES or operation.principal_uid is None:
            return administrator(operation.principal)
        found = standing_principal(self._installation, operation.principal_uid)
        return Principal(name=operation.principal) if found is None else found

    def _resume(self, operation: AsyncOperation) -> None:
        installation = replace(self._installation, subscription=operation.subscription)
        session = Session(
            installation=installation,
            principal=self._principal(operation),
            api_version=str(operation.request["api_version"]),
        )
        # The conditions held then, and the operation itself has changed what they are about since.
        request = {**operation.request, "conditions": {}}
        answered: Future[Accepted] = Future()
        answered.set_result(Accepted(operation_uid=operation.uid, created=False, body=None))  # Given long ago.
        self._perform(
            operation, Task(session=session, request=request, accept=lambda _outcome: None, uid=operation.uid), answered
        )


def _pass_on_refusal(begun: "Future[None]", answer: "Future[Accepted]") -> None:
    """Answer a command that the pool refused because it was closed while the command waited."""
    error = begun.exception()
    if error is not None and not answer.done():
        answer.set_exception(error)
