"""One MinIO process a region on loopback, so that a transfer is timed and never a copy inside one server."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from imgstore.testing.engines import S3Engine, start_minio_cluster

SOURCE_REGION = "southcentralus"
TARGET_REGION = "westus2"


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

    def stored_bytes(self) -> int:
        """Lengths of all objects in it: segments, manifests and whatever else was put there."""
        return sum(entry["Size"] for entry in self._listing())

    def forget(self, prefix: str = "") -> None:
        """Removes its objects under `prefix`, so that the next run starts with the same room on the disk."""
        client = self.engine.client()
        for entry in self._listing(prefix):
            client.delete_object(Bucket=self.name, Key=entry["Key"])

    def _listing(self, prefix: str = "") -> Iterator[dict[str, int]]:
        pages = self.engine.client().get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        for page in pages:
            yield from page.get("Contents", ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Two regions, each an engine of its own."""

    source: Bucket
    """The region where versions are published."""
    target: Bucket
    """The region that they are replicated to."""

    @property
    def regions_document(self) -> str:
        """The regions.yaml of an installation on these engines."""
        entries = [
            _region_document(SOURCE_REGION, "South Central US", self.source),
            _region_document(TARGET_REGION, "West US 2", self.target),
        ]
        return (
            "currency: USD\nregions:\n" + "".join(entries) + "prices:\n"
            '  egress_per_gb: {default: "0.02"}\n'
            '  storage_per_gb_month: {Standard_LRS: "0.05"}\n'
        )


def _region_document(name: str, display_name: str, bucket: Bucket) -> str:
    return (
        f"  {name}:\n    display_name: {display_name}\n    bucket: {bucket.name}\n    policy: LRS\n"
        f"    storage_account_types: [Standard_LRS]\n    zones:\n"
        f'      "1": {{endpoint: "{bucket.engine.endpoint}", signing_region: us-east-1, path_style: true}}\n'
    )


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Site]:
    """Starts the engines of both regions over folders inside `folder`; ends them with the block."""
    with start_minio_cluster(folder, 2) as (source, target):
        yield Site(
            source=Bucket(engine=source, name=f"imgstore-{SOURCE_REGION}"),
            target=Bucket(engine=target, name=f"imgstore-{TARGET_REGION}"),
        )
