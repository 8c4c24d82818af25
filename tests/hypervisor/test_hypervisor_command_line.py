"""The command line of QEMU: a hostile guest, and names that are no options (invariant V3)."""

import shlex

from hypothesis import given
from hypothesis import strategies as st

from imgstore.hypervisor.command_line import SANDBOX, Drive, Firmware, Forward, Guest, compose_command, inherited_fds

UID = "6b0e0f3c-8c29-4a0a-8a51-0b4d0b1a0f00"


def guest(name: str = "vm1", socket: str = "/tmp/os") -> Guest:
    return Guest(
        name=name,
        uid=UID,
        cpus=2,
        memory_mib=512,
        accelerator="tcg",
        drives=[
            Drive(lun=None, uid=UID, socket=socket, changes_fds=(10, 11)),
            Drive(lun=7, uid=UID, socket="/tmp/lun-7", changes_fds=(12, 13)),
        ],
        monitor_fds=[3, 4],
        console_fd=5,
        seed_fd=6,
        firmware=Firmware(code="/usr/share/OVMF/OVMF_CODE_4M.fd", variables_fds=(8, 9)),
        forwards=[Forward(host_port=2222, guest_port=22)],
    )


def test_a_guest_has_a_sandbox_and_only_forwarded_ports() -> None:
    words = compose_command("qemu", guest())
    assert words[words.index("-sandbox") + 1] == SANDBOX
    assert "user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:2222-:22" in words
    assert words.count("-netdev") == 1


def test_disks_have_their_luns_and_files_are_descriptors() -> None:
    line = shlex.join(compose_command("qemu", guest()))
    assert "virtio-blk-pci,drive=os,serial=os,bootindex=0" in line
    assert f"scsi-hd,id=lun-7.{UID},drive=lun-7,bus=data.0,lun=7,serial=lun-7" in line
    assert "filename=/dev/fdset/2,read-only=on" in line
    assert inherited_fds(guest()) == [3, 4, 5, 6, 8, 9, 10, 11, 12, 13]


@given(st.text(min_size=1).filter(lambda word: "\0" not in word))
def test_no_word_becomes_an_option_of_qemu(word: str) -> None:
    """A comma begins the next value of an option. A doubled comma is a comma of the value."""
    words = compose_command("qemu", guest(name=word, socket=f"/{word}"))
    assert len(words) == len(compose_command("qemu", guest()))
    assert _values(words[words.index("-name") + 1]) == [f"guest={word}"]
    disk = next(each for each in words if "server.path" in each)
    assert f"server.path=/{word}" in _values(disk)
    assert len(_values(disk)) == 5


def _values(option: str) -> list[str]:
    """Split an option at its commas as QEMU does."""
    return [each.replace("\0", ",") for each in option.replace(",,", "\0").split(",")]
