"""Read the newest signed checkpoint of each region, for a comparison with the log of the catalog (invariant M22)."""

from concurrent.futures import Future, wait
from functools import partial

from imgstore.domain.errors import ImgstoreError
from imgstore.domain.storage.object_keys import ledger_checkpoint_key
from imgstore.ledger.log.log_entries import BucketCheckpoint
from imgstore.operations.installation import Installation
from imgstore.stores.threads import start_future


def read_bucket_checkpoints(installation: Installation, seconds_max: float) -> list[BucketCheckpoint]:
    """Return the newest checkpoint of each region with a recorded zone.

    All regions are asked at once. A region that gives no answer within the time limit has a problem, and its thread is
    abandoned.

    Args:
        installation: the installation.
        seconds_max: the time limit.
    """
    with installation.catalog.reading() as transaction:
        recorded = {zone.region for zone in transaction.zones.list()}
    regions = [name for name in installation.regions.regions if name in recorded]
    reads = {name: start_future(partial(_read_newest, installation, name)) for name in regions}
    wait(reads.values(), seconds_max)
    return [_take_answer(name, read, seconds_max) for name, read in reads.items()]


def _take_answer(region: str, read: "Future[str | None]", seconds_max: float) -> BucketCheckpoint:
    if not read.done():
        return BucketCheckpoint(region=region, problem=f"no answer within {seconds_max:g} s")
    error = read.exception()
    if isinstance(error, ImgstoreError):
        return BucketCheckpoint(region=region, problem=error.message)
    return BucketCheckpoint(region=region, note=read.result())


def _read_newest(installation: Installation, region: str) -> str | None:
    """Return the text of the newest checkpoint in a region, or None without a checkpoint. Keys are in the order of sizes."""
    store = installation.locator.installation_store(region)
    folder = ledger_checkpoint_key(installation.uid, 0).rpartition("/")[0]
    newest: str | None = None
    for info in store.list(f"{folder}/"):
        newest = info.key
    return None if newest is None else store.get(newest).decode(errors="replace")
