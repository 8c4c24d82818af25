"""Files that are published through a server are stored in the pool of the gallery only (invariant S1)."""

import json
import shlex
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from remote_server import Machine, serving

from imgstore.cli.main import main
from imgstore.domain.names import version_id
from imgstore.domain.storage.sizes import MIB
from imgstore.formats import fixed_footer
from imgstore.remote.publish import upload_name
from tests.support.sample_disks import make_raw, patch_disk, write_vhd

WHERE = "-g rg -r g1 -i ubuntu"
CREATE = f"sig image-version create {WHERE}"
METADATA_BYTES = 4096
"""More than the footers of uploaded VHDs in manifests, and the objects that mark the progress of the catalog."""
REVISION_BYTES = 32_768
"""The server also has a tenant, principals, a secret and zones at the first start, and an upload for each version."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with serving(tmp_path_factory.mktemp("stored")) as machine:
        raw = make_raw(machine.folder / "disk.raw", seed=1, virtual_bytes=64 * MIB, content_bytes=10 * MIB)
        patch_disk(raw, machine.folder / "next.raw", seed=2)
        write_vhd(raw, machine.folder / "disk.vhd")
        for line in GALLERY:
            machine.inside(*line.split())
        yield machine


GALLERY = (
    "sig create -g rg -r g1 -l southcentralus",
    "sig image-definition create -g rg -r g1 -i ubuntu --publisher p --offer o --sku s --os-type Linux",
)


def stored(home: Path) -> Counter[str]:
    """Return the bytes of all objects in all regions, by kind. Only a server seals and stores its ledger by itself."""
    found = Counter[str]()
    for path in (home / "regions").rglob("*"):
        if path.is_file():
            parts = path.relative_to(home / "regions").parts
            kind = parts[6] if parts[2:3] == ("pools",) else parts[2]
            if kind == "ledger" or parts[2:4] in {("installation", "ledger"), ("installation", "ledger-keys")}:
                continue
            found["revisions" if kind in ("owners", "installation") else kind] += path.stat().st_size
    return found


def run(home: Path, line: str) -> Any:
    """Run a command at a home of its own."""
    result = CliRunner().invoke(main, shlex.split(line), prog_name="imgstore", env={"IMGSTORE_HOME": str(home)})
    assert result.exit_code == 0, (line, result.output, result.exception)
    return json.loads(result.stdout) if result.stdout else None


def send(machine: Machine, url: str, data: bytes, **headers: str) -> None:
    request = urllib.request.Request(
        url,
        data,
        {"Content-Type": "application/octet-stream"} | {k.replace("_", "-"): v for k, v in headers.items()},
        method="PUT",
    )
    with urllib.request.urlopen(request, context=machine._trust()) as answer:
        assert answer.status == 201


def start_upload(machine: Machine, name: str, upload_bytes: int, *tags: str) -> str:
    """Create a disk with Azure's requests for an upload, and return the signed URL."""
    size = f"--upload-type Upload --upload-size-bytes {upload_bytes}"
    machine.inside(*f"disk create -g rg -n {name} -l southcentralus {size} --tags".split(), *tags)
    line = f"disk grant-access -g rg -n {name} --access-level Write --duration-in-seconds 3600"
    return str(machine.inside(*line.split())["accessSAS"])


def test_a_server_stores_what_a_home_stores(machine: Machine, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for line in GALLERY:
        run(home, line)
    for name, file in (("1.0.0", "disk.raw"), ("1.0.1", "next.raw")):
        line = f"{CREATE} -e {name} --os-vhd-uri {machine.folder / file} --target-regions southcentralus eastus"
        run(home, line)
        machine.inside(*line.split())
        found, expected = stored(machine.server_home), stored(home)
        assert found["segments"] > 6 * MIB
        assert (found["segments"], found["fingerprints"]) == (expected["segments"], expected["fingerprints"])
        revisions = found["revisions"] - expected["revisions"]
        assert found.total() - expected.total() - revisions <= METADATA_BYTES
        assert revisions <= REVISION_BYTES
    assert machine.inside("disk", "list") == []
    assert not list((machine.server_home / "uploads").iterdir())


def test_an_upload_of_azures_clients_is_stored_once(machine: Machine) -> None:
    before = stored(machine.server_home)
    data = (machine.folder / "disk.vhd").read_bytes()
    url = start_upload(machine, "up", len(data), "Imgstore-Upload-For=a version")
    send(machine, url, data)
    machine.inside(*["disk", "revoke-access", "-g", "rg", "-n", "up"])
    assert machine.inside(*["disk", "show", "-g", "rg", "-n", "up"])["properties"]["diskState"] == "ReadyToUpload"
    assert stored(machine.server_home)["segments"] == before["segments"]
    made = machine.inside(*f"{CREATE} -e 2.0.0 --os-snapshot up".split())
    assert made["properties"]["provisioningState"] == "Succeeded"
    assert stored(machine.server_home)["segments"] == before["segments"], "the gallery has the content already"
    machine.inside(*["disk", "delete", "-g", "rg", "-n", "up", "--yes"])
    machine.inside(*f"disk export --gallery-image-reference rg/g1/ubuntu/2.0.0 --file {machine.folder}/b.vhd".split())
    assert (machine.folder / "b.vhd").read_bytes() == data


def test_an_upload_with_an_open_url_is_no_source(machine: Machine) -> None:
    start_upload(machine, "open", MIB + 512, "imgstore-upload-for=x")
    result = machine.run(*f"{CREATE} -e 2.1.0 --os-snapshot open".split())
    assert result.exit_code == 1
    assert "`imgstore disk revoke-access` ends the upload" in result.stderr
    machine.inside(*["disk", "revoke-access", "-g", "rg", "-n", "open"])
    result = machine.run(*f"{CREATE} -e 2.1.0 --os-snapshot open".split())
    assert "no uploaded bytes" in result.stderr
    machine.inside(*["disk", "delete", "-g", "rg", "-n", "open", "--yes"])


def test_a_missing_definition_is_an_error_before_the_upload(machine: Machine) -> None:
    line = f"sig image-version create -g rg -r g1 -i none -e 1.0.0 --os-vhd-uri {machine.folder}/disk.raw"
    result = machine.run(*line.split())
    assert result.exit_code == 3
    assert "upload" not in result.stderr
    assert machine.inside("disk", "list") == []


def test_an_upload_that_another_command_ends_is_an_error_in_words(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = upload_name(version_id(machine.settings["IMGSTORE_SUBSCRIPTION_ID"], "rg", "g1", "ubuntu", "4.0.0"), None)

    def revoke_first(*words: Any) -> bytes:
        machine.ok("disk", "revoke-access", "-g", "rg", "-n", name)
        return fixed_footer(*words)

    line = f"{CREATE} -e 4.0.0 --os-vhd-uri {machine.folder}/disk.raw"
    monkeypatch.setattr("imgstore.remote.upload.fixed_footer", revoke_first)
    monkeypatch.setattr("imgstore.remote.publish._RACES_MAX", 0)
    with pytest.raises(AssertionError, match="was ended before all bytes were sent"):
        machine.inside(*line.split())
    monkeypatch.undo()
    assert machine.inside(*line.split())["properties"]["provisioningState"] == "Succeeded"


def test_ranges_of_an_earlier_file_never_reach_a_version(machine: Machine) -> None:
    """The range is zero in the file, so that the repeated upload does not send the range."""
    subscription = machine.settings["IMGSTORE_SUBSCRIPTION_ID"]
    name = upload_name(version_id(subscription, "rg", "g1", "ubuntu", "3.0.0"), None)
    url = start_upload(machine, name, 64 * MIB + 512, "imgstore-upload-for=x")
    raw = (machine.folder / "disk.raw").read_bytes()
    at = next(at for at in range(0, len(raw), MIB) if not any(raw[at : at + MIB]))
    page = {"x_ms_page_write": "update", "x_ms_range": f"bytes={at}-{at + MIB - 1}"}
    send(machine, f"{url}&comp=page", b"old" * (MIB // 3) + b"x", **page)
    made = machine.inside(*f"{CREATE} -e 3.0.0 --os-vhd-uri {machine.folder}/disk.raw".split())
    image = machine.inside(*f"sig image-version show {WHERE} -e 1.0.0".split())
    digests = [each["properties"]["storageProfile"]["osDiskImage"]["diskDigest"] for each in (made, image)]
    assert digests[0] == digests[1]
    assert machine.inside("disk", "list") == []


def test_equal_commands_at_once_share_an_upload(machine: Machine) -> None:
    """The command that ends its upload first revokes the URLs of the other commands, and deletes the disk at the end."""
    line = f"{CREATE} --os-vhd-uri {machine.folder / 'disk.raw'} -o json".split()
    commands = [machine.start(*line, "-e", "3.2.0") for _ in range(3)]
    ends = [each.communicate(timeout=120) for each in commands]
    assert [each.returncode for each in commands] == [0, 0, 0], ends
    assert len({out for out, _ in ends}) == 1
    assert machine.inside("disk", "list") == []


def test_an_ended_upload_of_another_command_is_not_sent_again(machine: Machine) -> None:
    """Another command has ended the upload and does not create the version."""
    scope = f"/subscriptions/{machine.settings['IMGSTORE_SUBSCRIPTION_ID']}/resourceGroups/rg"
    version = f"{scope}/providers/Microsoft.Compute/galleries/g1/images/ubuntu/versions/3.1.0"
    name, data = upload_name(version, None), (machine.folder / "disk.vhd").read_bytes()
    made = machine.inside(*f"{CREATE} -e 3.0.9 --os-vhd-uri {machine.folder / 'disk.raw'}".split())
    digest = made["properties"]["storageProfile"]["osDiskImage"]["diskDigest"]
    tags = (f"imgstore-upload-for={version}", f"imgstore-upload-digest={digest}")
    send(machine, start_upload(machine, name, len(data), *tags), data)
    machine.inside(*f"disk revoke-access -g rg -n {name}".split())
    sent = machine.puts()
    machine.inside(*f"{CREATE} -e 3.1.0 --os-vhd-uri {machine.folder / 'disk.raw'}".split())
    assert machine.puts() == sent
    assert machine.inside("disk", "list") == []
