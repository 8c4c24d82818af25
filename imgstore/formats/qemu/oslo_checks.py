"""Runs oslo.utils' safety checks of an image, as a single finding. The checks hold OpenStack's experience with attacks.

Only this module imports oslo.utils.
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
"""The maximal number of bytes for the inspector. A VMDK's descriptor ends within the first 2 MiB. A VHDX's metadata
region follows the block table and ends within 1 GiB for every disk that Azure takes; reading stops at its end."""
_TAIL_BYTES: Final = 64 * KIB
"""The inspector of VMDK also reads the last three sectors."""
_CHUNK_BYTES: Final = MIB


def oslo_finding(source: ByteSource, form: DiskFormat) -> Finding:
    """Return the finding of oslo.utils.

    Raises:
        ToolMissing: oslo.utils is not installed.
        ImgstoreError: the source can't be read.
    """
    inspectors = _inspectors()
    inspector: Any = inspectors.get_inspector(form.value)()
    try:
        _feed_inspector(inspector, source, _HEAD_BYTES[form])
        inspector.safety_check()
    except inspectors.SafetyCheckFailed as failed:
        failures = "; ".join(f"{name}: {reason}" for name, reason in failed.failures.items())
        return _finding(failures, passed=False)
    except ImgstoreError:
        raise
    except Exception as error:  # noqa: BLE001 - any failure of a parser of hostile bytes is a failed check
        return _finding(str(error) or type(error).__name__, passed=False)
    return _finding("all passed", passed=True)


def _inspectors() -> Any:
    try:
        from oslo_utils.imageutils import format_inspector  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ToolMissing(
            "oslo.utils is needed to read qcow2, VHDX and VMDK images.",
            found="no oslo.utils",
            expected="the extra 'formats' of imgstore",
            hint=install_hint("formats"),
            target="oslo.utils",
        ) from error
    # The module logs the errors that it raises. Any handler prevents Python's default output to stderr.
    logging.getLogger(format_inspector.__name__).addHandler(_SILENCE)
    return format_inspector


_SILENCE: Final = logging.NullHandler()


def _feed_inspector(inspector: Any, source: ByteSource, head_bytes: int) -> None:
    """Pass the head to the inspector until the inspector is complete, otherwise also the tail.

    Chunks are passed in order.
    """
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
        hint="convert the image at its origin to a single plain file (`qemu-img convert`)",
        kind=FailureKind.UNSAFE,
    )
