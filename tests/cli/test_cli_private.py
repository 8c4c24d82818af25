"""What others on the machine may read of a home: nothing, whatever the umask; and what a stolen home tells: no secrets."""

import http.client
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cli_server import Process, serving

from imgstore.domain.storage.sizes import MIB
from imgstore.formats.vhd_layout import TYPE_FIXED, pack_footer
from tests.support.http_server import Page, WebServer, start_web
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import DEFINITION, GALLERY, GROUP

NAMES = f"-g {GROUP} -r {GALLERY} -i {DEFINITION}"
SIGNATURE = "c2VjcmV0LXNpZ25hdHVyZS1vZi1hLXNvdXJjZQ"
VERSION = "?api-version=2023-04-02"


@pytest.fixture(params=[0o022, 0o000], ids=["umask-022", "umask-000"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    make_raw(tmp_path / "disk.raw", seed=1, virtual_bytes=8 * MIB, content_bytes=2 * MIB)
    with start_web({"/disk.raw": Page(body=(tmp_path / "disk.raw").read_bytes())}) as server:
        yield server


def run(home: Path, line: str) -> None:
    words = [sys.executable, "-m", "imgstore", "--home", str(home), *shlex.split(line), "-o", "none"]
    subprocess.run(words, check=True)


def open_to_others(top: Path) -> list[str]:
    """What below a folder, and the folder itself, others than its owner may use."""
    every = [top, *top.rglob("*")]
    return [f"{stat.S_IMODE(each.lstat().st_mode):o} {each}" for each in every if each.lstat().st_mode & 0o077]


def holders_of(top: Path, secret: str) -> list[str]:
    """The files below a folder in which a secret lies."""
    return [str(each) for each in top.rglob("*") if each.is_file() and secret.encode() in each.read_bytes()]


def await_end(server: Process, token: str) -> str:
    path = "/" + server.headers["azure-asyncoperation"].split("/", 3)[3]
    for _ in range(3_000):
        told = server.ask("GET", path, token=token)[1]
        if told["status"] != "InProgress":
            return str(told["status"])
        time.sleep(0.01)
    raise AssertionError("no end")


def upload(server: Process, group: str, token: str, home: Path) -> None:
    """A disk of an upload, from its row to its end."""
    data = b"a" * MIB + pack_footer(virtual_bytes=MIB, disk_type=TYPE_FIXED, disk_digest=bytes(32))
    disk = f"{group}/providers/Microsoft.Compute/disks/up"
    creation = {"createOption": "Upload", "uploadSizeBytes": len(data)}
    body = {"location": "southcentralus", "properties": {"creationData": creation}}
    assert server.ask("PUT", disk + VERSION, body, token)[0] in (200, 201, 202)
    access = {"access": "Write", "durationInSeconds": 600}
    status, given = server.ask("POST", f"{disk}/beginGetAccess{VERSION}", access, token)
    assert status == 200, given
    url = urlsplit(given["accessSAS"])
    connection = http.client.HTTPConnection("localhost", server.port, timeout=60)
    span = {"x-ms-range": f"bytes=0-{len(data) - 1}", "x-ms-page-write": "update"}
    connection.request("PUT", f"{url.path}?{url.query}&comp=page", data, span)
    assert connection.getresponse().status == 201
    connection.close()
    assert not open_to_others(home)
    status, _ = server.ask("POST", f"{disk}/endGetAccess{VERSION}", token=token)
    assert status in (200, 202)
    if status == 202:
        assert await_end(server, token) == "Succeeded"


def test_a_whole_session_leaves_nothing_to_others_and_no_secret(umask: int, tmp_path: Path, web: WebServer) -> None:
    home = tmp_path / "parents" / "that are made" / "home"
    run(home, f"sig create -g {GROUP} -r {GALLERY} --location southcentralus")
    run(home, f"sig image-definition create {NAMES} --publisher p --offer o --sku s --os-type Linux")
    run(
        home,
        f"sig image-version create {NAMES} -e 1.0.0 --os-vhd-uri {tmp_path}/disk.raw --target-regions southcentralus eastus",
    )
    image = f"{GROUP}/{GALLERY}/{DEFINITION}"
    run(home, f"disk export --gallery-image-reference {image} -l eastus --file {tmp_path}/out.raw")
    assert stat.S_IMODE((tmp_path / "out.raw").stat().st_mode) == 0o666 & ~umask, "an export is the person's own"
    with serving(home, "--insecure-http") as server:
        token = server.token(server.told)
        group = f"/subscriptions/{server.told['IMGSTORE_SUBSCRIPTION_ID']}/resourceGroups/{GROUP}"
        upload(server, group, token, home)
        sources = {"fits": "/disk.raw", "is-not-there": "/nothing.raw"}
        for name, page in sources.items():
            uri = web.url(f"{page}?sv=2022&sig={SIGNATURE}")
            asked = {
                "location": "southcentralus",
                "properties": {"creationData": {"createOption": "Import", "sourceUri": uri}},
            }
            disk = f"{group}/providers/Microsoft.Compute/disks/{name}{VERSION}"
            status, told = server.ask("PUT", disk, asked, token)
            ended = await_end(server, token) if status in (200, 201, 202) else told["error"]["code"]
            assert (ended == "Succeeded") is (name == "fits"), told
        assert any(SIGNATURE in path for path, *_ in web.requests), "it was used"
        deploy(server, group, token, web)
        assert holders_of(home, SIGNATURE) == []
        assert not open_to_others(home)
        run(home, "gc --yes --grace-hours 0")
        run(home, "scrub")
        assert not open_to_others(home)
        server.end(signal.SIGTERM)
    assert holders_of(home, SIGNATURE) == []
    assert not open_to_others(home.parents[1])
    # Invariant H12.
    with serving(home, "--dev-tls") as server:
        assert not open_to_others(home)


def deploy(server: Process, group: str, token: str, web: WebServer) -> None:
    """A template with the signed URL in it, and as a parameter."""
    resource: dict[str, Any] = {
        "type": "Microsoft.Compute/disks",
        "apiVersion": "2023-04-02",
        "name": "deployed",
        "location": "southcentralus",
        "properties": {"creationData": {"createOption": "Import", "sourceUri": "[parameters('uri')]"}},
    }
    template = {
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "parameters": {"uri": {"type": "secureString"}},
        "resources": [resource],
    }
    values = {"uri": {"value": web.url(f"/disk.raw?sv=2022&sig={SIGNATURE}")}}
    body = {"properties": {"mode": "Incremental", "template": template, "parameters": values}}
    path = f"{group}/providers/Microsoft.Resources/deployments/d1?api-version=2021-04-01"
    status, told = server.ask("PUT", path, body, token)
    assert status in (200, 201), told
    assert await_end(server, token) == "Succeeded"


def test_a_home_that_an_older_imgstore_left_open_is_closed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    run(home, f"group create -g {GROUP} -l southcentralus")
    for folder in (home, home / "scratch", home / "regions"):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    run(home, "group list")
    assert not open_to_others(home)


def test_a_folder_that_all_users_share_stays_so(tmp_path: Path) -> None:
    shared = tmp_path / "like-tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    run(shared, "group list")
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777
    assert {re.sub(r"^\d+ ", "", each) for each in open_to_others(shared)} == {str(shared)}


def test_an_export_is_private_until_it_has_its_name(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from imgstore.formats.files.atomic_file import PendingFile\n"
        "os.umask(0)\n"
        "pending = PendingFile(Path(sys.argv[1]), overwrite=False)\n"
        "print(oct(os.stat(pending.temporary).st_mode & 0o777))\n"
        "pending.publish()\n"
        "print(oct(os.stat(sys.argv[1]).st_mode & 0o777))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["0o600", "0o666"]
