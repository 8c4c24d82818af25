"""The probe of KVM: a guest that boots shows that kernels boot (invariant V6)."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from imgstore.hypervisor import probe
from imgstore.testing.pytest_plugin import require

_SOURCE = Path(__file__).parent / "probe_guest.s"


@pytest.mark.engine("qemu-system")
def test_the_probe_guest_boots_under_tcg_and_not_within_no_time() -> None:
    qemu = require("qemu-system").command
    assert probe.boots(qemu, "tcg", limit_seconds=60)
    assert not probe.boots(qemu, "tcg", limit_seconds=0.01)
    assert not probe.boots(qemu, "no-such-accelerator")


@pytest.mark.engine("qemu-system")
def test_the_result_is_kept_until_the_next_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qemu, memory = require("qemu-system").command, tmp_path / "probe.json"
    monkeypatch.setattr(probe, "_KVM", tmp_path / "kvm")
    assert probe.choose_accelerator(qemu, memory, "host/boot") == "tcg"
    assert not memory.exists()
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(probe, "boots", lambda *_: True)
    assert probe.choose_accelerator(qemu, memory, "host/boot") == "kvm"
    monkeypatch.setattr(probe, "boots", lambda *_: False)
    assert probe.choose_accelerator(qemu, memory, "host/boot") == "kvm"
    assert probe.choose_accelerator(qemu, memory, "host/next boot") == "tcg"
    assert json.loads(memory.read_text())["kvm"] is False
    memory.write_text("damaged")
    assert probe.choose_accelerator(qemu, memory, "host/boot") == "tcg"


@pytest.mark.skipif(not shutil.which("as") or not shutil.which("ld"), reason="no assembler")
def test_the_bytes_of_the_probe_guest_come_from_the_source(tmp_path: Path) -> None:
    subprocess.run(["as", "-o", tmp_path / "probe.o", _SOURCE], check=True)
    subprocess.run(
        ["ld", "-Ttext", "0", "--oformat", "binary", "-o", tmp_path / "probe", tmp_path / "probe.o"],
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "probe").read_bytes() == probe.boot_sector()
