"""Run the unmodified azure-mgmt-compute with machines that run on the host of the server."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from api_server import Api, lines_of, start_api

from imgstore.api.dev_tls import make_certificates
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.installation import MachineHost
from imgstore.testing.azure_clients import LOCKS
from imgstore.testing.pytest_plugin import require
from tests.support.machine_home import find_processes, keep_machines, publish

pytestmark = pytest.mark.engine("qemu-system")


@contextmanager
def machine_server(folder: Path, disk: Path) -> Iterator[Api]:
    """Serve with machines and TLS over a gallery with one version of a disk."""
    with keep_machines(folder / "home") as home:
        publish(home, disk)
        certificates = make_certificates(folder)
        with start_api(home, certificates=certificates, machines=MachineHost()) as api:
            yield api
        assert find_processes(home) == [], "the deletion ends the machine"


def run_client(api: Api, command: list[str]) -> list[str]:
    """Run a client. Return the passed chapters."""
    version = f"{api.top}/resourceGroups/rg/providers/Microsoft.Compute/galleries/gallery/images/linux/versions/1.0.0"
    own = lines_of(api) | {"IMGSTORE_VERSION": version}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | own
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout.split()


@pytest.mark.long
@pytest.mark.engine("azure-sdk")
def test_sdk_switches_a_machine_on_and_off(tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(b"no boot loader" + bytes(MIB - 14))
    command = [str(require("azure-sdk").command), str(LOCKS / "azure_sdk_power.py")]
    with machine_server(tmp_path, tmp_path / "disk.raw") as api:
        assert run_client(api, command) == [
            "create", "boot_log", "power_off", "deallocate", "start", "delete",
        ]  # fmt: skip
