"""Test machines that run on the host of a server with `--machines`."""

from collections.abc import Iterator
from typing import Any

import pytest
from api_server import Api, start_api, version_body

from imgstore.domain.machine_runs import MachineRun
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.installation import MachineHost
from imgstore.operations.leases import is_dead
from imgstore.operations.machines.running import reconcile_machines
from imgstore.testing.pytest_plugin import require
from tests.support.http_server import Page, start_web
from tests.support.machine_home import keep_machines, kill

pytestmark = pytest.mark.engine("qemu-system")
VM = "2024-07-01"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Serve with machines. The machine vm1 was made from a version, and so was started. Its disk has no boot loader."""
    require("qemu-system")
    folder = tmp_path_factory.mktemp("power")
    (folder / "disk.raw").write_bytes(b"no boot loader" + bytes(MIB - 14))
    page = Page(body=(folder / "disk.raw").read_bytes())
    with (
        start_web({"/disk.raw": page}) as web,
        keep_machines(folder / "home"),
        start_api(folder / "home", machines=MachineHost(), retry_after_seconds=0) as api,
    ):
        api.found()
        version = api.version()
        assert api.await_end(api.ask("PUT", version, version_body(web.url("/disk.raw"))))["status"] == "Succeeded"
        body = {
            "location": "southcentralus",
            "properties": {
                "hardwareProfile": {"vmSize": "Standard_B1ls"},
                "storageProfile": {"imageReference": {"id": version}, "osDisk": {"createOption": "FromImage"}},
                "osProfile": {"computerName": "host", "adminUsername": "ops", "adminPassword": "Secret-123!"},
            },
        }
        made = api.ask("PUT", machine(api), body, version=VM)
        assert made.status == 201, made
        yield api


def machine(api: Api) -> str:
    return f"{api.compute}/virtualMachines/vm1"


def power(api: Api) -> Any:
    view = api.ask("GET", f"{machine(api)}/instanceView", version=VM).body
    return view["statuses"][-1]["code"]


def recorded(api: Api) -> MachineRun:
    with api.installation.catalog.reading() as transaction:
        (found,) = transaction.machines.list(api.installation.subscription)
        return transaction.machine_runs.by_uid(found.uid)


def test_a_new_machine_runs_and_follows_the_actions_of_azure(running: Api) -> None:
    assert power(running) == "PowerState/running"
    shown = running.ask("GET", machine(running), version=VM, query="$expand=instanceView").body
    assert shown["properties"]["instanceView"]["statuses"][-1]["displayStatus"] == "VM running"
    given = running.ask("POST", f"{machine(running)}/retrieveBootDiagnosticsData", version=VM)
    assert given.status == 200
    url = running.path_of(given.body["serialConsoleLogBlobUri"])
    assert running.ask("GET", url, headers={"Authorization": ""}).status == 200
    assert running.ask("GET", url.replace("sig=", "sig=0")).status == 403
    assert running.ask("GET", url.replace("se=2", "se=3")).status == 403
    first = recorded(running)
    assert running.ask("POST", f"{machine(running)}/start", version=VM).status == 200
    assert recorded(running).qemu == first.qemu
    assert running.ask("POST", f"{machine(running)}/powerOff", version=VM, query="skipShutdown=true").status == 200
    assert power(running) == "PowerState/stopped"
    assert running.ask("POST", f"{machine(running)}/restart", version=VM).code == "OperationNotAllowed"
    assert running.ask("POST", f"{machine(running)}/start", version=VM).status == 200
    second = recorded(running)
    assert is_dead(first.qemu)
    assert second.qemu != first.qemu
    assert power(running) == "PowerState/running"


def test_a_server_adopts_a_machine_and_records_its_end(running: Api) -> None:
    first = recorded(running)
    kill(first.supervisor)
    reconcile_machines(running.installation)
    adopted = recorded(running)
    assert adopted.qemu == first.qemu
    assert not is_dead(adopted.supervisor)
    kill(adopted.supervisor)
    kill(adopted.qemu)
    reconcile_machines(running.installation)
    ended = recorded(running)
    assert (ended.state, ended.reason) == ("stopped", "QEMU ended while no supervisor watched")
    assert all(map(is_dead, ended.servers))


def test_deletion_ends_the_machine_and_removes_its_files(running: Api) -> None:
    folder = running.installation.home / "machines" / recorded(running).uid
    assert folder.exists()
    assert running.ask("POST", f"{machine(running)}/start", version=VM).status == 200
    run = recorded(running)
    answer = running.ask("DELETE", machine(running), version=VM)
    running.await_end(answer)
    assert all(map(is_dead, (run.qemu, run.supervisor, *run.servers)))
    assert not folder.exists()
