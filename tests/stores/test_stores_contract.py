"""The store contract, for every store on every engine and for every wrapper."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imgstore.domain.host import file_systems
from imgstore.stores import (
    BandwidthLimitedStore,
    DirectoryStore,
    MemoryStore,
    MeteredStore,
    ObjectStore,
    RetryingStore,
    StoreProperties,
    TokenBucket,
    TrafficMeter,
    ZoneRedundantStore,
)
from imgstore.stores.s3.probe import probe_properties
from imgstore.stores.s3.store import S3Store
from imgstore.testing import engines
from imgstore.testing.engines import S3Engine
from imgstore.testing.pytest_plugin import require
from imgstore.testing.store_contract import RawAccess, StoreContract
from tests.support.faulty_store import FaultyStore
from tests.support.manual_clock import ManualClock


class InDirectory:
    """Access to the files of a store."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, key: str) -> bytes | None:
        path = self._root / key
        return path.read_bytes() if path.is_file() else None

    def set(self, key: str, body: bytes) -> None:
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    def damage(self, key: str) -> None:
        body = bytearray((self._root / key).read_bytes())
        body[len(body) // 2] ^= 1
        (self._root / key).write_bytes(body)


class InMemory:
    """Access to the dictionary of a store."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def get(self, key: str) -> bytes | None:
        kept = self._store._objects.get(key)
        return None if kept is None else kept.body

    def set(self, key: str, body: bytes) -> None:
        self._store.put(key, body)

    def damage(self, key: str) -> None:
        body = bytearray(self._store._objects[key].body)
        body[len(body) // 2] ^= 1
        self._store.put(key, body)


class InBucket:
    """Access by a plain boto3 client and to the files of the engine."""

    def __init__(self, client: Any, bucket: str, damage: Callable[[str, bytes], None] | None = None) -> None:
        self._client = client
        self._bucket = bucket
        self._damage = damage

    def get(self, key: str) -> bytes | None:
        try:
            with self._client.get_object(Bucket=self._bucket, Key=key)["Body"] as stream:
                return bytes(stream.read())
        except self._client.exceptions.NoSuchKey:
            return None

    def set(self, key: str, body: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=key, Body=body)

    def damage(self, key: str) -> None:
        if self._damage is None:
            raise NotImplementedError
        body = self.get(key)
        assert body is not None
        self._damage(key, body)


def s3_store(engine: S3Engine, bucket: str, properties: StoreProperties | None = None) -> S3Store:
    return S3Store(
        endpoint=engine.endpoint,
        bucket=bucket,
        path_style=True,
        access_key=engine.access_key,
        secret_key=engine.secret_key,
        properties=properties,
    )


class TestMemory(StoreContract):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return MemoryStore()

    @pytest.fixture
    def raw(self, store: MemoryStore) -> RawAccess:
        return InMemory(store)


class TestDirectory(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return DirectoryStore(tmp_path / "not" / "yet" / "there")

    @pytest.fixture
    def raw(self, tmp_path: Path) -> RawAccess:
        return InDirectory(tmp_path / "not" / "yet" / "there")


@pytest.fixture(scope="module")
def exfat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    require("exfat")
    with engines.mount_exfat(tmp_path_factory.mktemp("exfat")) as mounted:
        yield mounted


class TestDirectoryOnExfat(StoreContract):
    """Without hard links and without RENAME_NOREPLACE (invariant E8)."""

    # Names that differ by case only are one file there. No two keys of imgstore differ so.
    test_a_listing_is_in_the_order_of_whole_keys = None  # type: ignore[assignment]
    # The driver (exfat-fuse) removes the old file before it renames the new one, so a reader may find none.
    test_readers_see_one_body_or_the_other = None  # type: ignore[assignment]

    @pytest.fixture
    def root(self, exfat: Path) -> Path:
        return exfat / os.urandom(4).hex()

    @pytest.fixture
    def store(self, root: Path) -> ObjectStore:
        return DirectoryStore(root)

    @pytest.fixture
    def raw(self, root: Path) -> RawAccess:
        return InDirectory(root)


class TestDirectoryWithoutLinks(TestDirectory):
    """With RENAME_NOREPLACE, as on SMB. A refusal of link() is all that such a file system shows."""

    @pytest.fixture(autouse=True)
    def no_links(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
        monkeypatch.setattr(file_systems, "_ways", {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A bucket on an engine, with the store under test and a plain client."""

    engine: S3Engine
    store: S3Store
    client: Any

    @property
    def name(self) -> str:
        return self.store.bucket


@contextmanager
def bucket_on(engine: S3Engine) -> Iterator[Bucket]:
    """Create a bucket for all tests of an engine, and probe its properties once."""
    name = engine.make_bucket("contract-" + os.urandom(4).hex())
    unproven = s3_store(engine, name)
    properties = probe_properties(unproven, os.urandom(8).hex())
    store, client = s3_store(engine, name, properties), engine.client()
    yield Bucket(engine=engine, store=store, client=client)
    for each in (unproven, store, client):
        each.close()


@pytest.fixture(scope="module")
def on_moto(moto_s3: S3Engine) -> Iterator[Bucket]:
    with bucket_on(moto_s3) as bucket:
        yield bucket


@pytest.fixture(scope="module")
def on_seaweedfs(seaweedfs: S3Engine) -> Iterator[Bucket]:
    with bucket_on(seaweedfs) as bucket:
        yield bucket


@pytest.fixture(scope="module")
def on_minio(minio: S3Engine) -> Iterator[Bucket]:
    with bucket_on(minio) as bucket:
        yield bucket


class TestS3OnMoto(StoreContract):
    @pytest.fixture
    def store(self, on_moto: Bucket) -> ObjectStore:
        return on_moto.store

    @pytest.fixture
    def raw(self, on_moto: Bucket) -> RawAccess:
        from moto.core.models import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        def damage(key: str, body: bytes) -> None:
            kept = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[on_moto.name].keys[key]
            kept.value = bytes([body[0] ^ 1]) + body[1:]

        return InBucket(on_moto.client, on_moto.name, damage)

    def test_its_properties(self, store: ObjectStore) -> None:
        assert not store.properties.verifies_checksum


class TestS3OnSeaweedFS(StoreContract):
    @pytest.fixture
    def store(self, on_seaweedfs: Bucket) -> ObjectStore:
        return on_seaweedfs.store

    @pytest.fixture
    def raw(self, on_seaweedfs: Bucket) -> RawAccess:
        return InBucket(on_seaweedfs.client, on_seaweedfs.name)

    def test_its_properties(self, store: ObjectStore) -> None:
        assert store.properties.verifies_checksum
        assert not store.properties.server_side_copy  # a copy carries no checksum


class TestS3OnMinio(StoreContract):
    @pytest.fixture
    def store(self, on_minio: Bucket) -> ObjectStore:
        return on_minio.store

    @pytest.fixture
    def raw(self, on_minio: Bucket) -> RawAccess:
        def damage(key: str, body: bytes) -> None:
            if on_minio.engine.folder is None:
                raise NotImplementedError
            (part,) = (on_minio.engine.folder / "data" / on_minio.name / key).glob("*/part.1")
            kept = bytearray(part.read_bytes())
            kept[kept.index(body[:64]) + 1000] ^= 1
            part.write_bytes(kept)

        return InBucket(on_minio.client, on_minio.name, damage)

    def test_its_properties(self, store: ObjectStore) -> None:
        assert store.properties == StoreProperties(verifies_checksum=True, server_side_copy=True, atomic_create=True)


class TestMetered(TestMemory):
    @pytest.fixture
    def inner(self) -> MemoryStore:
        return MemoryStore()

    @pytest.fixture
    def store(self, inner: MemoryStore) -> ObjectStore:
        return MeteredStore(inner, TrafficMeter())

    @pytest.fixture
    def raw(self, inner: MemoryStore) -> RawAccess:
        return InMemory(inner)


class TestLimited(TestMetered):
    @pytest.fixture
    def store(self, inner: MemoryStore) -> ObjectStore:
        clock = ManualClock()
        return BandwidthLimitedStore(inner, TokenBucket(10_000, clock.monotonic), clock.wait)


class TestRetrying(TestMetered):
    @pytest.fixture
    def store(self, inner: MemoryStore) -> ObjectStore:
        clock = ManualClock()
        return RetryingStore(inner, wait=clock.wait, monotonic=clock.monotonic)


class TestFaultyWithoutFaults(TestMetered):
    @pytest.fixture
    def store(self, inner: MemoryStore) -> ObjectStore:
        return FaultyStore(inner)


class InZones:
    """Access to all three zones, which must agree."""

    def __init__(self, doors: list[RawAccess]) -> None:
        self._doors = doors

    def get(self, key: str) -> bytes | None:
        (body,) = {door.get(key) for door in self._doors}
        return body

    def set(self, key: str, body: bytes) -> None:
        for door in self._doors:
            door.set(key, body)

    def damage(self, key: str) -> None:
        raise NotImplementedError


class TestZonedOverMemories(StoreContract):
    @pytest.fixture
    def inner(self) -> list[MemoryStore]:
        return [MemoryStore(f"memory {zone}") for zone in "123"]

    @pytest.fixture
    def store(self, inner: list[MemoryStore]) -> Iterator[ObjectStore]:
        store = ZoneRedundantStore(dict(zip("123", inner, strict=True)))
        yield store
        store.close()

    @pytest.fixture
    def raw(self, inner: list[MemoryStore]) -> RawAccess:
        return InZones([InMemory(store) for store in inner])


class TestZonedOverDirectories(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        store = ZoneRedundantStore({zone: DirectoryStore(tmp_path / zone) for zone in "123"})
        yield store
        store.close()

    @pytest.fixture
    def raw(self, tmp_path: Path) -> RawAccess:
        return InZones([InDirectory(tmp_path / zone) for zone in "123"])


class TestAllWrappersOverMinio(TestS3OnMinio):
    """The wrappers in the order of the regions package."""

    @pytest.fixture
    def store(self, on_minio: Bucket) -> ObjectStore:
        return RetryingStore(MeteredStore(on_minio.store, TrafficMeter()))
