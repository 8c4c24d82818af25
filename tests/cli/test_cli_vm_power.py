"""Machines that run: real QEMU processes with lazy disks, a guest that boots, and killed processes (V2, V4, V5)."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from imgstore.testing.engines import cache_folder, free_ports
from imgstore.testing.pytest_plugin import require
from tests.support.boot_disk import READY, SHELL_PORT, find_kernel, make_boot_disk
from tests.support.machine_home import (
    ask_guest,
    await_state,
    find_processes,
    keep_machines,
    kill,
    living,
    pid_of,
    power,
    publish,
    recorded,
    run,
)

pytestmark = [pytest.mark.engine("qemu-system"), pytest.mark.engine("boot-disk")]
MACHINE = "-g rg -n vm1"
PASSWORD = "correct-horse-7"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a machine from a generalized image."""
    require("qemu-system")
    require("boot-disk")
    folder = tmp_path_factory.mktemp("machines")
    make_boot_disk(find_kernel(cache_folder()), folder / "boot.raw")
    with keep_machines(folder / "home") as home:
        publish(home, folder / "boot.raw", "--minimum-cpu-core 2")
        profile = f"--admin-username ops --admin-password {PASSWORD}"
        run(home, f"vm create {MACHINE} --image rg/gallery/linux --size Standard_B1ls {profile}")
        yield home


@dataclass(frozen=True, slots=True, kw_only=True)
class Booted:
    """A machine whose guest answers at a port."""

    home: Path
    port: int

    def ask(self, commands: str) -> str:
        """Run commands in the guest."""
        return ask_guest(self.port, commands)


@pytest.fixture(scope="module")
def booted(home: Path) -> Booted:
    (port,) = free_ports(1)
    run(home, f"vm start {MACHINE} --forward {port}:{SHELL_PORT} --wait-for {READY} --timeout 300")
    return Booted(home=home, port=port)


@contextmanager
def greeter() -> Iterator[int]:
    """A service on the loopback of the host, as a store of a test is. Yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"hello from the host\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_guest_boots_and_a_repeated_start_changes_nothing(booted: Booted) -> None:
    begun = json.loads(run(booted.home, f"vm start {MACHINE}"))
    assert begun["powerState"] == "VM running"
    assert begun["forwards"] == [f"127.0.0.1:{booted.port}:{SHELL_PORT}"]
    assert READY in run(booted.home, f"vm console {MACHINE}")
    now = recorded(booted.home)
    assert len(living(now)) == 3
    assert json.loads(run(booted.home, f"vm start {MACHINE}")) == begun
    assert recorded(booted.home).qemu == now.qemu
    assert "needs a stopped machine" in run(booted.home, f"vm generalize {MACHINE}", exit_code=1)
    (listed,) = json.loads(run(booted.home, "vm list -d"))
    assert listed["powerState"] == json.loads(run(booted.home, f"vm show {MACHINE} -d"))["powerState"] == "VM running"
    assert "powerState" not in json.loads(run(booted.home, f"vm show {MACHINE}"))


def test_a_guest_reaches_neither_the_host_nor_the_store(booted: Booted) -> None:
    with greeter() as secret:
        probes = " ".join(f"nc -w 2 {address} {secret} </dev/null &" for address in ("10.0.2.2", "10.0.2.3"))
        found = booted.ask(f"echo shell answers; {probes} wait")
        with socket.create_connection(("127.0.0.1", secret)) as here:
            assert here.recv(100) == b"hello from the host\n"
    assert "shell answers" in found
    assert "hello from the host" not in found


def test_the_seed_has_the_user_and_no_plain_password(booted: Booted) -> None:
    found = booted.ask("mount -t iso9660 /dev/vdb /mnt; cat /mnt/user-data; umount /mnt")
    assert '"name": "ops"' in found
    assert "$6$" in found
    assert PASSWORD not in found
    files = b"".join(each.read_bytes() for each in booted.home.rglob("*") if each.is_file())
    assert PASSWORD.encode() not in files


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts QEMU as another user")
def test_qemu_runs_as_a_user_of_its_own(booted: Booted) -> None:
    status = Path(f"/proc/{pid_of(recorded(booted.home).qemu)}/status").read_text()
    user = status.split("Uid:")[1].split()[:4]
    assert len(set(user)) == 1
    assert int(user[0]) >= 65534


def test_killed_processes_leave_a_clear_state_and_the_next_start_works(home: Path) -> None:
    run(home, f"vm start {MACHINE}")
    first = recorded(home)
    kill(first.qemu)
    assert await_state(home, "VM stopped") == "QEMU was killed"
    run(home, f"vm start {MACHINE}")
    second = recorded(home)
    assert living(first) == []
    kill(second.supervisor)
    assert power(home) == ("VM running", None)
    run(home, f"vm start {MACHINE}")
    adopted = recorded(home)
    assert (adopted.qemu, adopted.servers) == (second.qemu, second.servers)
    assert adopted.supervisor != second.supervisor
    kill(adopted.servers[0])
    assert await_state(home, "VM stopped") == "the server of disk 0 ended, so the machine was stopped"
    run(home, f"vm start {MACHINE}")
    third = recorded(home)
    assert living(adopted) == []
    kill(third.supervisor)
    kill(third.qemu)
    assert power(home) == ("VM stopped", "QEMU ended while no supervisor watched")
    run(home, f"vm start {MACHINE}")
    assert living(third) == [], "the disk servers of the killed run have ended"


def test_stop_and_deallocate_are_repeatable(home: Path) -> None:
    run(home, f"vm start {MACHINE}")
    now = recorded(home)
    run(home, f"vm stop {MACHINE} --skip-shutdown")
    assert power(home) == ("VM stopped", "the machine was stopped")
    assert living(now) == []
    assert find_processes(home) == []
    assert not Path(now.folder).exists()
    run(home, f"vm stop {MACHINE}")
    assert power(home)[0] == "VM stopped"
    for line in ("deallocate", "deallocate", "stop"):
        run(home, f"vm {line} {MACHINE}")
        assert power(home)[0] == "VM deallocated", line


def test_refusals_name_the_next_step(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "is not [ADDRESS:]HOST_PORT:GUEST_PORT" in run(home, f"vm start {MACHINE} --forward 22", exit_code=2)
    assert "may not run as root" in run(home, f"vm start {MACHINE} --runas root", exit_code=1)
    assert "does not run" in run(home, f"vm restart {MACHINE}", exit_code=1)
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = run(home, f"vm start {MACHINE}", exit_code=1)
    assert "apt install qemu-system-x86" in missing
    assert json.loads(run(home, f"vm show {MACHINE}"))["name"] == "vm1"
