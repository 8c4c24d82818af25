"""oslo.utils' safety checks of an image, as one finding: OpenStack's experience with hostile images.

The only place that knows oslo.utils.
"""

import logging
from collections.abc import Iterator
from typing import Any, Final

from imgstore.domain.disks.sources import ByteSource, DiskFormat
from imgstore.domain.errors import ImgstoreError, ToolMissing
from imgstore.domain.extras import install_hint
from imgstore.domain.storage.sizes import KIB, MIB
from imgstore.formats.checks import FailureKind, Finding

_CHECK: Final = "oslo-safety-checks"

_HEAD_BYTES: Final = {DiskFormat.QCOW2: 64 * KIB, DiskFormat.VHDX: 1024 * MIB, DiskFormat.VMDK: 2 * MIB}
"""How far the inspector may have to read. A VMDK's descriptor ends within the first; a VHDX's metadata region, which
lies behind its block table, ends within 1 GiB for every disk that Azure takes, and the reading stops there."""
_TAIL_BYTES: Final = 64 * KIB
"""The inspector of VMDK wants the last three sectors too."""
_CHUNK_BYTES: Final = MIB


def oslo_finding(source: ByteSource, form: DiskFormat) -> Finding:
    """What oslo.utils finds.

    Raises:
        ToolMissing: oslo.utils is not installed.
        ImgstoreError: the source can't be read.
    """
    inspectors = _inspectors()
    inspector: Any = inspectors.get_inspector(form.value)()
    try:
        _feed(inspector, source, _HEAD_BYTES[form])
        inspector.safety_check()
    except inspectors.SafetyCheckFailed as failed:
        told = "; ".join(f"{name}: {reason}" for name, reason in failed.failures.items())
        return _finding(told, passed=False)
    except ImgstoreError:
        raise
    except Exception as error:  # noqa: BLE001 - a parser of hostile bytes that fails in any way has not passed them
        return _finding(str(error) or type(error).__name__, passed=False)
    return _finding("all passed", passed=True)


def _inspectors() -> Any:
    try:
        from oslo_utils.imageutils import format_inspector  # noqa: PLC0415 - an extra: all else works without it
    except ImportError as error:
        raise ToolMissing(
            "oslo.utils is needed to read qcow2, VHDX and VMDK images.",
            found="it is not installed",
            expected="the extra 'formats' of imgstore",
            hint=install_hint("formats"),
            target="oslo.utils",
        ) from error
    # It logs what it also raises. A handler of any kind keeps Python's last resort from printing that on stderr.
    logging.getLogger(format_inspector.__name__).addHandler(_SILENCE)
    return format_inspector


_SILENCE: Final = logging.NullHandler()


def _feed(inspector: Any, source: ByteSource, head_bytes: int) -> None:
    """Let the inspector eat the head until it has seen enough, then the tail. It takes chunks in order."""
    for chunk in _chunks(source, 0, min(head_bytes, source.file_bytes)):
        inspector.eat_chunk(chunk)
        if inspector.complete:
            break
    else:
        tail_at = max(head_bytes, source.file_bytes - _TAIL_BYTES)
        for chunk in _chunks(source, tail_at, source.file_bytes):
            inspector.eat_chunk(chunk)
    inspector.finish()


def _chunks(source: ByteSource, start: int, end: int) -> Iterator[bytes]:
    for at in range(start, end, _CHUNK_BYTES):
        yield source.read_at(at, min(_CHUNK_BYTES, end - at))


def _finding(found: str, *, passed: bool) -> Finding:
    return Finding(
        check=_CHECK,
        passed=passed,
        found=found,
        expected="no objection",
        hint="make the image one plain, whole file at its origin (`qemu-img convert`), and take that",
        kind=FailureKind.UNSAFE,
    )
