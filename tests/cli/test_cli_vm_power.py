"""Machines that run: real QEMU processes with lazy disks, a guest that boots, and killed processes (V2, V4, V5)."""

import json
import os
import shlex
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from imgstore.cli.main import main
from imgstore.domain.effects import Effects
from imgstore.domain.machine_runs import MachineRun
from imgstore.operations.leases import is_dead
from imgstore.testing.engines import cache_folder, free_ports
from imgstore.testing.pytest_plugin import require
from tests.support.boot_disk import READY, SHELL_PORT, find_kernel, make_boot_disk
from tests.support.sample_gallery import open_home

pytestmark = [pytest.mark.engine("qemu-system"), pytest.mark.engine("boot-disk")]
MACHINE = "-g rg -n vm1"


@pytest.fixture(scope="module")
def boot_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("boot-disk")
    disk = tmp_path_factory.mktemp("boot") / "boot.raw"
    make_boot_disk(find_kernel(cache_folder()), disk)
    return disk


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, boot_disk: Path) -> Path:
    """A home with a machine from a generalized image."""
    require("qemu-system")
    home = tmp_path_factory.mktemp("machines") / "home"
    definition = "-g rg -r gallery -i linux"
    for line in (
        "group create -n rg -l southcentralus",
        "sig create -g rg -r gallery -l southcentralus",
        f"sig image-definition create {definition} --publisher p --offer o --sku s --os-type Linux --minimum-cpu-core 2",
        f"sig image-version create {definition} -e 1.0.0 --os-vhd-uri {boot_disk}",
        f"vm create {MACHINE} --image rg/gallery/linux --size Standard_B1ls --admin-username ops --admin-password {PASSWORD}",
    ):
        run(home, line)
    return home


PASSWORD = "correct-horse-7"


def run(home: Path, line: str, exit_code: int = 0) -> str:
    done = CliRunner().invoke(main, [*shlex.split(line), "--home", str(home)], catch_exceptions=False)
    assert done.exit_code == exit_code, done.output
    return done.stdout if exit_code == 0 else done.stderr


def power(home: Path) -> tuple[str, str | None]:
    status = json.loads(run(home, f"vm get-instance-view {MACHINE}"))["statuses"][-1]
    return status["displayStatus"], status.get("message")


def recorded(home: Path) -> MachineRun:
    with open_home(home) as installation, installation.catalog.reading() as transaction:
        (machine,) = transaction.machines.list(installation.subscription)
        return transaction.machine_runs.by_uid(machine.uid)


def kill(holder: str | None) -> None:
    assert holder is not None
    assert not is_dead(holder)
    os.kill(int(holder.split("/")[2]), signal.SIGKILL)
    for _ in range(600):
        if is_dead(holder):
            return
        Effects().wait(0.01)
    raise AssertionError(f"{holder} does not end")


def await_state(home: Path, wanted: str) -> str | None:
    """Wait until the machine has a power state. Return the reason."""
    with open_home(home) as installation:
        for _ in range(600):
            state, reason = power(home)
            if state == wanted:
                return reason
            installation.effects.wait(0.1)
    raise AssertionError(f"{state}: {reason}")


def living(run_: MachineRun) -> list[str]:
    return [each for each in (run_.supervisor, run_.qemu, *run_.servers) if each is not None and not is_dead(each)]


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


def ask_guest(port: int, commands: str) -> str:
    """Run commands in the shell of the guest, and return the output."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as shell:
        shell.sendall(f"{commands}\nexit\n".encode())
        return b"".join(iter(lambda: shell.recv(4096), b"")).decode()


def test_a_guest_boots_and_reaches_neither_the_host_nor_the_store(home: Path) -> None:
    (port,) = free_ports(1)
    begun: dict[str, Any] = json.loads(
        run(home, f"vm start {MACHINE} --forward {port}:{SHELL_PORT} --wait-for {READY} --timeout 300")
    )
    assert (begun["powerState"], begun["forwards"]) == ("VM running", [f"127.0.0.1:{port}:{SHELL_PORT}"])
    assert READY in run(home, f"vm console {MACHINE}")
    now = recorded(home)
    assert len(living(now)) == 3
    if os.geteuid() == 0:
        user = Path(f"/proc/{int(str(now.qemu).split('/')[2])}/status").read_text().split("Uid:")[1].split()[:4]
        assert len(set(user)) == 1
        assert int(user[0]) >= 65534
    with greeter() as secret:
        probes = " ".join(f"nc -w 2 {address} {secret} </dev/null &" for address in ("10.0.2.2", "10.0.2.3"))
        found = ask_guest(
            port, f"echo shell answers; {probes} wait; mount -t iso9660 /dev/vdb /mnt; cat /mnt/user-data"
        )
        with socket.create_connection(("127.0.0.1", secret)) as here:
            assert here.recv(100) == b"hello from the host\n"
    assert "shell answers" in found
    assert "hello from the host" not in found
    assert '"name": "ops"' in found
    assert "$6$" in found
    assert PASSWORD not in found
    again = json.loads(run(home, f"vm start {MACHINE}"))
    assert again == begun, "a machine that runs stays unchanged"
    assert "needs a stopped machine" in run(home, f"vm generalize {MACHINE}", exit_code=1)
    run(home, f"vm stop {MACHINE} --skip-shutdown")
    assert power(home) == ("VM stopped", "the machine was stopped")
    assert living(now) == []
    assert not Path(now.folder).exists()
    files = b"".join(each.read_bytes() for each in home.rglob("*") if each.is_file())
    assert PASSWORD.encode() not in files


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
    run(home, f"vm stop {MACHINE} --skip-shutdown")
    assert living(recorded(home)) == []


def test_refusals_name_the_next_step(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "is not [ADDRESS:]HOST_PORT:GUEST_PORT" in run(home, f"vm start {MACHINE} --forward 22", exit_code=2)
    assert "may not run as root" in run(home, f"vm start {MACHINE} --runas root", exit_code=1)
    assert "does not run" in run(home, f"vm restart {MACHINE}", exit_code=1)
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = run(home, f"vm start {MACHINE}", exit_code=1)
    assert "apt install qemu-system-x86" in missing
    assert json.loads(run(home, f"vm show {MACHINE}"))["name"] == "vm1"
