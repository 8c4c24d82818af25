"""Run the unmodified az, Node client and Go client against a server with TLS."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_server import Api, lines_of, start_api

from imgstore.api.dev_tls import make_certificates
from imgstore.testing.azure_clients import LOCKS
from imgstore.testing.pytest_plugin import require
from tests.support.http_server import WebServer

pytest_plugins = ["api_fixtures"]


@pytest.fixture
def safe(tmp_path: Path) -> Iterator[Api]:
    """Run a server with TLS and short pages. az ignores a Retry-After of 0 and waits as long as usual."""
    certificates = make_certificates(tmp_path)
    with start_api(tmp_path / "home", certificates=certificates, page_items=2, retry_after_seconds=1) as server:
        yield server


def chapters(api: Api, web: WebServer, command: list[str], **more: str) -> list[str]:
    """Run a client. Return the passed chapters."""
    told = {
        **lines_of(api),
        "IMGSTORE_SOURCE": web.url("/one.raw"),
        "IMGSTORE_DATA_SOURCE": web.url("/two.raw"),
        **more,
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | told
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout.split()


@pytest.mark.engine("az")
def test_az_manages_galleries(tmp_path: Path, safe: Api, web: WebServer) -> None:
    settings = {
        "AZURE_CONFIG_DIR": str(tmp_path / "az"),
        "AZURE_CORE_INSTANCE_DISCOVERY": "false",
        "AZURE_CORE_COLLECT_TELEMETRY": "false",
    }
    # Invariant H3.
    assert chapters(safe, web, [str(require("az").command), str(LOCKS / "az.py")], **settings) == [
        "login", "groups", "galleries", "images", "versions", "disks", "sources", "sharing", "soft_delete",
        "deployments", "modules", "machines", "usage", "the_end",
    ]  # fmt: skip


@pytest.mark.engine("node")
def test_javascript_client_manages_all_resources(safe: Api, web: WebServer) -> None:
    modules = str(require("node").command)
    command = ["node", str(LOCKS / "node" / "cycle.mjs")]
    assert chapters(safe, web, command, IMGSTORE_MODULES=modules) == [
        "group", "galleries", "images", "versions", "disks", "machines", "sharing", "the_end",
    ]  # fmt: skip


@pytest.mark.engine("go")
def test_go_client_manages_all_resources(safe: Api, web: WebServer) -> None:
    assert chapters(safe, web, [str(require("go").command)]) == [
        "group", "galleries", "images", "versions", "disks", "machines", "the_end",
    ]  # fmt: skip


@pytest.mark.long
@pytest.mark.engine("az")
def test_az_creates_machines_with_networks(tmp_path: Path, safe: Api, web: WebServer) -> None:
    settings = {
        "AZURE_CONFIG_DIR": str(tmp_path / "az"),
        "AZURE_CORE_INSTANCE_DISCOVERY": "false",
        "AZURE_CORE_COLLECT_TELEMETRY": "false",
    }
    assert chapters(safe, web, [str(require("az").command), str(LOCKS / "az_machines.py")], **settings) == [
        "login", "generalized", "networks", "specialized", "several", "refused", "the_end",
    ]  # fmt: skip


@pytest.mark.long
@pytest.mark.engine("az")
def test_az_manages_scale_sets(tmp_path: Path, safe: Api, web: WebServer) -> None:
    settings = {
        "AZURE_CONFIG_DIR": str(tmp_path / "az"),
        "AZURE_CORE_INSTANCE_DISCOVERY": "false",
        "AZURE_CORE_COLLECT_TELEMETRY": "false",
    }
    assert chapters(safe, web, [str(require("az").command), str(LOCKS / "az_scale_sets.py")], **settings) == [
        "login", "created", "scaled", "updated", "the_end",
    ]  # fmt: skip
