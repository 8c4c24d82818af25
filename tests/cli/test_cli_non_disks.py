"""A file that is no disk, at every way into the gallery (invariant B8)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from imgstore.domain.errors import ImageRefused
from imgstore.domain.progress import ignore_event
from imgstore.remote.local_disk import LocalDisk
from tests.support.http_server import Page, start_web
from tests.support.sample_disks import make_raw
from tests.support.terminal import Terminal

PAGE = b"<!DOCTYPE html>\n<html><head><title>403 Forbidden</title></head><body>no</body></html>\n".ljust(1024)
VERSION = "sig image-version create -g rg -r g -i d -e 1.0.0 --location eastus "


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.chdir(tmp_path)
    for name in ("page.img", "copy.img"):
        (tmp_path / name).write_bytes(PAGE)
    make_raw(tmp_path / "disk.raw", seed=1)
    terminal = Terminal(tmp_path)
    terminal.environ["IMGSTORE_ALLOW_PRIVATE_SOURCES"] = "1"
    terminal.ok("sig create -g rg -r g --location eastus")
    terminal.ok("sig image-definition create -g rg -r g -i d -p p -f o -s s --os-type Linux --os-state Generalized")
    with start_web({"/disk.img": Page(body=PAGE)}) as web:
        terminal.environ["URL"] = web.url("/disk.img")
        yield terminal


def test_a_file_that_is_no_disk_is_refused_at_every_way_in(terminal: Terminal) -> None:
    for line in (
        VERSION + "--os-vhd-uri page.img",
        VERSION + f"--os-vhd-uri {terminal.environ['URL']}",
        VERSION + "--os-vhd-uri disk.raw --data-vhds-uris page.img --data-vhds-luns 0",
        "disk create -g rg -n x --location eastus --source page.img",
        "snapshot create -g rg -n x --location eastus --source page.img",
        "image create -g rg -n x --location eastus --os-type Linux --source page.img",
    ):
        refused = terminal.run(line)
        assert refused.exit_code == 1, line
        assert "is not a disk" in refused.stderr
        assert "an HTML page" in refused.stderr
    assert terminal.ok("sig image-version list -g rg -r g -i d") == []
    assert [terminal.ok(f"{kind} list -g rg") for kind in ("disk", "snapshot", "image")] == [[], [], []]
    with pytest.raises(ImageRefused, match="is not a disk"), LocalDisk(path=Path("page.img")).open(ignore_event):
        pass


def test_a_named_format_stores_any_file(terminal: Terminal) -> None:
    """The hint of the error names the options."""
    terminal.ok(
        VERSION + "--os-vhd-uri page.img --source-format raw --data-vhds-uris copy.img --data-vhds-luns 0 "
        "--data-vhds-formats raw"
    )
    assert terminal.ok("verify --file page.img --image rg/g/d/1.0.0 --source-format raw")["matches"] is True
