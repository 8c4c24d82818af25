"""Test that the steps of a hint remove the cause: cause an error, do what the hint says, and repeat the line."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from imgstore.domain.storage.sizes import MIB
from tests.support.http_server import Page, start_web
from tests.support.sample_disks import make_raw
from tests.support.terminal import Terminal, enter_folder

VERSION: Final = "sig image-version create -g rg -r g1 -i ubuntu -l southcentralus -e {} --os-vhd-uri {}"
UPDATE: Final = "imgstore sig image-version update -g rg -r g1 -i ubuntu -e 1.0.0"


class HintTerminal(Terminal):
    """The command line in a home with a definition, in the current folder."""

    def hint(self, line: str) -> str:
        """Run a line that fails, and return the hint."""
        result = self.run(line)
        assert result.exit_code != 0, line
        found = re.search(r"what to do: (.*)", result.stderr)
        assert found, result.stderr
        return str(found[1])


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HintTerminal:
    enter_folder(tmp_path, monkeypatch)
    made = HintTerminal(tmp_path)
    make_raw(tmp_path / "disk.raw", seed=1, virtual_bytes=8 * MIB, content_bytes=2 * MIB)
    made.ok("sig create -g rg -r g1 -l southcentralus")
    made.ok("sig image-definition create -g rg -r g1 -i ubuntu --publisher p --offer o --sku s --os-type Linux")
    return made


# -- images -----------------------------------------------------------------------------------------------------------


def qemu_img(*words: object) -> None:
    subprocess.run(["qemu-img", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def set_bits(file: Path, at: int, bits: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] |= bits
    file.write_bytes(content)


def qcow2_with_feature(bit: int) -> Callable[[Path], Path]:
    """Return a maker of a qcow2 image with an incompatible feature, in the last byte of the bits at 72."""

    def make(folder: Path) -> Path:
        image = folder / "image.qcow2"
        qemu_img("convert", "-f", "raw", "-O", "qcow2", "-o", "lazy_refcounts=on", folder / "disk.raw", image)
        set_bits(image, 79, bit)
        return image

    return make


def crc32c(data: bytes) -> int:
    """Return the checksum of a VHDX header ([MS-VHDX] 2.2.2)."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def vhdx_with_log(folder: Path) -> Path:
    """Write a VHDX that was not closed: both headers name the log, whose entries qemu-img left in the file."""
    image, log_at = folder / "image.vhdx", MIB
    qemu_img("convert", "-f", "raw", "-O", "vhdx", folder / "disk.raw", image)
    content = bytearray(image.read_bytes())
    assert content[log_at : log_at + 4] == b"loge"
    for at in (64 << 10, 128 << 10):
        content[at + 48 : at + 64] = content[log_at + 32 : log_at + 48]
        content[at + 4 : at + 8] = bytes(4)
        content[at + 4 : at + 8] = crc32c(bytes(content[at : at + 4096])).to_bytes(4, "little")
    image.write_bytes(content)
    return image


def qcow2_with_backing_file(folder: Path) -> Path:
    qemu_img("create", "-q", "-f", "qcow2", "-b", folder / "disk.raw", "-F", "raw", folder / "image.qcow2")
    return folder / "image.qcow2"


def qcow2_with_data_file(folder: Path) -> Path:
    more = f"data_file={folder / 'data.bin'},data_file_raw=on"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-o", more, folder / "disk.raw", folder / "image.qcow2")
    return folder / "image.qcow2"


def vhd_with_short_footer(folder: Path) -> Path:
    """Write a VHD as Virtual PC before 2004 did, with a footer of 511 bytes."""
    image = folder / "image.vhd"
    more = "subformat=fixed,force_size=on"
    qemu_img("convert", "-f", "raw", "-O", "vpc", "-o", more, folder / "disk.raw", image)
    image.write_bytes(image.read_bytes()[:-1])
    return image


def vmdk_in_two_files(folder: Path) -> Path:
    more = "subformat=twoGbMaxExtentSparse"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", more, folder / "disk.raw", folder / "image.vmdk")
    return folder / "image.vmdk"


IMAGES: Final = {
    "qcow2 that was not closed": (qcow2_with_feature(1), "qemu-img check -r all"),
    "qcow2 marked as corrupt": (qcow2_with_feature(2), "qemu-img check -r all"),
    "VHDX with a log": (vhdx_with_log, "qemu-img check -r all"),
    "qcow2 with a backing file": (qcow2_with_backing_file, "qemu-img convert -O qcow2"),
    "qcow2 with a data file": (qcow2_with_data_file, "qemu-img convert -O qcow2"),
    "VHD with a short footer": (vhd_with_short_footer, "qemu-img convert -f vpc -O vpc -o force_size=on"),
    "VMDK in several files": (vmdk_in_two_files, "qemu-img convert -O qcow2"),
}


@pytest.mark.engine("qemu-img")
@pytest.mark.parametrize("name", IMAGES)
def test_the_command_for_an_image_repairs_the_image(terminal: HintTerminal, name: str) -> None:
    make, command = IMAGES[name]
    image = make(terminal.folder)
    hint = terminal.hint(VERSION.format("1.0.0", image))
    assert f"`{command}`" in hint
    repaired = image
    if " convert " in command:
        repaired = image.with_name(f"repaired{image.suffix}")
        subprocess.run([*command.split(), image, repaired], check=True, stdout=subprocess.DEVNULL)
    else:
        subprocess.run([*command.split(), image], check=True, stdout=subprocess.DEVNULL)
    terminal.ok(VERSION.format("1.0.0", repaired))
    terminal.ok("verify --file disk.raw --image rg/g1/ubuntu/1.0.0")


# -- lines ------------------------------------------------------------------------------------------------------------


def quoted(hint: str, start: str) -> str:
    """Return the command in backticks that begins with `start`."""
    commands: list[str] = re.findall(r"`([^`]*)`", hint)
    return next(each for each in commands if each.startswith(start))


def test_the_command_for_an_open_url_frees_the_disk(terminal: HintTerminal) -> None:
    terminal.ok(VERSION.format("1.0.0", "disk.raw"))
    terminal.ok("disk create -g rg -n d --gallery-image-reference rg/g1/ubuntu/1.0.0")
    terminal.ok("disk grant-access -g rg -n d --duration-in-seconds 3600 --access-level Read")
    terminal.ok(quoted(terminal.hint("disk delete -g rg -n d --yes"), "imgstore disk revoke-access"))
    terminal.ok("disk delete -g rg -n d --yes")


@pytest.mark.parametrize(
    ("before", "line", "option"),
    [
        (
            "--end-of-life-date 2999-01-01 --block-deletion-before-end-of-life true",
            "sig image-version delete -g rg -r g1 -i ubuntu -e 1.0.0 --yes",
            "--block-deletion-before-end-of-life false",
        ),
        (
            "--target-regions southcentralus eastus --allow-replicated-location-deletion false",
            f"{UPDATE} --target-regions southcentralus",
            "--allow-replicated-location-deletion true",
        ),
    ],
)
def test_the_option_for_a_protected_version_ends_the_protection(
    terminal: HintTerminal, before: str, line: str, option: str
) -> None:
    terminal.ok(f"{VERSION.format('1.0.0', 'disk.raw')} {before}")
    assert f"{UPDATE.partition(' -g')[0]} ... {option}`" in terminal.hint(line)
    terminal.ok(f"{UPDATE} {option}")
    terminal.ok(line)


def test_the_commands_for_a_softly_deleted_version_restore_or_free_its_name(terminal: HintTerminal) -> None:
    terminal.ok("sig update -g rg -r g1 --soft-delete true")
    where = "-g rg -r g1 -i ubuntu -e 1.0.0"
    for command, more in (("undelete", ""), ("delete --bypass-soft-delete", " --yes")):
        terminal.ok(VERSION.format("1.0.0", "disk.raw"))
        terminal.ok(f"sig image-version delete {where} --yes")
        assert f"{command}`" in terminal.hint(VERSION.format("1.0.0", "disk.raw"))
        terminal.ok(f"sig image-version {command} {where}{more}")
        terminal.ok(VERSION.format("1.0.0", "disk.raw"))


def test_the_setting_for_a_limit_raises_the_limit(terminal: HintTerminal) -> None:
    settings = terminal.folder / "home" / "settings.toml"
    settings.write_text("[limits]\ngalleries_max = 1\n")
    terminal.ok("settings apply")
    hint = terminal.hint("sig create -g rg -r g2 -l southcentralus")
    assert f"raise galleries_max under [limits] in {settings}, then run `imgstore settings apply`" in hint
    settings.write_text("[limits]\ngalleries_max = 2\n")
    terminal.ok(quoted(hint, "imgstore settings apply"))
    terminal.ok("sig create -g rg -r g2 -l southcentralus")


@pytest.mark.engine("qemu-img")
def test_the_setting_for_scratch_raises_the_limit(terminal: HintTerminal) -> None:
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "disk.raw", "disk.qcow2")
    settings = terminal.folder / "home" / "settings.toml"
    settings.write_text("[disk_space]\nscratch_bytes_per_work_max = 1000\n")
    hint = terminal.hint(VERSION.format("1.0.0", "disk.qcow2"))
    assert f"raise scratch_bytes_per_work_max under [disk_space] in {settings}" in hint
    settings.write_text("[disk_space]\nscratch_bytes_per_work_max = 1000000000\n")
    terminal.ok(VERSION.format("1.0.0", "disk.qcow2"))


@pytest.mark.engine("qemu-img")
def test_the_command_for_a_full_scratch_folder_needs_no_scratch(terminal: HintTerminal) -> None:
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "disk.raw", "disk.qcow2")
    settings = terminal.folder / "home" / "settings.toml"
    settings.write_text(f"[disk_space]\nfree_bytes_min = {1 << 50}\n")
    hint = terminal.hint(VERSION.format("1.0.0", "disk.qcow2"))
    assert "TMPDIR" not in hint
    subprocess.run([*quoted(hint, "qemu-img convert").split(), "disk.qcow2", "disk2.raw"], check=True)
    assert Path("disk2.raw").read_bytes() == Path("disk.raw").read_bytes()


def test_the_variable_for_an_empty_catalog_names_the_catalog(terminal: HintTerminal) -> None:
    terminal.ok(VERSION.format("1.0.0", "disk.raw"))
    line = "sig image-version list -g rg -r g1 -i ubuntu"
    terminal.environ["IMGSTORE_DATABASE"] = f"sqlite:///{terminal.folder / 'new.db'}"
    hint = terminal.hint(line)
    assert "name the catalog of that installation with --database or IMGSTORE_DATABASE" in hint
    assert "empty" not in hint
    catalog = terminal.folder / "home" / "catalog.sqlite"
    terminal.environ["IMGSTORE_DATABASE"] = f"sqlite:///{catalog}"
    assert len(terminal.ok(line)) == 1


def test_the_words_for_an_export_write_the_file(terminal: HintTerminal) -> None:
    terminal.ok(VERSION.format("1.0.0", "disk.raw"))
    terminal.ok("disk create -g rg -n d --gallery-image-reference rg/g1/ubuntu/1.0.0")
    line = "disk export -g rg -n d --file new/disk.raw"
    assert quoted(terminal.hint(line), "mkdir") == "mkdir -p"
    subprocess.run(["mkdir", "-p", "new"], check=True)
    terminal.ok(line)
    assert quoted(terminal.hint(line), "--") == "--overwrite"
    terminal.ok(f"{line} --overwrite")


def test_the_variable_for_a_private_source_admits_the_source(terminal: HintTerminal) -> None:
    with start_web({"/disk.raw": Page(body=Path("disk.raw").read_bytes())}) as web:
        line = VERSION.format("1.0.0", web.url("/disk.raw"))
        assert "IMGSTORE_ALLOW_PRIVATE_SOURCES=1" in terminal.hint(line)
        terminal.environ["IMGSTORE_ALLOW_PRIVATE_SOURCES"] = "1"
        terminal.ok(line)


def test_the_command_for_a_shared_gallery_ends_the_sharing(terminal: HintTerminal) -> None:
    terminal.ok("sig create -g rg -r g1 --permissions groups")
    terminal.ok("sig share add -g rg -r g1 --subscription-ids 11111111-1111-1111-1111-111111111111")
    line = (
        "sig create -g rg -r g1 --permissions community --publisher-uri https://a.example --publisher-email a@a.example "
        "--eula https://a.example/eula --public-name-prefix contoso"
    )
    assert "imgstore sig share reset" in terminal.hint(line)
    terminal.ok("sig share reset -g rg -r g1")
    terminal.ok(line)


def test_the_features_of_a_definition_may_change_after_the_option(terminal: HintTerminal) -> None:
    line = "sig image-definition update -g rg -r g1 -i ubuntu --add features name=IsHibernateSupported value=True"
    assert "--allow-update-image true" in terminal.hint(line)
    terminal.ok(f"{line} --allow-update-image true")
