"""The client of the monitor: a real QEMU, and answers of a hostile process."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imgstore.domain.errors import HostFault
from imgstore.hypervisor.command_line import Guest
from imgstore.hypervisor.launch import listen, start_qemu
from imgstore.hypervisor.qmp import open_monitor
from imgstore.hypervisor.users import choose_user
from imgstore.testing.pytest_plugin import require


@pytest.mark.engine("qemu-system")
def test_a_real_monitor_answers_and_reports_the_end(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with listen(tmp_path / "monitor") as monitor_socket, listen(tmp_path / "console") as console:
        guest = Guest(
            name="-x,y=z",
            uid="6b0e0f3c-8c29-4a0a-8a51-0b4d0b1a0f00",
            cpus=1,
            memory_mib=16,
            accelerator="tcg",
            drives=[],
            monitor_fds=[monitor_socket.fileno()],
            console_fd=console.fileno(),
        )
        user = choose_user("nobody" if os.geteuid() == 0 else str(os.geteuid()), "m")
        process = start_qemu(require("qemu-system").command, guest, user, tmp_path / "errors")
    with open_monitor(tmp_path / "monitor", timeout_seconds=30) as monitor:
        assert monitor.run("query-name") == {"name": "-x,y=z"}
        assert Path(f"/proc/{process.pid}/status").read_text().split("Uid:")[1].split()[0] == str(user.uid)
        with pytest.raises(HostFault, match="does not answer as expected"):
            monitor.run("no-such-command")
        monitor.run("quit")
        events = [each["event"] for each in monitor.read_events()]
    assert process.wait(30) == 0
    assert events == ["SHUTDOWN"]


@pytest.mark.parametrize("answer", [b"", b"{}\n", b"[]\n", b"not json\n", b"x" * (2 << 20)])
def test_a_wrong_answer_is_an_error_and_never_waits(tmp_path: Path, answer: bytes) -> None:
    with _serve(tmp_path / "monitor", b'{"QMP": {}}\n' + answer), pytest.raises(HostFault):  # noqa: SIM117
        with open_monitor(tmp_path / "monitor", timeout_seconds=1):
            pass


def test_no_socket_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostFault), open_monitor(tmp_path / "none", timeout_seconds=1):
        pass


@contextmanager
def _serve(path: Path, answer: bytes) -> Iterator[None]:
    with listen(path) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(1000):
                        pass
                except OSError:
                    pass

        thread = threading.Thread(target=run)
        thread.start()
        yield
        thread.join()
