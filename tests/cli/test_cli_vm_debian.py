"""A real Debian boots from a lazy disk: cloud-init, SSH, and a version made inside the guest."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from imgstore.testing.engines import free_ports
from imgstore.testing.pytest_plugin import require
from tests.support.debian_disk import make_debian_disk, make_debian_root

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(3600),
    pytest.mark.engine("qemu-system"),
    pytest.mark.engine("debian-disk"),
    pytest.mark.engine("loop-device"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for debootstrap"),
]
DEFINITION = "-g rg -r gallery -i debian"


def run(home: Path, line: str) -> str:
    words = [sys.executable, "-m", "imgstore", *shlex.split(line), "--home", str(home), "--only-show-errors"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def start(home: Path, name: str, folder: Path) -> list[str]:
    """Start a machine, and return the words of ssh into the guest."""
    (port,) = free_ports(1)
    # A prompt for a login comes before cloud-init has made the SSH keys of the host.
    run(home, f"vm start -g rg -n {name} --forward {port}:22 --wait-for 'Cloud-init v.* finished' --timeout 1500")
    options = ("StrictHostKeyChecking=no", f"UserKnownHostsFile={folder}/known-{port}", "ConnectTimeout=120")
    words = [word for each in options for word in ("-o", each)]
    return ["ssh", "-i", str(folder / "key"), "-p", str(port), *words, "ops@127.0.0.1"]


def test_debian_boots_gets_its_user_and_becomes_the_next_version(tmp_path: Path) -> None:
    require("debian-disk")
    home = tmp_path / "home"
    make_debian_root(tmp_path / "root")
    make_debian_disk(tmp_path / "root", tmp_path / "debian.raw", tmp_path / "mount")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    (tmp_path / "custom.sh").write_text("#!/bin/sh\necho custom data ran > /etc/custom\n")
    profile = (
        f"--admin-username ops --ssh-key-values {tmp_path}/key.pub --custom-data {tmp_path}/custom.sh "
        "--size Standard_B1ms"
    )
    for line in (
        "group create -n rg -l southcentralus",
        "sig create -g rg -r gallery -l southcentralus",
        f"sig image-definition create {DEFINITION} --publisher p --offer o --sku s --os-type Linux --hyper-v-generation V1",
        f"sig image-version create {DEFINITION} -e 1.0.0 --os-vhd-uri {tmp_path}/debian.raw",
        f"vm create -g rg -n first --image rg/gallery/debian/1.0.0 {profile}",
    ):
        run(home, line)
    ssh = start(home, "first", tmp_path)
    inside = (
        "cloud-init status --wait; hostname; cat /etc/custom; sudo id -u; "
        "echo made inside | sudo tee /etc/made; sudo cloud-init clean --logs; sync"
    )
    done = subprocess.run([*ssh, inside], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-5:-1] == ["first", "custom data ran", "0", "made inside"], done.stdout
    run(home, "vm stop -g rg -n first --shutdown-seconds 300")
    view = json.loads(run(home, "vm get-instance-view -g rg -n first"))
    assert view["statuses"][-1]["message"] == "the guest shut down"
    uid = json.loads(run(home, "vm show -g rg -n first"))["properties"]["vmId"]
    run(home, f"disk commit --qcow2 {home}/machines/{uid}/os.qcow2 {DEFINITION} -e 1.1.0")
    run(home, f"vm create -g rg -n second --image rg/gallery/debian/1.1.0 {profile}")
    ssh = start(home, "second", tmp_path)
    done = subprocess.run([*ssh, "hostname; cat /etc/made"], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-3:-1] == ["second", "made inside"]
    run(home, "vm stop -g rg -n second --skip-shutdown")
