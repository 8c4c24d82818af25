"""Machines that run: real QEMU processes with lazy disks, a guest that boots, and killed processes (V2, V4, V5)."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from imgstore.domain.effects import Effects
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
from tests.support.mounted_folder import mount_small

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
        for name in ("data1", "data2"):
            (folder / "data.raw").write_bytes(f"here is {name}".encode().ljust(1 << 20, b"\0"))
            run(home, f"disk create -g rg -n {name} --location southcentralus --source {folder}/data.raw")
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


def test_a_running_guest_gets_and_loses_data_disks(booted: Booted) -> None:
    home = booted.home
    (shown,) = json.loads(run(home, "vm disk attach -g rg --vm-name vm1 --name data1 --lun 5"))
    assert (shown["name"], shown["lun"]) == ("data1", 5)
    write = "printf written | dd of=/dev/sda bs=512 seek=8 conv=notrunc; sync"
    seen = booted.ask(f"ls /sys/class/scsi_device; head -c 13 /dev/sda; {write}")
    assert "0:0:0:5" in seen
    assert "here is data1" in seen
    assert len(living(recorded(home))) == 4
    again = json.loads(run(home, "vm disk attach -g rg --vm-name vm1 --disk data1"))
    assert again == [shown], "an attached disk stays unchanged"
    assert "LUN 5 is already" in run(home, "vm disk attach -g rg -n vm1 --name data2 --lun 5", exit_code=1)
    run(home, "vm create -g rg -n vm2 --image rg/gallery/linux --admin-username ops")
    assert "already owned by VM" in run(home, "vm disk attach -g rg -n vm2 --name data1", exit_code=1)
    shown = json.loads(run(home, "vm disk attach -g rg -n vm1 --name data2"))
    assert [(each["name"], each["lun"]) for each in shown] == [("data2", 0), ("data1", 5)]
    assert "here is data2" in booted.ask("head -c 13 /dev/sdb")
    run(home, "vm disk detach -g rg -n vm1 --name data2")
    run(home, "vm disk detach -g rg -n vm1 --name data1")
    assert "0:0:0" not in booted.ask("ls /sys/class/scsi_device")
    assert len(living(recorded(home))) == 3
    assert json.loads(run(home, "disk show -g rg -n data1"))["properties"]["diskState"] == "Unattached"
    assert "is not attached" in run(home, "vm disk detach -g rg -n vm1 --name data1", exit_code=3)
    run(home, "vm disk attach -g rg -n vm1 --name data1 --lun 2")
    assert "written" in booted.ask("dd if=/dev/sda bs=512 skip=8 count=1"), "the changes follow the disk"
    assert "OS disk" in run(home, f"vm disk detach -g rg -n vm1 --name {os_disk(home)}", exit_code=1)


def test_a_disk_without_a_server_is_refused_and_stays_free(booted: Booted) -> None:
    """The server of the disk does not start, because a folder is in its place."""
    home = booted.home
    (Path(recorded(home).folder) / "lun-9").mkdir()
    assert "does not answer" in run(home, "vm disk attach -g rg -n vm1 --name data2 --lun 9", exit_code=1)
    assert json.loads(run(home, "disk show -g rg -n data2"))["properties"]["diskState"] == "Unattached"
    assert power(home) == ("VM running", None)


def test_a_full_host_pauses_the_guest_until_there_is_space(booted: Booted, tmp_path: Path) -> None:
    """The changed blocks of a data disk are in a small file system. The write of the guest waits, and loses nothing."""
    home = booted.home
    (tmp_path / "large.raw").write_bytes(b"x")
    os.truncate(tmp_path / "large.raw", 32 << 20)
    run(home, f"disk create -g rg -n large --location southcentralus --source {tmp_path}/large.raw")
    changes, aside = home / "machines" / "disks", home / "machines" / "disks-aside"
    changes.mkdir(exist_ok=True)
    changes.rename(aside)
    with mount_small(tmp_path / "small", "8m") as small, ThreadPoolExecutor(1) as pool:
        changes.symlink_to(small)
        run(home, "vm disk attach -g rg -n vm1 --name large --lun 7")
        disk = "/dev/$(ls /sys/class/scsi_device/0:0:0:7/device/block)"
        written = pool.submit(booted.ask, f"dd if=/dev/vda of={disk} bs=1M count=16 && sync && echo done")
        reason = await_reason(home, lambda reason: reason is not None)
        assert reason == "paused: no space on the host for the changes of disk lun-7"
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        assert "done" in written.result(timeout=100)
        assert await_reason(home, lambda reason: reason is None) is None
        sums = booted.ask(f"dd if=/dev/vda bs=1M count=16 | md5sum; dd if={disk} bs=1M count=16 iflag=direct | md5sum")
        assert len({line for line in sums.splitlines() if line.endswith("-")}) == 1
        run(home, "vm disk detach -g rg -n vm1 --name large")
    changes.unlink()
    aside.rename(changes)


def await_reason(home: Path, wanted: Callable[[str | None], bool]) -> str | None:
    """Wait for the reason that a running machine shows."""
    effects = Effects()
    for _ in range(1200):
        state, reason = power(home)
        assert state == "VM running"
        if wanted(reason):
            return reason
        effects.wait(0.1)
    raise AssertionError(str(reason))


def os_disk(home: Path) -> str:
    name: str = json.loads(run(home, f"vm show {MACHINE}"))["properties"]["storageProfile"]["osDisk"]["name"]
    return name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts QEMU as another user")
def test_qemu_has_no_rights_and_no_secrets(booted: Booted) -> None:
    now = recorded(booted.home)
    process = Path(f"/proc/{pid_of(now.qemu)}")
    status = {line.split(":")[0]: line.split()[1:] for line in (process / "status").read_text().splitlines()}
    assert len(set(status["Uid"])) == len(set(status["Gid"])) == 1
    assert int(status["Uid"][0]) >= 65534
    assert {name: int(status[name][0], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {
        "CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapAmb": 0,
    }  # fmt: skip
    assert (status["NoNewPrivs"], status["Seccomp"]) == (["1"], ["2"])
    assert (process / "environ").read_bytes() == b"PATH=" + os.defpath.encode() + b"\0"
    files = {os.readlink(each) for each in (process / "fd").iterdir()}
    folders = {
        str(Path(each).parent) for each in files if each.startswith("/") and not each.startswith(("/dev/", "/memfd:"))
    }
    machine = booted.home / "machines"
    uid = json.loads(run(booted.home, f"vm show {MACHINE}"))["properties"]["vmId"]
    assert folders <= {str(machine / uid), str(machine / "disks")}, "no catalog, store or settings"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_other_users_reach_no_socket_and_no_file_of_a_machine(booted: Booted) -> None:
    folder = Path(recorded(booted.home).folder)
    sockets = sorted(each for each in folder.iterdir() if each.is_socket())
    assert {each.name for each in sockets} >= {"console", "control", "events", "monitor", "os"}
    become = "import os, socket; os.setgroups([]); os.setgid(12345); os.setuid(12345); "
    lines = [f"socket.socket(socket.AF_UNIX).connect({str(each)!r})" for each in sockets]
    for line in (*lines, f"os.listdir({str(folder)!r})", f"os.listdir({str(booted.home / 'machines')!r})"):
        done = subprocess.run([sys.executable, "-c", become + line], capture_output=True, text=True, check=False)
        assert "PermissionError" in done.stderr, (line, done.stderr)


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
