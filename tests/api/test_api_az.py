"""az as it is, against a real server over TLS."""

import os
import subprocess
from pathlib import Path

import pytest
from api_server import lines_of, start_api

from imgstore.api.tls import make_certificates
from imgstore.testing.clients import LOCKS
from imgstore.testing.engines import require
from imgstore.testing.web import WebServer

pytest_plugins = ["api_fixtures"]


@pytest.mark.engine("az")
def test_az_does_what_a_person_does_with_galleries(tmp_path: Path, web: WebServer) -> None:
    python = require("az").command
    certificates = make_certificates(tmp_path)
    with start_api(tmp_path / "home", certificates=certificates, page_items=2) as api:
        told = {
            **lines_of(api),
            "IMGSTORE_SOURCE": web.url("/one.raw"),
            "IMGSTORE_DATA_SOURCE": web.url("/two.raw"),
            "AZURE_CONFIG_DIR": str(tmp_path / "az"),
            "AZURE_CORE_INSTANCE_DISCOVERY": "false",
            "AZURE_CORE_COLLECT_TELEMETRY": "false",
        }
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | told
        command = [str(python), str(LOCKS / "az.py")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [
        "login", "groups", "galleries", "images", "versions", "disks", "sources", "sharing", "soft_delete", "the_end",
    ]  # fmt: skip
