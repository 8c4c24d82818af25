"""Publish the trace of a boot: build a boot pack of its blocks in each slot that has the disk (invariant D18)."""

from collections.abc import Sequence

from imgstore.domain.errors import InvalidInput
from imgstore.domain.identity.access import Action, Principal
from imgstore.domain.reports import BootPackReport
from imgstore.operations.activity_log import record_activity
from imgstore.operations.disks.lazy import LazyDisk
from imgstore.operations.installation import Installation
from imgstore.operations.replication.boot_packs import build_traced_packs


def publish_trace(
    installation: Installation, principal: Principal, *, opened: LazyDisk, virtual_bytes: int, blocks: Sequence[int]
) -> list[BootPackReport]:
    """Build the boot packs of an open disk in all slots with the same disk. An earlier pack is replaced.

    Args:
        installation: the installation.
        principal: a caller who may write to the version or disk.
        opened: the disk, which stays pinned.
        virtual_bytes: the size of the traced disk.
        blocks: the blocks that the boot read, in order.

    Raises:
        InvalidInput: the trace has no block, or is the trace of a disk of another size.
    """
    with record_activity(installation, principal, Action.WRITE, opened.source, "imgstore/disks/trace"):
        if virtual_bytes != opened.virtual_bytes:
            raise InvalidInput(
                "The trace does not fit to the disk.",
                found=f"the trace of a disk of {virtual_bytes} bytes",
                expected=f"a trace of a disk of {opened.virtual_bytes} bytes",
                hint="record a trace of this disk with `imgstore disk trace --socket`",
                target=opened.source,
            )
        if not blocks:
            raise InvalidInput(
                "The trace has no block.",
                found="no read of data",
                expected="the reads of a boot",
                hint="boot a machine from the URI of the command, and end the machine",
                target=opened.source,
            )
        return build_traced_packs(installation, opened.pinned.slot, opened.pinned.manifest, blocks, opened.check)
