"""A client of QEMU's monitor (QMP): lines of JSON over a unix socket.

Source: https://www.qemu.org/docs/master/interop/qmp-spec.html
"""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from imgstore.domain.errors import HostFault

_LINE_BYTES_MAX: Final = 1 << 20
_RECEIVE_BYTES: Final = 1 << 16


class Monitor:
    """A connection to the monitor of one QEMU process."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        self.events: list[dict[str, Any]] = []
        """The events that came before the answer of a command, oldest first."""

    def run(self, command: str, *, fd: int | None = None, **arguments: Any) -> Any:
        """Run a command, and return its result.

        Args:
            command: the name of the command.
            fd: a descriptor for the commands that take one.
            arguments: the arguments, with an underscore in place of a hyphen.

        Raises:
            HostFault: the process ended, did not answer in time, or refused the command.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        request = {"execute": command} | ({"arguments": named} if named else {})
        line = json.dumps(request).encode() + b"\n"
        try:
            if fd is None:
                self._connection.sendall(line)
            else:
                socket.send_fds(self._connection, [line], [fd])
        except OSError as error:
            raise _monitor_error(str(error)) from error
        while True:
            answer = self._read_line()
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise _monitor_error(f"{command}: {answer['error'].get('desc')}")
            elif "return" in answer:
                return answer["return"]

    def fileno(self) -> int:
        """Return the descriptor of the connection, for a selector."""
        return self._connection.fileno()

    def read_events(self) -> list[dict[str, Any]]:
        """Return the events that have arrived, at least one unless the timeout of the connection ends.

        Raises:
            HostFault: the process ended.
        """
        events, self.events = self.events, []
        while not events or b"\n" in self._buffer:
            events.append(self._read_line())
        return events

    def await_event(self, name: str, **data: Any) -> None:
        """Wait for an event with these values. Other events stay in `events`.

        Raises:
            HostFault: the event does not come in time.
        """
        seen = 0
        while True:
            for number, event in enumerate(self.events[seen:], start=seen):
                if event["event"] == name and data.items() <= event.get("data", {}).items():
                    del self.events[number]
                    return
            seen = len(self.events)
            self.events.append(self._read_line())

    def _read_line(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            try:
                received = self._connection.recv(_RECEIVE_BYTES)
            except OSError as error:
                raise _monitor_error(str(error) or type(error).__name__) from error
            self._buffer += received
            if not received or len(self._buffer) > _LINE_BYTES_MAX:
                raise _monitor_error("the connection ended" if not received else "a line of more than 1 MiB")
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise _monitor_error("a line that is not JSON") from error
        if not isinstance(answer, dict):
            raise _monitor_error("a line that is no object")
        return answer


@contextmanager
def open_monitor(path: Path, *, timeout_seconds: float) -> Iterator[Monitor]:
    """Connect to the monitor at a unix socket. The socket has one client at a time.

    Args:
        path: the path of the socket.
        timeout_seconds: the maximum wait for the connection and for each line.

    Raises:
        HostFault: nothing answers at the socket.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_seconds)
        try:
            connection.connect(str(path))
        except OSError as error:
            raise _monitor_error(str(error)) from error
        monitor = Monitor(connection)
        monitor._read_line()  # The greeting names the version of QEMU.
        monitor.run("qmp_capabilities")
        yield monitor


def _monitor_error(found: str) -> HostFault:
    return HostFault(
        "The monitor of QEMU does not answer as expected.",
        found=found,
        expected="an answer of the QEMU process of the machine",
        hint="read the console log with `imgstore vm console`, and start the machine again",
    )
