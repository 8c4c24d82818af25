"""Long-running operations: run in threads of their own, answered when accepted, stored until they end.

A command checks its caller's rights and then writes. The operation's row is stored in the same transaction as the first
of these writes, so that a refused request leaves no row. What fails before the answer is the answer, and the row is
removed. What fails later is stored in the row. A process that ends leaves its rows InProgress. The next process runs the
same commands again, with the rights that the callers have at that time: PUT, PATCH and DELETE are good to repeat.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeAlias

from imgstore.api.http.fair_pool import FairPool, PoolLimits
from imgstore.api.http.redaction import error_body
from imgstore.api.http.waiting_operations import WaitingOperation, WaitingOperations
from imgstore.domain.async_operations import PUT_DEPLOYMENT, AsyncOperation, OperationStatus
from imgstore.domain.errors import ImgstoreError, NotFound, StoreError
from imgstore.domain.identity.access import Principal
from imgstore.domain.stop_signal import OperationCanceled, StopSignal
from imgstore.operations.api_operations import (
    OperationPreempted,
    PendingOperation,
    ResumedOperation,
    as_lost_rights,
    canceled,
    check_same_target,
    close_operation,
    drop_operation,
    has_successor,
    name_target,
    preempted,
    preempted_resources,
    renew_operations,
    resuming_principal,
    take_up_operations,
)
from imgstore.operations.deployments import end_deployments
from imgstore.operations.installation import Installation
from imgstore.operations.versions.unfinished_deletes import finish_deletes
from imgstore.wire.json_text import Json

_log: Final = logging.getLogger("imgstore.api")


_LOOK_SECONDS: Final = 1.0
"""The time between two looks at operations that wait for workers."""
_MAINTENANCE: Final = "maintenance"
"""Whose share of the threads the system itself takes."""
_DELETE: Final = "delete-"
"""The names of commands that delete begin so."""
_CONTINUED: Final = frozenset({"put-version", "put-disk", "put-image", "put-machine"})
"""Commands that finish what a resource in Creating still needs, also where `CommandCall.is_preempted`."""


class ServerStopping(ImgstoreError):
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
class AcceptedOperation:
    """What was begun."""

    operation_uid: str
    created: bool
    """Whether the resource is new."""
    body: Json
    """The resource as it stands; None of one that goes."""


Outcome: TypeAlias = tuple[bool, Json]
"""Whether the resource is new, and what it is now; None of one that goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandCall:
    """A command to be done."""

    session: Session
    request: Mapping[str, Any]
    accept: Callable[[Outcome], None]
    """Answers the request before the command is done. Only the first call counts."""
    uid: str
    """The operation's."""
    leaves_replicas: bool = False
    """Whether the command leaves replicas to `imgstore worker`: no worker runs in this process."""
    is_preempted: bool = False
    """Whether a newer request wrote the resource since the operation was stored: the command changes nothing of it then."""
    preempted_resources: frozenset[str] = frozenset()
    """The ids, in lower case, of all resources that newer requests wrote since then: a deployment writes many."""
    awaited: list[Callable[[Installation], bool]] = field(default_factory=list)
    """Filled by the command: the operation ends when each of them returns True, or with the error of the first that
    raises one."""


Command: TypeAlias = Callable[[CommandCall], Outcome]
"""Gives what it came to: the answer, unless one was given early."""


class OperationRunner:
    """Runs commands in its own threads, shared fairly by their callers."""

    def __init__(
        self,
        installation: Installation,
        commands: Mapping[str, Command],
        limits: PoolLimits,
        *,
        leaves_replicas: bool = False,
    ) -> None:
        self._installation = installation
        self._commands = commands
        self._leaves_replicas = leaves_replicas
        self._pool = FairPool(limits, "operation")
        self._waiting = WaitingOperations(_LOOK_SECONDS)
        self._running: dict[str, StopSignal] = {}
        """By the uids of the operations that run."""
        self._lock = threading.Lock()

    def begin(
        self,
        caller: str,
        session: Callable[[], Session],
        kind: str,
        request: Mapping[str, Any],
        resource_id: str | None = None,
    ) -> "Future[AcceptedOperation]":
        """Run a command; the answer is there once it was accepted or refused.

        Args:
            caller: the object id of who asks: whose share of the threads it takes.
            session: who asks; called in the thread.
            kind: the command's name.
            request: what it needs, as JSON.
            resource_id: the resource that it is about.

        Raises:
            CallerQueueFull, PoolQueueFull: too many commands wait.
        """
        answer: Future[AcceptedOperation] = Future()
        begun = self._pool.submit(caller, lambda: self._begin(answer, session, kind, request, resource_id))
        begun.add_done_callback(lambda done: _pass_on_refusal(done, answer))
        return answer

    def resume(self) -> int:
        """Resume the operations that dead processes left, and finish deletions; tells how many operations that are."""
        self._pool.submit(_MAINTENANCE, self._finish_deletes, bounded=False)
        return self._take_up()

    def renew_leases(self) -> None:
        """Renew the leases of the operations that run here, and resume those whose processes have died meanwhile."""
        with self._lock:
            running = dict(self._running)
        leases = renew_operations(self._installation, running)
        for uid in leases.lost:
            _log.warning("operation %s stops here: its lease was not renewed in time, and another server runs it", uid)
            running[uid].set()
        if leases.abandoned:
            self._take_up()

    def _take_up(self) -> int:
        left = take_up_operations(self._installation)
        for operation in left:
            # Rows without a caller are of no principal's share; `_resume` refuses them.
            self._pool.submit(operation.principal_uid or "", partial(self._resume, operation), bounded=False)
        return len(left)

    def cancel_requested(self) -> None:
        """Stop the operations that run here and that somebody asked to cancel."""
        with self._lock:
            if not self._running:
                return
        with self._installation.catalog.reading() as transaction:
            asked = transaction.operations.to_cancel(self._installation.keeper.holder)
        with self._lock:
            stops = [self._running[each.uid] for each in asked if each.uid in self._running]
        for stop in stops:
            stop.set(OperationCanceled)

    def close(self, wait_seconds: float) -> None:
        """Stop what runs at its next request to a store; its rows stay, for the next process to go on from.

        An operation that does not stop within so many seconds is abandoned.
        """
        self._installation.keeper.interrupt()
        self._waiting.close()
        if not self._pool.close(wait_seconds):
            _log.warning("operations still ran when the server ended; the next server resumes them")

    def _begin(
        self,
        answer: "Future[AcceptedOperation]",
        context: Callable[[], Session],
        kind: str,
        request: Mapping[str, Any],
        resource_id: str | None,
    ) -> None:
        try:
            session = context()
            plain = session.installation
            whole = {**request, "api_version": session.api_version}
            if kind.startswith(_DELETE) and resource_id is not None:
                whole = name_target(plain, whole, resource_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, the handler waits for it
            answer.set_exception(error)
            return
        pending = PendingOperation(plain, session.principal, kind=kind, request=whole, resource_id=resource_id)
        with self._noted(pending.uid) as stop:
            installation = replace(
                plain, catalog=plain.catalog.accompanied(pending), keeper=plain.keeper.stopped_by(stop)
            )

            def accept(outcome: Outcome) -> None:
                if not answer.done():
                    created, body = outcome
                    installation.catalog.store_companion()
                    answer.set_result(AcceptedOperation(operation_uid=pending.uid, created=created, body=body))

            session = replace(session, installation=installation)
            call = CommandCall(
                session=session,
                request=whole,
                accept=accept,
                uid=pending.uid,
                leaves_replicas=self._leaves_replicas,
            )
            self._perform(kind, call, answer)

    def _finish_deletes(self) -> None:
        try:
            finish_deletes(self._installation)
        except Exception:  # noqa: BLE001 - the server serves all the same
            _log.exception("deletions of dead processes could not be finished; `imgstore gc` tries again")

    def _resume(self, operation: AsyncOperation) -> None:
        answered: Future[AcceptedOperation] = Future()
        answered.set_result(AcceptedOperation(operation_uid=operation.uid, created=False, body=None))  # Given long ago.
        plain = replace(self._installation, subscription=operation.subscription)
        with self._noted(operation.uid) as stop:
            if operation.cancel_requested_by is not None:
                stop.set(OperationCanceled)
            resumed_operation = ResumedOperation(uid=operation.uid, resource_id=operation.resource_id)
            installation = replace(
                plain, catalog=plain.catalog.accompanied(resumed_operation), keeper=plain.keeper.stopped_by(stop)
            )
            # The conditions held then, and the operation itself has changed what they are about since.
            request = {**operation.request, "conditions": {}}

            def resumed(call: CommandCall) -> Outcome:
                call.session.installation.keeper.check_cancelled()
                principal = resuming_principal(installation, operation)
                check_same_target(installation, operation)
                session = replace(call.session, principal=principal)
                try:
                    return self._commands[operation.kind](_with_newer_writes(replace(call, session=session), operation))
                except ImgstoreError as error:
                    raise as_lost_rights(operation, error) from error

            session = Session(
                installation=installation,
                principal=Principal(name=operation.principal),
                api_version=str(operation.request.get("api_version")),
            )
            call = CommandCall(
                session=session,
                request=request,
                accept=lambda _outcome: None,
                uid=operation.uid,
                leaves_replicas=self._leaves_replicas,
            )
            self._perform(operation.kind, call, answered, resumed)

    @contextmanager
    def _noted(self, uid: str) -> Iterator[StopSignal]:
        """The signal that stops an operation, known by its uid while the block runs."""
        with self._installation.keeper.stop.child() as stop:
            with self._lock:
                self._running[uid] = stop
            try:
                yield stop
            finally:
                with self._lock:
                    del self._running[uid]

    def _perform(
        self, kind: str, call: CommandCall, answer: "Future[AcceptedOperation]", command: Command | None = None
    ) -> None:
        """Run it and store its end; then answer, so that the first look at what was quick finds its end."""
        installation = call.session.installation
        try:
            outcome = _run(command or self._commands[kind], kind, call, answer)
            if all(is_done(self._installation) for is_done in call.awaited):
                close_operation(installation, call.uid)
            else:
                self._await(kind, call)
        except BaseException as error:  # noqa: BLE001 - told to whoever asks
            self._end_early(kind, call, answer, error)
        else:
            call.accept(outcome)

    def _await(self, kind: str, call: CommandCall) -> None:
        """Let the operation end when the workers are done, without a thread of its own."""
        stop = StopSignal()
        with self._lock:
            self._running[call.uid] = stop

        def is_done() -> bool:
            if stop.reason is not None:
                raise InterruptedError("The operation is to stop.")
            return all(is_done(self._installation) for is_done in call.awaited)

        def end(error: Exception | None) -> None:
            with self._lock:
                self._running.pop(call.uid, None)
            if error is None:
                close_operation(self._installation, call.uid)
            elif stop.reason is KeyboardInterrupt:
                return  # Another server runs it.
            elif stop.reason is OperationCanceled:
                self._close(kind, call, canceled(), OperationStatus.CANCELED)
            else:
                self._close(kind, call, error, OperationStatus.FAILED)

        self._waiting.add(WaitingOperation(is_done=is_done, end=end))

    def _end_early(
        self, kind: str, call: CommandCall, answer: "Future[AcceptedOperation]", error: BaseException
    ) -> None:
        """Store how an operation failed, was canceled or, with nothing, that it is to be resumed; then answer."""
        reason = call.session.installation.keeper.stop.reason
        if reason is OperationCanceled:
            told_to_all: Exception = canceled()
            self._close(kind, call, told_to_all, OperationStatus.CANCELED)
        elif isinstance(error, OperationPreempted):
            told_to_all = error
            self._close(kind, call, error, OperationStatus.CANCELED)
        elif isinstance(error, Exception) and not (reason is not None and isinstance(error, StoreError)):
            if not isinstance(error, ImgstoreError):
                _log.error("operation %s (%s) failed in a way that was not foreseen", call.uid, kind, exc_info=error)
            told_to_all = error
            if answer.done():
                self._close(kind, call, error, OperationStatus.FAILED)
            else:
                self._drop(call)
        else:  # The process is to end: the row, if there is one, stays for the next process.
            told_to_all = ServerStopping("The server is stopping.", hint="send the same request again")
        if not answer.done():
            answer.set_exception(told_to_all)

    def _close(self, kind: str, call: CommandCall, error: Exception, status: OperationStatus) -> None:
        installation = call.session.installation
        body = error_body(installation, error)["error"]
        try:
            if kind == PUT_DEPLOYMENT:
                end_deployments(installation, call.uid, body, canceled=status is OperationStatus.CANCELED)
            close_operation(installation, call.uid, body, status=status)
        except StoreError as lost:
            _log.warning("the end of operation %s could not be stored: %s", call.uid, lost)

    def _drop(self, call: CommandCall) -> None:
        try:
            drop_operation(call.session.installation, call.uid)
        except StoreError as lost:
            _log.warning("the row of operation %s could not be removed: %s", call.uid, lost)


def _with_newer_writes(call: CommandCall, operation: AsyncOperation) -> CommandCall:
    """Tell a command that is run again which resources newer requests wrote since its operation was stored.

    Raises:
        OperationPreempted: its own resource is one, and the command has nothing to finish.
    """
    installation, target = call.session.installation, operation.resource_id
    newer = preempted_resources(installation, operation)
    if target is None or target.lower() not in newer:
        return replace(call, preempted_resources=newer)
    if operation.kind not in _CONTINUED or has_successor(installation, operation):
        raise preempted(target)
    return replace(call, is_preempted=True, preempted_resources=newer)


def _run(command: Command, kind: str, call: CommandCall, answer: "Future[AcceptedOperation]") -> Outcome:
    """Run a command. What an accepted deletion does not find any more, the system or another request has deleted."""
    try:
        return command(call)
    except NotFound:
        if not (kind.startswith(_DELETE) and answer.done()):
            raise
        return False, None


def _pass_on_refusal(begun: "Future[None]", answer: "Future[AcceptedOperation]") -> None:
    """Answer a command that the pool refused because it was closed while the command waited."""
    error = begun.exception()
    if error is not None and not answer.done():
        answer.set_exception(error)
