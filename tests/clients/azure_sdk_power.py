"""azure-mgmt-compute, unmodified, with a machine that runs.

Run by tests/api/test_api_clients_power.py in an environment of its own, so it imports nothing of ours. The environment has the
settings. It prints a line for each chapter that passed.
"""

import importlib
import os
import ssl
import urllib.request
from collections.abc import Callable
from typing import Any

identity: Any = importlib.import_module("azure.identity")
compute: Any = importlib.import_module("azure.mgmt.compute")
errors: Any = importlib.import_module("azure.core.exceptions")

URL = os.environ["IMGSTORE_URL"]
AUTHORITIES = os.environ["REQUESTS_CA_BUNDLE"]
RG, NAME = "rg", "vm1"

credential = identity.ClientSecretCredential(
    os.environ["IMGSTORE_TENANT_ID"],
    os.environ["IMGSTORE_CLIENT_ID"],
    os.environ["IMGSTORE_CLIENT_SECRET"],
    authority=URL,
    disable_instance_discovery=True,
    connection_verify=AUTHORITIES,
)
client = compute.ComputeManagementClient(
    credential,
    os.environ["IMGSTORE_SUBSCRIPTION_ID"],
    base_url=URL,
    credential_scopes=[f"{URL}/.default"],
    connection_verify=AUTHORITIES,
    polling_interval=0,
)
machines = client.virtual_machines


def power() -> str:
    """Return the power state in the instance view."""
    return str(machines.instance_view(RG, NAME).statuses[-1].code)


def refused(call: Callable[[], Any]) -> str:
    """Return the code of a refusal."""
    try:
        call()
    except errors.HttpResponseError as error:
        return str(error.error.code)
    raise AssertionError("it was not refused")


def create() -> None:
    body = {
        "location": "southcentralus",
        "properties": {
            "hardwareProfile": {"vmSize": "Standard_B1ls"},
            "storageProfile": {
                "imageReference": {"id": os.environ["IMGSTORE_VERSION"]},
                "osDisk": {"createOption": "FromImage"},
            },
            "osProfile": {"computerName": "host", "adminUsername": "ops", "adminPassword": "Secret-123!"},
        },
    }
    made = machines.begin_create_or_update(RG, NAME, body).result()
    assert made.properties.provisioning_state == "Succeeded"
    assert power() == "PowerState/running"
    shown = machines.get(RG, NAME, expand="instanceView")
    assert shown.properties.instance_view.statuses[-1].display_status == "VM running"


def boot_log() -> None:
    found = machines.retrieve_boot_diagnostics_data(RG, NAME)
    context = ssl.create_default_context(cafile=AUTHORITIES)
    with urllib.request.urlopen(found.serial_console_log_blob_uri, context=context) as answer:
        assert answer.status == 200


def power_off() -> None:
    machines.begin_power_off(RG, NAME, skip_shutdown=True).result()
    assert power() == "PowerState/stopped"
    assert refused(lambda: machines.begin_restart(RG, NAME).result()) == "OperationNotAllowed"


def start() -> None:
    for _ in range(2):
        machines.begin_start(RG, NAME).result()
        assert power() == "PowerState/running"


def deallocate() -> None:
    for _ in range(2):
        machines.begin_deallocate(RG, NAME).result()
        assert power() == "PowerState/deallocated"


def delete() -> None:
    machines.begin_delete(RG, NAME).result()
    assert list(machines.list(RG)) == []


for chapter in (create, boot_log, power_off, deallocate, start, delete):
    chapter()
    print(chapter.__name__, flush=True)
