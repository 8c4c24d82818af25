"""Create the least-privilege policy for the buckets of regions.yaml, in the policy language of AWS.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/list_amazons3.html lists the actions and their resources. MinIO,
Ceph and SeaweedFS accept the same language. AWS limits a policy to 6,144 characters, so few statements name many keys.
"""

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from imgstore.domain.storage.object_keys import (
    CHECKPOINTS,
    FORMAT_KEY,
    INSTALLATION,
    LEDGER_CHECKPOINTS,
    POOLS,
    REPAIRS,
    ZONE,
)
from imgstore.stores.access import (
    CREATE_BUCKET,
    DELETE,
    DELETE_VERSION,
    GET,
    LIST,
    LIST_VERSIONS,
    PROBES,
    PUT,
    READ_LOCK,
    READ_VERSIONING,
)

PolicyDocument: TypeAlias = Mapping[str, str | Sequence[Mapping[str, str | Sequence[str]]]]

_LANGUAGE_VERSION: Final = "2012-10-17"
"""The only present version of the language."""

_READ_ONLY: Final = (FORMAT_KEY, f"{ZONE}*", f"{POOLS}*", f"{REPAIRS}*", f"{INSTALLATION}*", f"{LEDGER_CHECKPOINTS}*")
_WRITTEN: Final = (*_READ_ONLY, f"{PROBES}*")
_DELETED: Final = (f"{CHECKPOINTS}*", f"{POOLS}*", f"{REPAIRS}*", f"{INSTALLATION}*", f"{PROBES}*")
"""No command deletes FORMAT, the uid of a zone, or a checkpoint of the ledger's log."""


def create_bucket_policy(buckets: Sequence[str], *, read_only: bool = False) -> PolicyDocument:
    """Return the policy with the actions that imgstore sends to the buckets, and no other action.

    Args:
        buckets: the names of the buckets.
        read_only: permit reading only, for a home that cannot be written.
    """
    if read_only:
        statements = [
            _statement("ListBuckets", [LIST], _buckets(buckets)),
            _statement("ReadObjects", [GET], _objects(buckets, _READ_ONLY)),
        ]
    else:
        in_bucket = [LIST, LIST_VERSIONS, READ_VERSIONING, READ_LOCK, CREATE_BUCKET]
        statements = [
            _statement("ListAndCreateBuckets", in_bucket, _buckets(buckets)),
            _statement("ReadAndWriteObjects", [GET, PUT, DELETE_VERSION], _objects(buckets, _WRITTEN)),
            _statement("DeleteObjects", [DELETE], _objects(buckets, _DELETED)),
        ]
    return {"Version": _LANGUAGE_VERSION, "Statement": statements}


def _statement(sid: str, actions: Sequence[str], resources: Sequence[str]) -> Mapping[str, str | Sequence[str]]:
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}


def _buckets(buckets: Sequence[str]) -> Sequence[str]:
    return [f"arn:aws:s3:::{bucket}" for bucket in buckets]


def _objects(buckets: Sequence[str], keys: Sequence[str]) -> Sequence[str]:
    return [f"arn:aws:s3:::{bucket}/{key}" for bucket in buckets for key in keys]
