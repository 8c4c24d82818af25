"""One MinIO process a region on loopback, so that a transfer is timed and never a copy inside one server."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.processes import cpu_seconds_of
from imgstore.testing.engines import S3Engine, start_minio_cluster

REGIONS = (
    *("southcentralus", "westus2", "eastus", "northeurope", "westeurope"),
    *("uksouth", "japaneast", "australiaeast", "brazilsouth", "koreacentral"),
)
SOURCE_REGION = REGIONS[0]
TARGET_REGION = REGIONS[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A bucket of one engine, looked at from outside: by the store's own listing."""

    engine: S3Engine
    name: str

    @property
    def credentials(self) -> Mapping[str, str]:
        """The environment that lets a program in."""
        return {
            "AWS_ACCESS_KEY_ID": self.engine.access_key,
            "AWS_SECRET_ACCESS_KEY": self.engine.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def engine_cpu_seconds(self) -> float:
        """What its engine has had of the processors so far."""
        assert self.engine.pid is not None, "the engine is a process of ours"
        return cpu_seconds_of(self.engine.pid)

    def moved_bytes(self) -> int:
        """Bodies that its engine has received and sent so far, by its own counters."""
        return sum(self.engine.traffic())

    def sent_bytes(self) -> int:
        """Bodies that its engine has sent so far, by its own counters."""
        return self.engine.traffic()[1]

    def requests(self) -> int:
        """What its engine has answered so far, by its own counters."""
        return self.engine.requests()

    def stored_bytes(self) -> int:
        """Lengths of all objects in it: segments, manifests and whatever else was put there."""
        return sum(entry["Size"] for entry in self._listing())

    def forget(self, prefix: str = "") -> None:
        """Removes its objects under `prefix`, so that the next run starts with the same room on the disk."""
        client = self.engine.client()
        for entry in self._listing(prefix):
            client.delete_object(Bucket=self.name, Key=entry["Key"])
        self._empty_trash()

    def _empty_trash(self) -> None:
        """MinIO takes up to five minutes to give back the room of what was deleted. Another's engine is let alone."""
        if self.engine.folder is None:
            return
        for each in (self.engine.folder / "data" / ".minio.sys" / "tmp" / ".trash").glob("*"):
            shutil.rmtree(each, ignore_errors=True)

    def _listing(self, prefix: str = "") -> Iterator[dict[str, int]]:
        pages = self.engine.client().get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        for page in pages:
            yield from page.get("Contents", ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Regions, each an engine of its own."""

    regions: tuple[Bucket, ...]
    """In the order of `REGIONS`: the first is where versions are published."""

    @property
    def source(self) -> Bucket:
        """The region where versions are published."""
        return self.regions[0]

    @property
    def targets(self) -> tuple[Bucket, ...]:
        """The regions that they are replicated to."""
        return self.regions[1:]

    @property
    def regions_document(self) -> str:
        """The regions.yaml of an installation on these engines."""
        entries = [_region_document(name, bucket) for name, bucket in zip(REGIONS, self.regions, strict=False)]
        return (
            "currency: USD\nregions:\n" + "".join(entries) + "prices:\n"
            '  egress_per_gb: {default: "0.02"}\n'
            '  storage_per_gb_month: {Standard_LRS: "0.05"}\n'
        )


def _region_document(name: str, bucket: Bucket) -> str:
    return (
        f"  {name}:\n    display_name: {name}\n    bucket: {bucket.name}\n    policy: LRS\n"
        f"    storage_account_types: [Standard_LRS]\n    zones:\n"
        f'      "1": {{endpoint: "{bucket.engine.endpoint}", signing_region: us-east-1, path_style: true}}\n'
    )


@contextlib.contextmanager
def started(folder: Path, count: int = 2) -> Iterator[Site]:
    """Starts the engines of `count` regions over folders inside `folder`; ends them with the block."""
    with start_minio_cluster(folder, count) as engines:
        yield Site(
            regions=tuple(
                Bucket(engine=engine, name=f"imgstore-{name}") for name, engine in zip(REGIONS, engines, strict=False)
            )
        )
