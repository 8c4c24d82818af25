"""``imgstore serve`` as a person starts it: what it prints, how it ends, and what it goes on with after an end in the middle."""

import http.client
import json
import signal
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from cli_server import serving
from click.testing import CliRunner

from imgstore.cli.main import main
from imgstore.domain.deployments import DeploymentState
from imgstore.domain.storage.sizes import MIB
from tests.support.http_server import Page, start_web
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import DEFINITION, GALLERY, GROUP, create_sample_gallery, open_home


class Gated(bytes):
    """A body whose large ranges wait at a gate."""

    gate: threading.Event
    met: threading.Event

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice) and key.stop - key.start >= MIB:
            self.met.set()
            self.gate.wait(60)
        return super().__getitem__(key)


def test_the_lines_point_clients_at_the_server_and_the_secret_is_printed_once(tmp_path: Path) -> None:
    with serving(tmp_path / "home", "--dev-tls") as first:
        assert {
            "IMGSTORE_TENANT_ID", "IMGSTORE_CLIENT_ID", "IMGSTORE_CLIENT_SECRET", "IMGSTORE_SUBSCRIPTION_ID",
            "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "AZURE_CORE_INSTANCE_DISCOVERY",
        } == set(first.told)  # fmt: skip
        url = f"https://localhost:{first.port}"
        assert f"az cloud register -n imgstore --endpoint-resource-manager {url}" in first.lines
        checks = {"database": "ok", "stores": "ok", "freeSpace": "ok", "worker": "ok"}
        assert first.ask("GET", "/readyz") == (200, {"status": "ready", "checks": checks})
        token = first.token(first.told)
        _, told = first.ask("GET", "/subscriptions?api-version=2022-12-01", token=token)
        assert [each["subscriptionId"] for each in told["value"]] == [first.told["IMGSTORE_SUBSCRIPTION_ID"]]
        assert first.end(signal.SIGTERM) == 0
    with serving(tmp_path / "home", "--dev-tls", "--no-worker") as second:
        assert "IMGSTORE_CLIENT_SECRET" not in second.told
        assert second.told["IMGSTORE_TENANT_ID"] == first.told["IMGSTORE_TENANT_ID"]
        assert second.token(first.told)
        assert second.end(signal.SIGINT) == 0


def test_a_client_that_keeps_its_connection_open_does_not_hold_up_the_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path / "home", "--dev-tls") as server:
        context = ssl.create_default_context(cafile=server.told["REQUESTS_CA_BUNDLE"])
        idle = http.client.HTTPSConnection("localhost", server.port, context=context, timeout=60)
        idle.request("GET", "/readyz")
        assert json.loads(idle.getresponse().read())["status"] == "ready"
        assert server.end(signal.SIGTERM) == 0
        idle.close()
    assert "graceful shutdown exceeded" not in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_operation_survives_the_servers_end(tmp_path: Path, number: int) -> None:
    make_raw(tmp_path / "disk.raw", seed=1, virtual_bytes=16 * MIB, content_bytes=4 * MIB)
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        top = f"/subscriptions/{installation.subscription}"
    path = f"{top}/resourceGroups/{GROUP}/providers/Microsoft.Compute/galleries/{GALLERY}/images/{DEFINITION}"
    version = f"{path}/versions/1.0.0?api-version=2023-07-03"
    body = Gated((tmp_path / "disk.raw").read_bytes())
    body.gate, body.met = threading.Event(), threading.Event()
    with start_web({"/disk.raw": Page(body=body)}) as web:
        asked = {
            "location": "southcentralus",
            "properties": {
                "publishingProfile": {"targetRegions": [{"name": "southcentralus"}, {"name": "eastus"}]},
                "storageProfile": {"osDiskImage": {"source": {"uri": web.url("/disk.raw")}}},
            },
        }
        with serving(tmp_path / "home", "--insecure-http") as first:
            token = first.token(first.told)
            status, made = first.ask("PUT", version, asked, token)
            assert (status, made["properties"]["provisioningState"]) == (201, "Creating")
            operation = "/" + first.headers["azure-asyncoperation"].split("/", 3)[3]
            assert body.met.wait(60)
            assert first.ask("GET", operation, token=token)[1]["status"] == "InProgress"
            if number == signal.SIGTERM:
                body.gate.set()
            assert first.end(number) == (0 if number == signal.SIGTERM else -number)
        body.gate.set()
        with serving(tmp_path / "home", "--insecure-http") as second:
            token = second.token(first.told)
            for _ in range(3_000):
                told = second.ask("GET", operation, token=token)[1]
                if told["status"] != "InProgress":
                    break
            assert told["status"] == "Succeeded", told
            assert second.ask("GET", version, token=token)[1]["properties"]["provisioningState"] == "Succeeded"
            second.end(signal.SIGTERM)
    with open_home(tmp_path / "home") as installation, installation.catalog.reading() as transaction:
        kept = transaction.operations.get(operation.split("/")[-1].partition("?")[0])
        assert kept is not None
        assert kept.request == {}, "a source's URL may be signed: it is not kept"


def test_a_deployment_survives_a_killed_server(tmp_path: Path) -> None:
    """It is Running while the version that its template names is taken in."""
    make_raw(tmp_path / "disk.raw", seed=1, virtual_bytes=16 * MIB, content_bytes=4 * MIB)
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        group = f"/subscriptions/{installation.subscription}/resourceGroups/{GROUP}/providers"
    body = Gated((tmp_path / "disk.raw").read_bytes())
    body.gate, body.met = threading.Event(), threading.Event()
    deployment = f"{group}/Microsoft.Resources/deployments/d1?api-version=2021-04-01"
    with start_web({"/disk.raw": Page(body=body)}) as web:
        version = {
            "type": "Microsoft.Compute/galleries/images/versions",
            "apiVersion": "2023-07-03",
            "name": f"{GALLERY}/{DEFINITION}/1.0.0",
            "location": "southcentralus",
            "properties": {"storageProfile": {"osDiskImage": {"source": {"uri": web.url("/disk.raw")}}}},
        }
        template = {
            "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
            "contentVersion": "1.0.0.0",
            "resources": [version],
        }
        with serving(tmp_path / "home", "--insecure-http") as first:
            token = first.token(first.told)
            asked = {"properties": {"mode": "Incremental", "template": template}}
            status, made = first.ask("PUT", deployment, asked, token)
            assert status == 201, made
            assert body.met.wait(60)
            with open_home(tmp_path / "home") as installation, installation.catalog.reading() as transaction:
                above = transaction.groups.get(installation.subscription, GROUP)
                assert above is not None
                assert [each.state for each in transaction.deployments.list(above.uid)] == [DeploymentState.RUNNING]
            assert first.end(signal.SIGKILL) == -signal.SIGKILL
        body.gate.set()
        with serving(tmp_path / "home", "--insecure-http") as second:
            token = second.token(first.told)
            for _ in range(3_000):
                told = second.ask("GET", deployment, token=token)[1]
                if told["properties"]["provisioningState"] not in ("Running", "Accepted"):
                    break
            assert told["properties"]["provisioningState"] == "Succeeded", told
            path = f"{group}/Microsoft.Compute/galleries/{GALLERY}/images/{DEFINITION}/versions/1.0.0"
            found = second.ask("GET", f"{path}?api-version=2023-07-03", token=token)[1]
            assert found["properties"]["provisioningState"] == "Succeeded"
            second.end(signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("", "--dev-tls"),
        ("--tls-cert cert.pem", "--tls-key"),
        ("--dev-tls --insecure-http", "--dev-tls"),
        ("--insecure-http --host 0.0.0.0", "Plain http is not served on 0.0.0.0"),
        ("--tls-cert none.pem --tls-key none.pem", "The certificate can't be used"),
    ],
)
def test_what_would_not_be_safe_is_refused(tmp_path: Path, arguments: str, told: str) -> None:
    environment = {"IMGSTORE_HOME": str(tmp_path / "home")}
    result = CliRunner().invoke(main, ["serve", "--port", "0", *arguments.split()], env=environment)
    assert result.exit_code in (1, 2)
    # Invariant H5.
    assert told in result.output
