"""``imgstore cache``: the segment cache of this host."""

import click

from imgstore.cli.framework.command import Group
from imgstore.cli.framework.output import columns
from imgstore.cli.framework.session import Session
from imgstore.domain.diagnosis import CacheFacts
from imgstore.operations.diagnosis.segment_cache import clear_cache, show_cache
from imgstore.wire.json_text import Json

_TABLE = columns(Folder="folder", Segments="segments", UsedBytes="usedBytes", BytesMax="bytesMax", Problem="problem")


@click.group(cls=Group)
def cache() -> None:
    """Show and clear the segment cache of this host."""


@cache.command(table=_TABLE, example="imgstore cache show -o table")
def show(session: Session) -> Json:
    """Show the folder, the limit and the size of the segment cache.

    Exports, reads by URL and attached disks read segments through the cache. All processes with the same folder share the
    segments. IMGSTORE_CACHE_DIR sets the folder, and IMGSTORE_CACHE_BYTES or cache_bytes_max in settings.toml the limit.
    """
    return _json(session.run(show_cache))


@cache.command(table=_TABLE, example="imgstore cache clear")
def clear(session: Session) -> Json:
    """Remove all segments from the segment cache, and print the removed segments and bytes.

    No data is lost: later reads fetch the segments from the stores again.
    """
    return _json(session.run(clear_cache))


def _json(facts: CacheFacts) -> Json:
    return {
        "folder": str(facts.folder),
        "segments": facts.segments,
        "usedBytes": facts.used_bytes,
        "bytesMax": facts.bytes_max,
        "problem": facts.problem,
    }
