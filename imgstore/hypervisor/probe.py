"""Find out whether a guest really boots under KVM (invariant V6).

The probe guest is one boot sector. It does a kernel's first steps: page tables, long mode, SSE registers, an interrupt table,
and timer interrupts that end HLT. After 20 interrupts the guest ends QEMU through the device ``isa-debug-exit``. The source
is `tests/hypervisor/probe_guest.s`.
"""

import base64
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from imgstore.domain.host.private_files import open_private

PROBE_SECONDS: Final = 5.0
"""The time limit of the probe. Under TCG, which is slower than KVM, the guest needs about 0.4 s."""

_KVM: Final = Path("/dev/kvm")
_FLOPPY_BYTES: Final = 1_474_560
_BOOT_SIGNATURE: Final = b"\x55\xaa"
_EXIT_STATUS: Final = (0x10 << 1) | 1
"""The exit status of QEMU after the guest wrote 0x10 to ``isa-debug-exit``."""
_SECTOR: Final = base64.b64decode(
    "+jHAjtiOwI7QvAB8vwAQZjHAuQAM/Gbzq2bHBgAQAyAAAGbHBgAgAzAAAL8AMGa4gwAAALkAAmaJBWYFAAAgAIPHCOLyvwBAZjHA"
    "uQAEZvOrZscGAEIGfQgAZscGBEIAjgAADyDgZg0gBgAADyLgZrgAEAAADyLYZrmAAADADzJmDQABAAAPMA8BFih9DyDAZoPg+2YN"
    "AwAAgA8iwOqifAgAZrgQAI7YjtBIx8QAfAAADwEcJS59AACwEeYg5qCwIOYhsCjmobAE5iGwAuahsAHmIeahsP7mIbD/5qGwNOZD"
    "sKnmQLAE5kBmD+/ADxEEJQBQAAAx2/v0g/sUcvr6sBDm9PTr/f/DULAg5iBYSM8AAAAAAAAAAP//AAAAmq8A//8AAACSzwAXABB9"
    "AAD/DwBA"
)


def choose_accelerator(qemu: str, memory: Path, boot: str) -> str:
    """Return ``kvm`` if the probe guest boots under KVM, otherwise ``tcg``. The result is kept until the next boot.

    Args:
        qemu: the path of QEMU.
        memory: the file with the last result.
        boot: the name of this host since the last boot.
    """
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return "tcg"
    known = _read(memory)
    key = {"boot": boot, "qemu": qemu, "changed": os.stat(qemu).st_mtime_ns}
    if known.get("key") != key:
        known = {"key": key, "kvm": boots(qemu, "kvm")}
        temporary = memory.with_suffix(f".{os.getpid()}")
        with open(temporary, "w", encoding="ascii", opener=open_private) as output:
            json.dump(known, output)
        temporary.replace(memory)
    return "kvm" if known["kvm"] is True else "tcg"


def boots(qemu: str, accelerator: str, *, limit_seconds: float = PROBE_SECONDS) -> bool:
    """Return whether the probe guest boots under an accelerator within the limit."""
    with tempfile.NamedTemporaryFile(prefix="imgstore-probe-") as floppy:
        floppy.write(boot_sector())
        floppy.truncate(_FLOPPY_BYTES)
        floppy.flush()
        try:
            done = subprocess.run(  # noqa: S603 - the words are our own
                _compose(qemu, accelerator, floppy.name),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=limit_seconds,
                check=False,
            )
        except (subprocess.TimeoutExpired, OSError):
            return False
    return done.returncode == _EXIT_STATUS


def boot_sector() -> bytes:
    """Return the 512 bytes of the probe guest."""
    return _SECTOR.ljust(510, b"\0") + _BOOT_SIGNATURE


def _compose(qemu: str, accelerator: str, floppy: str) -> Sequence[str]:
    return (
        qemu, "-nodefaults", "-no-user-config", "-display", "none", "-machine", f"pc,accel={accelerator}", "-m", "64M",
        "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
        "-drive", f"if=floppy,format=raw,readonly=on,file={floppy.replace(',', ',,')}",
    )  # fmt: skip


def _read(memory: Path) -> dict[str, object]:
    with suppress(OSError, ValueError):
        known = json.loads(memory.read_text(encoding="ascii"))
        if isinstance(known, dict):
            return known
    return {}
