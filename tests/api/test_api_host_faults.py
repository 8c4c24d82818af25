"""Answers of a running server whose home is full, read-only or broken (invariant E9)."""

import errno
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from api_server import Api, start_api, version_body
from blob_uploads import Upload, curl

from imgstore.domain.storage.sizes import MIB
from tests.support.http_server import Page, start_web
from tests.support.mounted_folder import MountedFolder, mount_folder
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import audit

FAULTS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE)
WRITES: Final = ("create", "write", "mkdir", "rename", "link", "truncate", "fsync")


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedFolder]:
    with mount_folder(tmp_path_factory.mktemp("host"), {}) as found:
        yield found


@pytest.fixture(scope="module")
def api(mounted: MountedFolder) -> Iterator[Api]:
    with start_api(mounted.path / "home") as found:
        found.found()
        yield found


def refuse_writes(mounted: MountedFolder, part: str, number: int) -> None:
    mounted.set_rules({f"{part}:{operation}": number for operation in WRITES})


def check_hidden(answer: str, mounted: MountedFolder) -> None:
    """Check that a caller reads neither a path of the machine nor a trace of Python."""
    for secret in (str(mounted.path), str(mounted.path.parent), "Traceback", "Errno", ".py", "sqlite"):
        assert secret not in answer


def test_a_catalog_that_cannot_be_written(api: Api, mounted: MountedFolder) -> None:
    for number in FAULTS:
        refuse_writes(mounted, "catalog.sqlite", number)
        refused = api.ask("PUT", f"{api.compute}/galleries/second", {"location": "southcentralus"})
        assert refused.status in (503, 507), refused
        check_hidden(str(refused), mounted)
        assert api.ask("GET", api.gallery).status == 200, "reading goes on"
    mounted.set_rules({})
    assert api.ask("PUT", f"{api.compute}/galleries/second", {"location": "southcentralus"}).status == 201


def test_a_store_and_a_scratch_folder_that_cannot_be_written(api: Api, mounted: MountedFolder, tmp_path: Path) -> None:
    source = make_raw(tmp_path / "disk.raw", seed=5, virtual_bytes=2 * MIB, content_bytes=MIB // 2)
    with start_web({"/disk.raw": Page(body=source.read_bytes())}) as web:
        body = version_body(web.url("/disk.raw"))
        for part, number in itertools.product(("regions/", "scratch/"), (errno.ENOSPC, errno.EROFS, errno.EIO)):
            refuse_writes(mounted, part, number)
            refused = api.ask("PUT", api.version(), body)
            told = api.await_end(refused)
            assert told["status"] == "Failed"
            check_hidden(str(told), mounted)
        mounted.set_rules({})
        assert api.await_end(api.ask("PUT", api.version(), body))["status"] == "Succeeded"
    audit(api.installation)


def test_an_upload_that_cannot_be_written(api: Api, mounted: MountedFolder) -> None:
    """The first faults meet a closed upload, and the second faults an open upload. The client need not wait afterwards."""
    upload = Upload(api=api).make(4 * MIB + 512)
    url = upload.grant()
    send = ("-X", "PUT", "-H", "x-ms-page-write: update", "-H", "x-ms-range: bytes=0-1048575", "--data-binary", "@-")
    mounted.set_rules({"/data:create": errno.ENOSPC})  # after the lock, which the server must release
    assert curl(*send, f"{url}&comp=page", stdin=bytes(range(256)) * 4096).status == 507
    for _ in range(2):
        for number in FAULTS:
            refuse_writes(mounted, "uploads/", number)
            answer = curl(*send, f"{url}&comp=page", stdin=bytes(range(256)) * 4096)
            assert answer.status == (507 if number in (errno.ENOSPC, errno.EDQUOT) else 503)
            told = f"{answer.headers} {answer.body.decode()}"
            check_hidden(told, mounted)
            assert "HOME" not in told
            assert errno.errorcode[number] not in told
        mounted.set_rules({})
        assert curl(*send, f"{url}&comp=page", stdin=bytes(range(256)) * 4096).status == 201
