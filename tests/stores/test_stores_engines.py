"""Tests of the engines: a required engine must not be skipped, and a run prints its engines."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import psutil
import pytest

from imgstore.testing import engines
from imgstore.testing.pytest_plugin import require

Cluster: TypeAlias = Callable[[int], tuple[engines.S3Engine, ...]]

TESTS = """
import pytest

@pytest.mark.engine("qemu-img")
def test_marked(): pass

def test_by_fixture(minio): minio.make_bucket("bucket")

def test_without(): pass
"""


def run(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a separate process with only Python on PATH."""
    (folder / "test_it.py").write_text(TESTS)
    (folder / "home").mkdir(exist_ok=True)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    engine(name)\n")
    python = str(Path(sys.executable).parent)
    environment = {"PATH": python, "HOME": str(folder / "home"), "PYTHONPATH": os.pathsep.join(sys.path)} | variables
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "imgstore.testing.pytest_plugin",
        "-p",
        "no:cacheprovider",
        "-rs",
        str(folder),
    ]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_missing_engine_skips_with_the_reason(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0
    assert "1 passed, 2 skipped" in done.stdout
    assert "no qemu-img on PATH: apt install qemu-utils" in done.stdout
    assert "no IMGSTORE_TEST_S3_ENDPOINT, no minio on PATH, and no go to build minio with" in done.stdout
    assert "minio       SKIPPED 1 tests" in done.stdout


@pytest.mark.parametrize("required", ["qemu-img,minio", "all"])
def test_a_missing_required_engine_fails(tmp_path: Path, required: str) -> None:
    done = run(tmp_path, IMGSTORE_REQUIRE_ENGINES=required)
    assert done.returncode == 1
    assert "1 passed, 2 errors" in done.stdout
    assert "engine qemu-img is required (IMGSTORE_REQUIRE_ENGINES)" in done.stdout


def test_a_misspelt_requirement_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, IMGSTORE_REQUIRE_ENGINES="minion")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "minion" in done.stderr


def test_an_endpoint_that_does_not_answer(tmp_path: Path) -> None:
    done = run(tmp_path, IMGSTORE_TEST_S3_ENDPOINT="http://127.0.0.1:9")
    assert "IMGSTORE_TEST_S3_ENDPOINT=http://127.0.0.1:9 does not answer" in done.stdout


@pytest.mark.engine("minio")
def test_an_endpoint_that_is_given_is_used(tmp_path: Path, minio_cluster: Cluster) -> None:
    (engine,) = minio_cluster(1)
    done = run(
        tmp_path,
        IMGSTORE_TEST_S3_ENDPOINT=engine.endpoint,
        AWS_ACCESS_KEY_ID=engine.access_key,
        AWS_SECRET_ACCESS_KEY=engine.secret_key,
    )
    assert f"minio       1 tests: MinIO (IMGSTORE_TEST_S3_ENDPOINT={engine.endpoint})" in done.stdout
    client = engine.client()
    assert "bucket" in {found["Name"] for found in client.list_buckets()["Buckets"]}
    client.delete_bucket(Bucket="bucket")
    client.close()


def test_engines_are_independent(minio_cluster: Cluster) -> None:
    first, second = minio_cluster(2)
    first.make_bucket("only-here")
    client = second.client()
    assert "only-here" not in {found["Name"] for found in client.list_buckets()["Buckets"]}
    client.close()
    assert minio_cluster(1) == (first,)


def test_an_engine_ends_with_its_block(tmp_path: Path) -> None:
    require("minio")
    with engines.start_minio(tmp_path) as engine:
        assert engine.pid is not None
        assert psutil.pid_exists(engine.pid)
    assert not psutil.pid_exists(engine.pid)


def test_each_database_is_empty(postgresql: str, postgresql_server: engines.PostgreSQL) -> None:
    import sqlalchemy

    assert postgresql.startswith("postgresql+psycopg://")
    with postgresql_server.database() as other:
        for url in (postgresql, other):
            database = sqlalchemy.create_engine(url)
            with database.begin() as connection:
                connection.execute(sqlalchemy.text("CREATE TABLE t (x int)"))
            database.dispose()


def test_boto3_is_not_loaded_before_it_is_needed() -> None:
    """boto3 takes 0.3 s to load."""
    code = "import sys, imgstore.stores; assert not {'boto3', 'botocore', 'urllib3'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
