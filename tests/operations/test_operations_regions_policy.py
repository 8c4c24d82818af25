"""The policy of `regions policy` on a real MinIO: each action that imgstore sends is permitted, and each is needed."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from imgstore.cli.main import main
from imgstore.domain.storage.sizes import MIB
from imgstore.testing.engines import S3Engine
from tests.support.minio_users import set_user
from tests.support.sample_disks import make_raw
from tests.support.terminal import Terminal

REGIONS = """
currency: USD
regions:
  eastus:
    bucket: {name}
    policy: LRS
    storage_account_types: [Standard_LRS]
    zones: {{"1": {{endpoint: "{endpoint}"}}}}
  westus2:
    bucket: {name}w
    policy: ZRS
    storage_account_types: [Standard_LRS, Standard_ZRS]
    zones: {{"1": {{}}, "2": {{}}, "3": {{}}}}
prices: {{egress_per_gb: {{default: 0}}, storage_per_gb_month: {{Standard_LRS: 0, Standard_ZRS: 0}}}}
"""
VERSION = "-g g -r r -i i -e 1.0.0"


class PolicyTerminal(Terminal):
    """Command lines on a home, with credentials that a policy limits."""

    def __init__(self, engine: S3Engine, folder: Path) -> None:
        super().__init__(folder)
        self.engine = engine
        self.bucket = "p" + os.urandom(4).hex()
        regions = folder / "regions.yaml"
        regions.write_text(REGIONS.format(name=self.bucket, endpoint=engine.endpoint))
        self.environ |= {"IMGSTORE_REGIONS": str(regions), "IMGSTORE_S3_ENDPOINT": engine.endpoint}
        self.become_owner()

    def become_owner(self) -> None:
        self.environ |= {
            "AWS_ACCESS_KEY_ID": self.engine.access_key,
            "AWS_SECRET_ACCESS_KEY": self.engine.secret_key,
            "AWS_SESSION_TOKEN": "",
        }

    def become_user(self, policy: Any) -> None:
        """Use the credentials of a user with a policy."""
        set_user(self.engine, self.bucket, "secret-of-the-user", policy)
        self.environ |= {"AWS_ACCESS_KEY_ID": self.bucket, "AWS_SECRET_ACCESS_KEY": "secret-of-the-user"}


@pytest.fixture
def terminal(minio: S3Engine, tmp_path: Path) -> PolicyTerminal:
    return PolicyTerminal(minio, tmp_path)


def without(policy: Any, action: str) -> Any:
    """Deny an action. MinIO permits actions on versions with the rights on objects, unless the actions are denied."""
    denial = {"Effect": "Deny", "Action": [action], "Resource": ["arn:aws:s3:::*"]}
    return policy | {"Statement": [*policy["Statement"], denial]}


def test_the_policy_permits_each_command(terminal: PolicyTerminal, tmp_path: Path) -> None:
    disk = make_raw(tmp_path / "d.raw", seed=1, virtual_bytes=8 * MIB, content_bytes=2 * MIB)
    terminal.become_user(terminal.ok("regions policy"))
    assert all(zone["ready"] for zone in terminal.ok("regions init"))
    terminal.ok("group create -n g -l eastus")
    terminal.ok("sig create -g g -r r")
    terminal.ok("sig image-definition create -g g -r r -i i -p p -f o -s s --os-type Linux")
    targets = "eastus=1 westus2=1=Standard_ZRS"
    terminal.ok(f"sig image-version create {VERSION} --os-vhd-uri {disk} --target-regions {targets}")
    terminal.ok("disk create -g g -n d --gallery-image-reference g/r/i/1.0.0 -l westus2")
    assert all(zone["ready"] and not zone["missingRights"] for zone in terminal.ok("regions check"))
    terminal.ok("regions check --analyze --objects 10 --rounds 1 --max-object-bytes 1000 --watch-seconds 0")
    terminal.ok("scrub")

    terminal.become_user(terminal.ok("regions policy --read-only"))
    terminal.ok(f"disk export -g g -n d --file {tmp_path / 'out.raw'} --format raw")
    assert (tmp_path / "out.raw").read_bytes() == disk.read_bytes()
    assert "lack s3:PutObject, s3:DeleteObject;" in terminal.run("regions check eastus").stdout

    terminal.become_user(terminal.ok("regions policy"))
    terminal.ok("disk delete -g g -n d --yes")
    terminal.ok(f"sig image-version delete {VERSION} --yes")
    terminal.ok("gc --grace-hours 0 --yes")


LOCK = "s3:GetBucketObjectLockConfiguration"
USUAL = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"]


def is_refused(right: str, zone: Any) -> bool:
    return not zone["ready"] and right in zone["problem"]


FOUND: dict[str, Callable[[Any], bool]] = {
    **{right: partial(is_refused, right) for right in USUAL},
    "s3:ListBucketVersions": lambda zone: zone["missingRights"] == [],
    "s3:DeleteObjectVersion": lambda zone: zone["missingRights"] == ["s3:DeleteObjectVersion"],
    "s3:GetBucketVersioning": lambda zone: zone["versioning"] == "Enabled",
}
"""The result of `regions check` without a right. MinIO lists versions with s3:ListBucket also, unlike AWS. Without the
right to ask for the versioning, a probe finds the versioning."""


def test_each_action_is_needed(terminal: PolicyTerminal, minio: S3Engine) -> None:
    client = minio.client()
    client.create_bucket(Bucket=terminal.bucket)
    client.put_bucket_versioning(Bucket=terminal.bucket, VersioningConfiguration={"Status": "Enabled"})
    client.close()
    terminal.ok("regions init eastus")
    policy = terminal.ok("regions policy eastus")
    actions = {action for statement in policy["Statement"] for action in statement["Action"]}
    assert actions == {*FOUND, "s3:CreateBucket", LOCK}
    for action, is_found in FOUND.items():
        terminal.become_user(without(policy, action))
        (zone,) = json.loads(terminal.run("regions check eastus").stdout)
        assert is_found(zone), (action, zone)


def test_a_lock_is_found_with_its_right_alone(terminal: PolicyTerminal, minio: S3Engine) -> None:
    client = minio.client()
    client.create_bucket(Bucket=terminal.bucket, ObjectLockEnabledForBucket=True)
    client.close()
    terminal.ok("regions init eastus")
    policy = terminal.ok("regions policy eastus")
    for rights, found in ((policy, "on, without a default retention"), (without(policy, LOCK), None)):
        terminal.become_user(rights)
        (zone,) = json.loads(terminal.run("regions check eastus").stdout)
        assert zone["objectLock"] == found


def test_a_bucket_is_created_with_its_right_alone(terminal: PolicyTerminal) -> None:
    policy = terminal.ok("regions policy eastus")
    terminal.become_user(without(policy, "s3:CreateBucket"))
    refused = terminal.run("regions init eastus")
    assert refused.exit_code == 1
    assert "AccessDenied" in refused.stdout
    terminal.become_user(policy)
    terminal.ok("regions init eastus")
    assert "HeadBucket: Forbidden" in terminal.run("regions init westus2").stdout


def test_directories_need_no_policy(tmp_path: Path) -> None:
    refused = CliRunner().invoke(
        main, ["regions", "policy", "--home", str(tmp_path)], env={"IMGSTORE_S3_ENDPOINT": None}
    )
    assert refused.exit_code == 1
    assert "No zone is an S3 bucket" in refused.output


def test_a_policy_needs_no_home(tmp_path: Path) -> None:
    words = ["regions", "policy", "--home", str(tmp_path / "home")]
    done = CliRunner().invoke(main, words, env={"IMGSTORE_S3_ENDPOINT": "https://s3.example"})
    assert (done.exit_code, bool(json.loads(done.stdout)["Statement"])) == (0, True)
    assert not (tmp_path / "home").exists()
