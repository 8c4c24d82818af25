"""Find the programs and firmware files of the host."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imgstore.domain.errors import ToolMissing

QEMU: Final = "qemu-system-x86_64"
_FIRMWARE: Final = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),  # Debian, Ubuntu
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),  # Debian, Ubuntu before 2023
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),  # Fedora
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),  # Arch
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareFiles:
    """UEFI firmware and the initial content of its variables."""

    code: Path
    variables: Path


def find_qemu(search_path: str | None = None) -> str:
    """Return the path of QEMU.

    Raises:
        ToolMissing: QEMU is not installed.
    """
    found = shutil.which(QEMU, path=search_path)
    if found is None:
        raise ToolMissing(
            "Machines need QEMU, which is not installed.",
            found=f"no program {QEMU}",
            expected=f"{QEMU} in PATH",
            hint="install QEMU: `apt install qemu-system-x86 ovmf`, or `dnf install qemu-kvm edk2-ovmf`",
            target=QEMU,
        )
    return found


def find_firmware() -> FirmwareFiles:
    """Return the UEFI firmware for machines of generation 2.

    Raises:
        ToolMissing: no firmware is installed.
    """
    for code, variables in _FIRMWARE:
        if Path(code).is_file() and Path(variables).is_file():
            return FirmwareFiles(code=Path(code), variables=Path(variables))
    raise ToolMissing(
        "Machines of generation 2 need the UEFI firmware OVMF, which is not installed.",
        found="no OVMF_CODE and OVMF_VARS",
        expected=_FIRMWARE[0][0],
        hint="install OVMF: `apt install ovmf`, or `dnf install edk2-ovmf`",
        target="ovmf",
    )
