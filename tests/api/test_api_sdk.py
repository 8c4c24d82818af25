"""Run Azure's unmodified Python clients against a server with TLS."""

import os
import subprocess
from pathlib import Path

import pytest
from api_server import start_api

from imgstore.api.dev_tls import make_certificates
from imgstore.testing.azure_clients import LOCKS
from imgstore.testing.pytest_plugin import require
from tests.support.http_server import WebServer

pytest_plugins = ["api_fixtures"]


@pytest.mark.engine("azure-sdk")
@pytest.mark.parametrize("worker", [False, True])
def test_sdk_manages_all_resources(tmp_path: Path, web: WebServer, worker: bool) -> None:
    python = require("azure-sdk").command
    certificates = make_certificates(tmp_path)
    with start_api(tmp_path / "home", certificates=certificates, worker=worker, page_items=4) as api:
        assert api.credential is not None
        identity = api.credential.known.identity
        told = {
            "IMGSTORE_URL": api.url,
            "IMGSTORE_SOURCE": web.url("/one.raw"),
            "IMGSTORE_SUBSCRIPTION_ID": api.installation.subscription,
            "IMGSTORE_TENANT_ID": identity.tenant_uid,
            "IMGSTORE_CLIENT_ID": identity.client_id or "",
            "IMGSTORE_CLIENT_SECRET": api.credential.secret,
            "REQUESTS_CA_BUNDLE": str(certificates.bundle),
        }
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | told
        done = subprocess.run(
            [python, str(LOCKS / "azure_sdk.py")], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [
        "group", "galleries", "images", "versions", "an_operation_that_fails", "disks", "machines", "scale_sets",
        "soft_delete", "the_end",
    ]  # fmt: skip
