"""Users of a MinIO with a policy, by MinIO's admin API (https://github.com/minio/madmin-go).

The body with the secret key is encrypted with the secret key of the administrator: `EncryptData` in encrypt.go of
madmin-go, with Argon2id and one package of sio-go's AES-256-GCM stream.
"""

import json
import os
import urllib.request
from typing import Any

from argon2.low_level import Type, hash_secret_raw
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from imgstore.testing.engines import S3Engine


def set_user(engine: S3Engine, access_key: str, secret_key: str, policy: Any) -> None:
    """Create the user of an access key, or change its policy. The policy is that of the user alone."""
    user = json.dumps({"secretKey": secret_key, "status": "enabled"}).encode()
    _send(engine, f"add-user?accessKey={access_key}", _encrypt(engine.secret_key, user))
    _send(engine, f"add-canned-policy?name={access_key}", json.dumps(policy).encode())
    _send(engine, f"set-user-or-group-policy?isGroup=false&policyName={access_key}&userOrGroup={access_key}", b"")


def _send(engine: S3Engine, operation: str, body: bytes) -> None:
    request = AWSRequest("PUT", f"{engine.endpoint}/minio/admin/v3/{operation}", data=body)
    S3SigV4Auth(Credentials(engine.access_key, engine.secret_key), "s3", "us-east-1").add_auth(request)
    prepared = request.prepare()
    sent = urllib.request.Request(prepared.url, body, dict(prepared.headers.items()), method="PUT")
    with urllib.request.urlopen(sent, timeout=30):
        pass


def _encrypt(password: str, body: bytes) -> bytes:
    salt, nonce = os.urandom(32), os.urandom(8)
    key = hash_secret_raw(
        password.encode(), salt, time_cost=1, memory_cost=64 * 1024, parallelism=4, hash_len=32, type=Type.ID
    )
    cipher = AESGCM(key)
    last = b"\x80" + cipher.encrypt(nonce + bytes(4), b"", None)  # The associated data of the last package.
    return salt + b"\0" + nonce + cipher.encrypt(nonce + (1).to_bytes(4, "little"), body, last)
