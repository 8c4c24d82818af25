"""Run long-running operations in a pool of threads, answer the requests early, and store the operations.

A command checks the rights of the caller and then writes. The transaction of the first write also stores the row of the
operation, so a refused request leaves no row (invariant H7). An error before the answer becomes the answer, and the row
is removed. A later error is stored in the row.

A process that ends leaves the rows InProgress. The next process runs the same commands again, with the rights that the
callers have at that time. PUT, PATCH and DELETE can be repeated.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Concatenate, Final, ParamSpec, TypeAlias, TypeVar

from imgstore.api.http.fair_pool import FairPool, PoolLimits
from imgstore.api.http.operation_progress import OperationProgress
from imgstore.api.http.redaction import error_body
from imgstore.api.http.waiting_operations import WaitingOperation, WaitingOperations
from imgstore.domain.async_operations import PUT_DEPLOYMENT, AsyncOperation, OperationStatus
from imgstore.domain.errors import ImgstoreError, NotFound, StoreError
from imgstore.domain.host.stop_signal import OperationCanceled, StopSignal
from imgstore.domain.identity.access import Principal
from imgstore.operations.api_operations import (
    OperationPreempted,
    PendingOperation,
    ResumedOperation,
    check_same_target,
    close_operation,
    drop_operation,
    explain_lost_rights,
    has_successor,
    load_caller,
    name_target,
    operation_canceled,
    operation_preempted,
    preempted_resources,
    renew_operations,
    take_over_operations,
)
from imgstore.operations.deployments import end_deployments
from imgstore.operations.installation import Installation
from imgstore.operations.versions.unfinished_deletes import finish_deletes
from imgstore.wire.json_text import Json

_P = ParamSpec("_P")
_T = TypeVar("_T")

_log: Final = logging.getLogger("imgstore.api")

_LOOK_SECONDS: Final = 1.0
"""The interval of checks of operations that wait for workers."""
_MAINTENANCE: Final = "maintenance"
"""The caller of the system's own jobs. The jobs use the share of this caller."""
_DELETE: Final = "delete-"
"""The prefix of commands that delete."""
_CONTINUED: Final = frozenset({"put-version", "put-disk", "put-image", "put-machine", "put-scale-set"})
"""The commands that complete a resource in the state Creating, also if `CommandCall.is_preempted` is set."""


class ServerStopping(ImgstoreError):
    """The server is shutting down."""

    code = "ServerStopping"
    status = 503


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An authenticated caller, with the installation and the api-version of the request."""

    installation: Installation
    """The installation with the subscription of the request."""
    principal: Principal
    api_version: str

    def run(
        self, operation: Callable[Concatenate[Installation, Principal, _P], _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """Run an operation of the installation for the caller."""
        return operation(self.installation, self.principal, *args, **kwargs)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedOperation:
    """An accepted operation, with the data of the answer."""

    operation_uid: str
    created: bool
    """Whether the resource is new."""
    body: Json
    """The current resource. None for a deletion."""


Outcome: TypeAlias = tuple[bool, Json]
"""The result of a command: whether the resource is new, and the current resource (None for a deletion)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandCall:
    """The arguments of a command."""

    session: Session
    request: Mapping[str, Any]
    accept: Callable[[Outcome], None]
    """Answers the request before the command ends. Only the first call has an effect."""
    uid: str
    """The uid of the operation."""
    leaves_replicas: bool = False
    """Whether `imgstore worker` makes the replicas, because no worker runs in this process."""
    is_preempted: bool = False
    """Whether a newer request wrote the resource after the operation was stored. The command then keeps the newer values."""
    preempted_resources: frozenset[str] = frozenset()
    """The lower-case ids of all resources that newer requests wrote since then. A deployment writes many resources."""
    awaited: list[Callable[[Installation], bool]] = field(default_factory=list)
    """Conditions that the command adds. The operation ends when all conditions return True, or when a condition raises an
    error."""


Command: TypeAlias = Callable[[CommandCall], Outcome]
"""A function that runs an operation. The result is the answer, unless the command called `CommandCall.accept` before."""


class OperationRunner:
    """The long-running operations of a process, and the threads for the commands. Callers share the threads fairly."""

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
        """The stop signals of the running operations, by uid."""
        self._progress: dict[str, OperationProgress] = {}
        """The progress of the running operations, by uid."""
        self._lock = threading.Lock()

    def begin(
        self,
        caller: str,
        session: Callable[[], Session],
        kind: str,
        request: Mapping[str, Any],
        resource_id: str | None = None,
    ) -> "Future[AcceptedOperation]":
        """Run a command in a thread. The future has a result when the command was accepted or refused.

        Args:
            caller: the object id of the caller. The command uses the caller's share of the threads.
            session: authenticates the caller. Called in the thread.
            kind: the name of the command.
            request: the arguments of the command, as JSON.
            resource_id: the id of the resource that the command changes.

        Raises:
            CallerQueueFull, PoolQueueFull: too many commands wait.
        """
        answer: Future[AcceptedOperation] = Future()
        begun = self._pool.submit(caller, lambda: self._begin(answer, session, kind, request, resource_id))
        begun.add_done_callback(lambda done: _pass_on_refusal(done, answer))
        return answer

    def resume(self) -> int:
        """Resume the operations of processes that ended, and finish deletions.

        Returns:
            The number of resumed operations.
        """
        self._pool.submit(_MAINTENANCE, self._finish_deletes, bounded=False)
        return self._resume_abandoned()

    def renew_leases(self) -> None:
        """Renew the leases of the running operations, and resume the operations with expired leases (invariant H16)."""
        with self._lock:
            running = dict(self._running)
        leases = renew_operations(self._installation, running)
        for uid in leases.lost:
            _log.warning("stopping operation %s: the lease has expired, and another server runs the operation", uid)
            running[uid].set()
        if leases.abandoned:
            self._resume_abandoned()

    def _resume_abandoned(self) -> int:
        left = take_over_operations(self._installation)
        for operation in left:
            # A row without a caller belongs to no principal. `_resume` refuses such a row.
            self._pool.submit(operation.principal_uid or "", partial(self._resume, operation), bounded=False)
        return len(left)

    def cancel_operations(self) -> None:
        """Stop the operations of this process with a recorded cancellation request."""
        with self._lock:
            if not self._running:
                return
        with self._installation.catalog.reading() as transaction:
            asked = transaction.operations.list_cancel_requested(self._installation.keeper.holder)
        with self._lock:
            stops = [self._running[each.uid] for each in asked if each.uid in self._running]
        for stop in stops:
            stop.set(OperationCanceled)

    def percent_complete(self, uid: str) -> float | None:
        """Return the progress of an operation of this process in percent. None if the progress is unknown."""
        with self._lock:
            progress = self._progress.get(uid)
        return None if progress is None else progress.percent_complete

    def close(self, wait_seconds: float) -> None:
        """Stop the running operations at the next request to a store. The rows stay, and the next process resumes them.

        An operation that does not stop within `wait_seconds` is abandoned.
        """
        self._installation.keeper.interrupt()
        self._waiting.close()
        if not self._pool.close(wait_seconds):
            _log.warning(
                "the server ends before running operations have stopped; the next server resumes the operations"
            )

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
        except Exception as error:  # noqa: BLE001 - the handler waits for an answer after any error
            answer.set_exception(error)
            return
        pending = PendingOperation(plain, session.principal, kind=kind, request=whole, resource_id=resource_id)
        with self._register(pending.uid) as (stop, progress):
            installation = replace(
                plain,
                catalog=plain.catalog.with_operation(pending),
                keeper=plain.keeper.with_stop_signal(stop),
                subscriber=progress,
            )

            def accept(outcome: Outcome) -> None:
                if not answer.done():
                    created, body = outcome
                    installation.catalog.store_operation()
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
        except Exception:  # noqa: BLE001 - the server must run without this step
            _log.exception("could not finish the deletions of processes that ended; `imgstore gc` tries again")

    def _resume(self, operation: AsyncOperation) -> None:
        answered: Future[AcceptedOperation] = Future()
        # The previous process has answered.
        answered.set_result(AcceptedOperation(operation_uid=operation.uid, created=False, body=None))
        plain = replace(self._installation, subscription=operation.subscription)
        with self._register(operation.uid) as (stop, progress):
            if operation.cancel_requested_by is not None:
                stop.set(OperationCanceled)
            resumed_operation = ResumedOperation(uid=operation.uid, resource_id=operation.resource_id)
            installation = replace(
                plain,
                catalog=plain.catalog.with_operation(resumed_operation),
                keeper=plain.keeper.with_stop_signal(stop),
                subscriber=progress,
            )
            # The conditions were checked before, and the operation itself may have changed the resource since then.
            request = {**operation.request, "conditions": {}}

            def run_resumed(call: CommandCall) -> Outcome:
                call.session.installation.keeper.check_cancelled()
                principal = load_caller(installation, operation)
                check_same_target(installation, operation)
                session = replace(call.session, principal=principal)
                try:
                    return self._commands[operation.kind](_with_newer_writes(replace(call, session=session), operation))
                except ImgstoreError as error:
                    raise explain_lost_rights(operation, error) from error

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
            self._perform(operation.kind, call, answered, run_resumed)

    @contextmanager
    def _register(self, uid: str) -> Iterator[tuple[StopSignal, OperationProgress]]:
        """Register the stop signal and the progress of an operation while the block runs."""
        progress = OperationProgress(self._installation.subscriber)
        with self._installation.keeper.stop.child() as stop:
            with self._lock:
                self._running[uid], self._progress[uid] = stop, progress
            try:
                yield stop, progress
            finally:
                with self._lock:
                    del self._running[uid], self._progress[uid]

    def _perform(
        self, kind: str, call: CommandCall, answer: "Future[AcceptedOperation]", command: Command | None = None
    ) -> None:
        """Run a command and store the result, then answer. The first poll of a quick operation thus finds the result."""
        installation = call.session.installation
        try:
            outcome = _run(command or self._commands[kind], kind, call, answer)
            if all(is_done(self._installation) for is_done in call.awaited):
                close_operation(installation, call.uid)
            else:
                self._await(kind, call)
        except BaseException as error:  # noqa: BLE001 - the error becomes the result
            self._end_early(kind, call, answer, error)
        else:
            call.accept(outcome)

    def _await(self, kind: str, call: CommandCall) -> None:
        """End the operation when the workers have finished. The wait uses no thread of the pool."""
        stop = StopSignal()
        with self._lock:
            self._running[call.uid] = stop

        def is_done() -> bool:
            if stop.reason is not None:
                raise InterruptedError("The operation was stopped.")
            return all(is_done(self._installation) for is_done in call.awaited)

        def end(error: Exception | None) -> None:
            with self._lock:
                self._running.pop(call.uid, None)
            if error is None:
                close_operation(self._installation, call.uid)
            elif stop.reason is KeyboardInterrupt:
                return  # Another server resumes the operation.
            elif stop.reason is OperationCanceled:
                self._close(kind, call, operation_canceled(), OperationStatus.CANCELED)
            else:
                self._close(kind, call, error, OperationStatus.FAILED)

        self._waiting.add(WaitingOperation(is_done=is_done, end=end))

    def _end_early(
        self, kind: str, call: CommandCall, answer: "Future[AcceptedOperation]", error: BaseException
    ) -> None:
        """Store the result of a failed or canceled operation, then answer. Store nothing if the process is ending."""
        reason = call.session.installation.keeper.stop.reason
        if reason is OperationCanceled:
            answered_error: Exception = operation_canceled()
            self._close(kind, call, answered_error, OperationStatus.CANCELED)
        elif isinstance(error, OperationPreempted):
            answered_error = error
            self._close(kind, call, error, OperationStatus.CANCELED)
        elif isinstance(error, Exception) and not (reason is not None and isinstance(error, StoreError)):
            if not isinstance(error, ImgstoreError):
                _log.error("operation %s (%s) failed with an unexpected error", call.uid, kind, exc_info=error)
            answered_error = error
            if answer.done():
                self._close(kind, call, error, OperationStatus.FAILED)
            else:
                self._drop(call)
        else:  # The process is ending. A stored row stays for the next process.
            answered_error = ServerStopping("The server is stopping.", hint="send the same request again")
        if not answer.done():
            answer.set_exception(answered_error)

    def _close(self, kind: str, call: CommandCall, error: Exception, status: OperationStatus) -> None:
        installation = call.session.installation
        body = error_body(installation, error)["error"]
        try:
            if kind == PUT_DEPLOYMENT:
                end_deployments(installation, call.uid, body, canceled=status is OperationStatus.CANCELED)
            close_operation(installation, call.uid, body, status=status)
        except StoreError as lost:
            _log.warning("could not store the result of operation %s: %s", call.uid, lost)

    def _drop(self, call: CommandCall) -> None:
        try:
            drop_operation(call.session.installation, call.uid)
        except StoreError as lost:
            _log.warning("could not remove the row of operation %s: %s", call.uid, lost)


def _with_newer_writes(call: CommandCall, operation: AsyncOperation) -> CommandCall:
    """Add the resources that newer requests wrote since the operation was stored to the arguments of a resumed command.

    Raises:
        OperationPreempted: a newer request wrote the operation's own resource, and the command has nothing to complete.
    """
    installation, target = call.session.installation, operation.resource_id
    newer = preempted_resources(installation, operation)
    if target is None or target.lower() not in newer:
        return replace(call, preempted_resources=newer)
    if operation.kind not in _CONTINUED or has_successor(installation, operation):
        raise operation_preempted(target)
    return replace(call, is_preempted=True, preempted_resources=newer)


def _run(command: Command, kind: str, call: CommandCall, answer: "Future[AcceptedOperation]") -> Outcome:
    """Run a command. An accepted deletion succeeds if the system or another request has deleted the resource."""
    try:
        return command(call)
    except NotFound:
        if not (kind.startswith(_DELETE) and answer.done()):
            raise
        return False, None


def _pass_on_refusal(begun: "Future[None]", answer: "Future[AcceptedOperation]") -> None:
    """Pass on the error of the pool if the pool was closed while the command waited."""
    error = begun.exception()
    if error is not None and not answer.done():
        answer.set_exception(error)
