"""The content of a recovery file: the keys that no bucket may hold, and the settings that find the buckets."""

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from imgstore.catalog import Transaction
from imgstore.domain.identity.principals import SigningKey
from imgstore.domain.resources import Pool
from imgstore.domain.text.strict_json import read_json
from imgstore.ledger.log.log_entries import LogKey


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryKeys:
    """The keys of an installation, and the settings that find its buckets. Credentials of stores are not included."""

    written_at: datetime
    installation_uid: str
    subscription: str
    created_at: datetime
    hmac_key: bytes
    pools: tuple[Pool, ...]
    signing_keys: tuple[SigningKey, ...]
    ledger_keys: tuple[LogKey, ...]
    """Empty in a file of an older release."""
    regions_document: bytes
    """The bytes of regions.yaml."""
    variables: Mapping[str, str]
    """The environment variables that regions.yaml refers to, such as endpoints."""
    home: str
    """The path of the home, which contains the directories of zones without an endpoint."""

    @property
    def ids(self) -> frozenset[str]:
        """The ids of all keys."""
        return list_key_ids(self.pools, self.signing_keys, self.ledger_keys)

    def encode(self) -> bytes:
        """Return the content as JSON."""
        body = {
            "writtenAt": self.written_at.isoformat(),
            "installation": {
                "uid": self.installation_uid,
                "subscription": self.subscription,
                "createdAt": self.created_at.isoformat(),
                "hmacKey": _to_text(self.hmac_key),
            },
            "pools": [
                {
                    "uid": pool.uid,
                    "fingerprintKey": _to_text(pool.fingerprint_key),
                    "subscription": pool.subscription,
                    "region": pool.region,
                }
                for pool in self.pools
            ],
            "signingKeys": [
                {
                    "kid": key.kid,
                    "pem": _to_text(key.pem),
                    "createdAt": key.created_at.isoformat(),
                    "retiredAt": _format_time(key.retired_at),
                    "trustedUntil": _format_time(key.trusted_until),
                }
                for key in self.signing_keys
            ],
            "ledgerKeys": [
                {
                    "kid": key.kid,
                    "number": key.number,
                    "publicKey": _to_text(key.public_key),
                    "privateKey": None if key.private_key is None else _to_text(key.private_key),
                    "createdAt": key.created_at.isoformat(),
                    "retiredAt": _format_time(key.retired_at),
                    "endorsement": key.endorsement,
                }
                for key in self.ledger_keys
            ],
            "regionsDocument": _to_text(self.regions_document),
            "variables": dict(self.variables),
            "home": self.home,
        }
        return json.dumps(body, ensure_ascii=False).encode()


def decode_recovery_keys(content: bytes) -> RecoveryKeys:
    """Decode the content of a recovery file.

    Raises:
        ValueError: the content is not the JSON of `RecoveryKeys.encode`.
    """
    try:
        body = read_json(content.decode())
        installation = body["installation"]
        return RecoveryKeys(
            written_at=datetime.fromisoformat(body["writtenAt"]),
            installation_uid=installation["uid"],
            subscription=installation["subscription"],
            created_at=datetime.fromisoformat(installation["createdAt"]),
            hmac_key=_to_bytes(installation["hmacKey"]),
            pools=tuple(_read_pool(each) for each in body["pools"]),
            signing_keys=tuple(_read_signing_key(each) for each in body["signingKeys"]),
            ledger_keys=tuple(_read_ledger_key(each) for each in body.get("ledgerKeys", ())),
            regions_document=_to_bytes(body["regionsDocument"]),
            variables=dict(body["variables"]),
            home=body["home"],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"the content has no usable {error}") from error


def list_key_ids(
    pools: Iterable[Pool], signing_keys: Iterable[SigningKey], ledger_keys: Iterable[LogKey]
) -> frozenset[str]:
    """Return the ids of the keys of an installation with these pools, signing keys and keys of the ledger's log."""
    return frozenset(
        {
            "installation",
            *(f"pool/{pool.uid}" for pool in pools),
            *(f"signing-key/{key.kid}" for key in signing_keys),
            *(f"ledger-key/{key.kid}" for key in ledger_keys),
        }
    )


def read_keys(
    transaction: Transaction, *, regions_document: bytes, variables: Mapping[str, str], home: str
) -> RecoveryKeys:
    """Read all keys of an installation from the catalog."""
    row = transaction.installation.get()
    return RecoveryKeys(
        written_at=transaction.now(),
        installation_uid=row.uid,
        subscription=row.subscription,
        created_at=row.created_at,
        hmac_key=transaction.installation.hmac_key(),
        pools=tuple(transaction.pools.list()),
        signing_keys=tuple(transaction.signing_keys.list()),
        ledger_keys=tuple(transaction.ledger_log.list_keys()),
        regions_document=regions_document,
        variables=variables,
        home=home,
    )


def _read_pool(body: Mapping[str, Any]) -> Pool:
    return Pool(
        uid=body["uid"],
        fingerprint_key=_to_bytes(body["fingerprintKey"]),
        subscription=body["subscription"],
        region=body["region"],
    )


def _read_signing_key(body: Mapping[str, Any]) -> SigningKey:
    return SigningKey(
        kid=body["kid"],
        pem=_to_bytes(body["pem"]),
        created_at=datetime.fromisoformat(body["createdAt"]),
        retired_at=_parse_time(body["retiredAt"]),
        trusted_until=_parse_time(body["trustedUntil"]),
    )


def _read_ledger_key(body: Mapping[str, Any]) -> LogKey:
    return LogKey(
        kid=body["kid"],
        number=body["number"],
        public_key=_to_bytes(body["publicKey"]),
        private_key=None if body["privateKey"] is None else _to_bytes(body["privateKey"]),
        created_at=datetime.fromisoformat(body["createdAt"]),
        retired_at=_parse_time(body["retiredAt"]),
        endorsement=body["endorsement"],
    )


def _to_text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _to_bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _format_time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _parse_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
