"""Test the blob endpoint with curl and with Azure's client."""

import base64
import hashlib
import http.client
import os
import random
import re
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from api_server import Answer, Api, definition_body, start_api
from blob_uploads import CurlAnswer, Upload, curl, make_vhd

from imgstore.api.dev_tls import make_certificates
from imgstore.domain.disks.signed_urls import AccessLevel
from imgstore.domain.requests import UploadRequest
from imgstore.domain.storage.sizes import MIB
from imgstore.operations.disks.signed_urls import grant_access
from imgstore.operations.disks.uploads import create_upload, revoke_access
from imgstore.testing.azure_clients import LOCKS
from imgstore.testing.pytest_plugin import require
from imgstore.transfer.crc64 import crc64_header
from imgstore.transfer.scatter import SegmentReader
from imgstore.transfer.spool import spool_folder
from tests.support.sample_gallery import ADMIN, GROUP, audit, own_slots

pytest_plugins = ["api_fixtures"]


@pytest.fixture
def vhd(tmp_path: Path) -> Path:
    return make_vhd(tmp_path / "disk.vhd")


@pytest.fixture
def upload(api: Api, vhd: Path) -> Upload:
    return Upload(api=api).make(vhd.stat().st_size)


def page(
    url: str, begin: int, data: bytes | None, length: int = 0, headers: dict[str, str] | None = None
) -> CurlAnswer:
    """Send Put Page. Clear the range if there is no data."""
    end = begin + (length if data is None else len(data)) - 1
    told = {"x-ms-range": f"bytes={begin}-{end}", "x-ms-page-write": "clear" if data is None else "update"}
    told |= headers or {}
    flags = [part for name, value in told.items() for part in ("-H", f"{name}: {value}")]
    body = ["--data-binary", "@-", "-H", "Content-Type:"] if data is not None else ["-H", "Content-Length: 0"]
    return curl("-X", "PUT", *flags, *body, f"{url}&comp=page", stdin=data)


def code(told: CurlAnswer) -> str:
    """Return the error code of the header, which the XML repeats."""
    found = re.search(rb"<Error><Code>(\w+)</Code><Message>.+</Message></Error>$", told.body, re.DOTALL)
    assert found, told
    assert found[1].decode().lower() == told.headers["x-ms-error-code"]
    return found[1].decode()


def test_uploaded_file_is_downloaded_byte_for_byte(api: Api, upload: Upload, vhd: Path, tmp_path: Path) -> None:
    assert (upload.shown()["diskState"], upload.shown()["provisioningState"]) == ("ReadyToUpload", "Succeeded")
    url = upload.grant()
    assert upload.shown()["diskState"] == "ActiveUpload"
    sent = curl("-T", vhd, url)
    assert (sent.status, sent.headers["x-imgstore-received-bytes"]) == (201, str(vhd.stat().st_size))
    assert upload.end()["status"] == "Succeeded"
    shown = upload.shown()
    assert (shown["diskState"], shown["diskSizeBytes"]) == ("Unattached", 8 * MIB)
    assert shown["creationData"] == {"createOption": "Upload", "uploadSizeBytes": 8 * MIB + 512}
    assert not list((api.installation.home / "uploads").iterdir()), "what was taken in is spooled no more"
    read = upload.grant("Read")
    assert upload.shown()["diskState"] == "ActiveSAS"
    got = curl(read)
    assert got.body == vhd.read_bytes()
    assert curl("-r", "1048000-1050000", read).body == vhd.read_bytes()[1048000:1050001]
    assert curl("-r", "-512", read).body == vhd.read_bytes()[-512:]
    half = tmp_path / "half"
    half.write_bytes(got.body[: 5 * MIB])
    assert curl("-C", "-", "-o", half, read).status == 206
    assert half.read_bytes() == vhd.read_bytes()
    assert own_slots(api.installation)
    for path, body in ((api.gallery, {"location": "southcentralus"}), (api.definition, definition_body())):
        assert api.ask("PUT", path, body).status == 201
    audit(api.installation)


def test_chunked_upload_resumes_at_the_received_bytes_of_head(upload: Upload, vhd: Path) -> None:
    url, whole = upload.grant(), vhd.read_bytes()
    part = whole[: 3 * MIB + 77]
    assert curl("-T", "-", url, stdin=part).status == 201
    received = int(curl("-I", url).headers["x-imgstore-received-bytes"])
    assert received == len(part)
    assert curl("-T", vhd, "-C", received, url).status == 201
    assert upload.end()["status"] == "Succeeded"
    assert curl(upload.grant("Read")).body == whole


def test_broken_connection_keeps_received_bytes(api: Api, upload: Upload, vhd: Path) -> None:
    url, whole = upload.grant(), vhd.read_bytes()
    target, sent = urlsplit(url), 2 * MIB + 12_345
    with socket.create_connection(("127.0.0.1", api.port)) as line:
        head = f"PUT {target.path}?{target.query} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(whole)}\r\n\r\n"
        line.sendall(head.encode() + whole[:sent])
    received = 0
    for _ in range(500):
        received = int(curl("-I", url).headers["x-imgstore-received-bytes"])
        if received == sent:
            break
        api.installation.effects.wait(0.02)
    assert received == sent
    assert curl("-T", vhd, "-C", received, url).status == 201
    assert upload.end()["status"] == "Succeeded"


@pytest.mark.parametrize("with_length", [True, False])
def test_excess_byte_gets_413_and_accepted_bytes_are_kept(upload: Upload, vhd: Path, with_length: bool) -> None:
    url, whole = upload.grant(), vhd.read_bytes()
    assert curl("-T", "-", url, stdin=whole[:MIB]).status == 201
    longer = vhd.with_suffix(".long")
    longer.write_bytes(whole + b"x")
    told = curl("-T", longer, url) if with_length else curl("-T", "-", url, stdin=whole + b"x")
    assert (told.status, code(told)) == (413, "RequestBodyTooLarge")
    received = int(curl("-I", url).headers["x-imgstore-received-bytes"])
    assert received == (MIB if with_length else len(whole))
    assert page(url, len(whole), b"y" * 512).status == 413
    if not with_length:
        assert upload.end()["status"] == "Succeeded"


def test_invalid_vhd_is_refused_and_can_be_corrected(upload: Upload, vhd: Path) -> None:
    url, whole = upload.grant(), vhd.read_bytes()
    assert curl("-T", "-", url, stdin=whole[: 4 * MIB]).status == 201
    told = upload.end()
    assert told["status"] == "Failed"
    assert upload.shown()["diskState"] == "ReadyToUpload"
    again = upload.grant()
    assert curl("-I", again).headers["x-imgstore-received-bytes"] == str(4 * MIB)
    assert curl("-T", vhd, "-C", 4 * MIB, again).status == 201
    assert upload.end()["status"] == "Succeeded"
    assert curl(upload.grant("Read")).body == whole


def test_revocation_without_upload_leaves_the_disk_waiting(upload: Upload) -> None:
    upload.grant()
    assert upload.end()["status"] == "Succeeded"
    assert upload.shown()["diskState"] == "ReadyToUpload"


def test_pages_are_written_cleared_listed_and_checked(upload: Upload, vhd: Path) -> None:
    url, whole = upload.grant(), vhd.read_bytes()
    data = whole[:4096]
    first = page(url, 0, data, headers={"Content-MD5": base64.b64encode(hashlib.md5(data).digest()).decode()})
    assert (first.status, "content-md5" in first.headers) == (201, True)
    crc = base64.b64encode(crc64_header(data)).decode()
    second = page(url, 8192, data, headers={"x-ms-content-crc64": crc})
    assert (second.status, second.headers["x-ms-content-crc64"]) == (201, crc.lower())
    assert second.headers["etag"] != first.headers["etag"]
    listed = b"<PageRange><Start>0</Start><End>4095</End></PageRange><PageRange><Start>8192</Start><End>12287</End></PageRange>"
    assert listed in curl(f"{url}&comp=pagelist").body
    assert page(url, 512, None, 1024).status == 201
    assert (
        b"<Start>0</Start><End>511</End></PageRange><PageRange><Start>1536</Start>" in curl(f"{url}&comp=pagelist").body
    )
    assert curl("-r", "0-4095", url).body == data[:512] + bytes(1024) + data[1536:]
    for bad, wanted in (
        ({"Content-MD5": base64.b64encode(bytes(16)).decode()}, "Md5Mismatch"),
        ({"x-ms-content-crc64": base64.b64encode(bytes(8)).decode()}, "Crc64Mismatch"),
        ({"x-ms-range": "bytes=1-512"}, "InvalidPageRange"),
        ({"x-ms-range": "bytes=0-1023"}, "InvalidPageRange"),
        ({"x-ms-page-write": "both"}, "UnsupportedHeader"),
    ):
        assert code(page(url, 0, b"z" * 512, headers=bad)) == wanted
    stale = page(url, 0, b"z" * 512, headers={"If-Match": '"0x1"'})
    assert (stale.status, code(stale)) == (412, "ConditionNotMet")
    assert curl("-r", "0-511", url).body == data[:512], "nothing that was refused was written"


def test_put_blob_resets_the_upload(upload: Upload, vhd: Path) -> None:
    url, size = upload.grant(), vhd.stat().st_size
    assert page(url, 0, b"z" * 512).status == 201
    flags = ["-X", "PUT", "-H", "x-ms-blob-type: PageBlob", "-H", "Content-Length: 0"]
    assert code(curl(*flags, "-H", f"x-ms-blob-content-length: {size + 512}", url)) == "InvalidHeaderValue"
    assert curl(*flags, "-H", f"x-ms-blob-content-length: {size}", url).status == 201
    assert b"<PageList></PageList>" in curl(f"{url}&comp=pagelist").body


def test_signed_url_is_limited_to_disk_level_and_time(api: Api, upload: Upload, vhd: Path) -> None:
    url = upload.grant()
    assert curl("-T", vhd, url).status == 201
    for forged in (
        url.replace("sp=rw", "sp=rw").replace("sig=", "sig=0"),
        re.sub(r"se=[^&]*", "se=2099-01-01T00%3A00%3A00Z", url),
        re.sub(r"si=[^&]*", "si=", url),
        re.sub(r"se=[^&]*", "se=never", url),
        url.split("?")[0],
        url.replace("/blobs/", "/blobs/0"),
    ):
        told = curl(forged)
        assert (told.status, code(told)) == (403, "AuthenticationFailed"), forged
    other = Upload(api=api, name="other").make(vhd.stat().st_size)
    theirs = other.grant()
    mixed = url.split("?")[0] + "?" + theirs.split("?")[1]
    assert curl(mixed).status == 403
    upload.end()
    assert curl("-I", url).status == 403
    assert curl("-T", vhd, url).status == 403
    read = upload.grant("Read")
    assert (told := curl("-T", vhd, read)).status == 403
    assert code(told) == "AuthorizationPermissionMismatch"
    assert (
        upload.api.ask("POST", f"{upload.path}/beginGetAccess", {"access": "Write", "durationInSeconds": 60}).status
        == 409
    )
    assert (
        upload.api.ask("POST", f"{other.path}/beginGetAccess", {"access": "Read", "durationInSeconds": 60}).status
        == 409
    )


def test_disk_with_a_grant_is_deleted_only_after_revocation(api: Api, upload: Upload, vhd: Path) -> None:
    url = upload.grant()
    assert refused(upload, api).code == "OperationNotAllowed"
    assert curl("-T", vhd, url).status == 201
    upload.end()
    read = upload.grant("Read")
    assert refused(upload, api).code == "OperationNotAllowed"
    upload.end()
    assert curl(read).status == 403
    # Invariant W10.
    assert api.await_end(api.ask("DELETE", upload.path))["status"] == "Succeeded"


def refused(upload: Upload, api: Api) -> Answer:
    answer = api.ask("DELETE", upload.path)
    assert answer.status == 409, answer
    return answer


def test_deleted_disk_leaves_no_upload(api: Api, upload: Upload, vhd: Path) -> None:
    assert curl("-T", vhd, upload.grant()).status == 201
    disk_uid = upload.shown()["uniqueId"]
    assert spool_folder(api.installation.home, disk_uid).exists()
    with api.installation.catalog.transaction() as transaction:
        disk = transaction.disks.by_uid(disk_uid)
        assert disk.grant is not None
    ran_out = api.ask("DELETE", upload.path)
    assert ran_out.status == 409
    revoke_only(api, disk_uid)
    assert api.await_end(api.ask("DELETE", upload.path))["status"] == "Succeeded"
    assert not spool_folder(api.installation.home, disk_uid).exists()


def revoke_only(api: Api, disk_uid: str) -> None:
    """Let the grant of a disk expire."""
    with api.installation.catalog.transaction() as transaction:
        disk = transaction.disks.by_uid(disk_uid)
        assert disk.grant is not None
        past = replace(disk.grant, expires_at=disk.created_at)
        assert transaction.disks.set_grant(disk, past)


def test_expired_url_is_refused_and_not_shown(api: Api, upload: Upload) -> None:
    url = upload.grant()
    revoke_only(api, upload.shown()["uniqueId"])
    assert curl("-I", url).status == 403
    assert upload.shown()["diskState"] == "ReadyToUpload"


def test_equal_put_changes_nothing_and_another_size_is_refused(upload: Upload, vhd: Path) -> None:
    size = vhd.stat().st_size
    assert upload.put(size).status == 200
    assert upload.put(size + 512).code == "PropertyChangeNotAllowed"
    for wrong in (511, 512, size + 1, 1 << 50):
        assert Upload(api=upload.api, name="wrong").put(wrong).status == 400


def test_invalid_ranges_and_conditions_of_reads(api: Api, upload: Upload, vhd: Path) -> None:
    assert curl("-T", vhd, upload.grant()).status == 201
    upload.end()
    read = upload.grant("Read")
    told = curl("-r", "99999999-", read)
    assert (told.status, code(told)) == (416, "InvalidRange")
    tag = curl("-I", read).headers["etag"].upper().replace("0X", "0x")
    assert curl("-H", f"If-None-Match: {tag}", read).status == 304
    assert curl("-H", f"If-Match: {tag}", "-r", "0-9", read).status == 206
    assert curl("-H", 'If-Match: "x"', read).status == 412
    connection = http.client.HTTPConnection("127.0.0.1", api.port)
    connection.request("POST", urlsplit(read).path)
    assert connection.getresponse().status == 405
    connection.close()


def test_qemu_img_reads_the_url(upload: Upload, vhd: Path, tmp_path: Path) -> None:
    require("qemu-img")
    assert curl("-T", vhd, upload.grant()).status == 201
    upload.end()
    read, out = upload.grant("Read"), tmp_path / "out.raw"
    # One request at a time: qemu's curl driver may wait for ever for the last of several that have all come.
    image = f"driver=vpc,file.driver=http,file.url={read}"
    done = subprocess.run(
        ["qemu-img", "convert", "-m", "1", "--image-opts", image, "-O", "raw", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "Unknown driver" in done.stderr or "Unknown protocol" in done.stderr:
        pytest.skip("this qemu-img has no curl driver")
    assert done.returncode == 0, done.stderr
    # Invariant D10.
    assert out.read_bytes() == vhd.read_bytes()[:-512]


def test_scattered_disk_is_assembled_once_for_a_whole_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[bytes] = []
    fetch = SegmentReader.blocks

    def counted(self: SegmentReader, name: bytes) -> memoryview:
        fetched.append(name)
        return fetch(self, name)

    vhd = make_vhd(tmp_path / "first.vhd", disk_bytes=16 * MIB, noise_bytes=16 * MIB)
    second = tmp_path / "second.vhd"
    content, other = bytearray(vhd.read_bytes()), random.Random(9).randbytes(16 * MIB)
    for at in range(0, 16 * MIB, 8192):  # Every other block is new: reading in disk order goes to and fro.
        content[at : at + 4096] = other[at : at + 4096]
    second.write_bytes(content)
    with start_api(tmp_path / "home", cache_bytes=4 * MIB) as api:
        for path in (vhd, second):
            upload = Upload(api=api, name=path.stem).make(path.stat().st_size)
            assert curl("-T", path, upload.grant()).status == 201
            assert upload.end()["status"] == "Succeeded"
        url = upload.grant("Read")
        monkeypatch.setattr(SegmentReader, "blocks", counted)
        assert curl(url).body == bytes(content)
        assert len(fetched) == len(set(fetched)), "each segment once"
        fetched.clear()
        assert curl("-r", "0-8388607", url).body == bytes(content)[: 8 * MIB]
        assert len(fetched) == len(set(fetched)), "the last segments stay in memory"
        assert not list(api.installation.scratch.glob("whole-*"))


@pytest.mark.engine("azure-sdk")
def test_azure_client_uploads_nonzero_pages_and_resumes(tmp_path: Path, vhd: Path) -> None:
    python = require("azure-sdk").command
    certificates = make_certificates(tmp_path)
    with start_api(tmp_path / "home", certificates=certificates) as api:
        told = {"SSL_CERT_FILE": str(certificates.bundle), "REQUESTS_CA_BUNDLE": str(certificates.bundle)}
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | told

        def run(*arguments: str) -> list[str]:
            command = [python, str(LOCKS / "azure_blob.py"), *arguments]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            return done.stdout.split()

        def granted(name: str, level: AccessLevel) -> str:
            place = {"group": GROUP, "name": name}
            return grant_access(api.installation, ADMIN, **place, level=level, duration_seconds=600, server_url=api.url)

        for name in ("whole", "parts"):
            request = UploadRequest(group=GROUP, name=name, upload_bytes=vhd.stat().st_size)
            create_upload(api.installation, ADMIN, request)
        (sent,) = run("upload", granted("whole", AccessLevel.WRITE), str(vhd))
        assert 0 < int(sent) < 6 * MIB, "zeros were not sent"
        url = granted("parts", AccessLevel.WRITE)
        assert run("half", url, str(vhd)) == ["half"]
        assert run("resume", url, str(vhd)) == ["resumed"]
        for name in ("whole", "parts"):
            revoke_access(api.installation, ADMIN, group=GROUP, name=name)
            assert run("download", granted(name, AccessLevel.READ), str(vhd)) == ["same"]
