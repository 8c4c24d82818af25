"""Revisions of resources: the bytes of the object, the HMAC, and the keys (invariants B2, B17, B18)."""

from dataclasses import replace
from typing import Final

import pytest

from imgstore.domain.errors import ObjectCorrupt, StoreError, StoreMismatch
from imgstore.domain.storage import object_keys
from imgstore.domain.storage.revisions import (
    Revision,
    decode_revision,
    derive_revision_key,
    encode_revision,
    read_revision_mac,
)

KEY: Final = derive_revision_key(bytes(range(32)))
OWNER: Final = "0d9c7a52-7d0e-4b9c-8a51-3b0f3f0d2f11"
HOME: Final = "5e0c8a1e-0a4f-4b43-9a53-6d4ad3c0a9b2"
VERSION: Final = Revision(
    kind="versions",
    uid=OWNER,
    number=812,
    installation_uid=HOME,
    rows={"versions": [{"uid": OWNER, "tags": {"größe": "1\n2"}, "soft_deleted_at": None}], "replicas": []},
)
# Written by the first release with this layout. Later releases must read these bytes (invariant B17).
GOLDEN: Final = (
    b"imgstore revision 1\n"
    b"0d81e7ea58b4089373b3a8e3d77152f06c14018e3eb9c383ad286170357b895f\n"
    b'{"deleted":false,"installation":"5e0c8a1e-0a4f-4b43-9a53-6d4ad3c0a9b2","kind":"versions","number":812,'
    b'"previous":null,"rows":{"replicas":[],"versions":[{"soft_deleted_at":null,"tags":{"gr\\u00f6\\u00dfe":"1\\n2"},'
    b'"uid":"0d9c7a52-7d0e-4b9c-8a51-3b0f3f0d2f11"}]},"uid":"0d9c7a52-7d0e-4b9c-8a51-3b0f3f0d2f11"}\n'
)


def _decode(body: bytes, revision: Revision = VERSION, key: bytes = KEY) -> Revision:
    return decode_revision(body, key, object_key=revision.object_key, installation_uid=HOME)


def test_golden_revision_is_read() -> None:
    assert _decode(GOLDEN) == VERSION
    assert read_revision_mac(GOLDEN, VERSION.object_key) == GOLDEN.split(b"\n")[1].decode()


@pytest.mark.parametrize(
    "revision",
    [
        VERSION,
        replace(VERSION, is_deleted=True, rows={}),
        replace(VERSION, kind="settings", uid="limits.galleries_max"),
        replace(VERSION, kind="ledger", previous="ab" * 32),
    ],
)
def test_revision_reads_back(revision: Revision) -> None:
    assert _decode(encode_revision(revision, KEY), revision) == revision


def test_each_changed_cut_or_added_byte_is_refused() -> None:
    body = encode_revision(VERSION, KEY)
    changed = [body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :] for at in range(len(body))]
    cut = [body[:length] for length in range(len(body))]
    for damaged in [*changed, *cut, body + b"\n", body + b"x", body.upper()]:
        with pytest.raises(StoreError):
            _decode(damaged)


def test_revision_of_another_key_place_or_installation_is_refused() -> None:
    body = encode_revision(VERSION, KEY)
    with pytest.raises(ObjectCorrupt, match="wrong HMAC"):
        _decode(body, key=derive_revision_key(bytes(32)))
    for moved in (replace(VERSION, number=813), replace(VERSION, uid=HOME), replace(VERSION, is_deleted=True)):
        with pytest.raises(ObjectCorrupt, match="the content of owners/"):
            _decode(body, moved)
    with pytest.raises(StoreMismatch, match="another installation"):
        _decode(encode_revision(replace(VERSION, installation_uid=OWNER), KEY))


def test_newer_layout_is_refused_by_name() -> None:
    with pytest.raises(StoreMismatch, match="layout 2"):
        _decode(encode_revision(VERSION, KEY).replace(b"revision 1\n", b"revision 2\n"))


def test_keys_name_kind_uid_and_number_in_the_order_of_the_numbers() -> None:
    assert VERSION.object_key == f"owners/{OWNER}/00000000000000000812"
    assert object_keys.parse_owner_revision(VERSION.object_key) == (OWNER, 812)
    deleted = replace(VERSION, is_deleted=True).object_key
    assert deleted == f"installation/versions/{OWNER}/00000000000000000812"
    assert object_keys.parse_installation_revision(deleted) == ("versions", OWNER, 812)
    assert object_keys.owner_revision_key(OWNER, 9) < object_keys.owner_revision_key(OWNER, 10)
    for other in ("owners/x", "owners/x/12", "installation/groups/x", f"{deleted}/x", f"x/{deleted}", "segments/0a/x"):
        assert object_keys.parse_owner_revision(other) is None
        assert object_keys.parse_installation_revision(other) is None


def test_names_become_valid_and_distinct_parts_of_keys() -> None:
    names = [
        "limits.galleries_max",
        "eastus/1",
        "Limits.galleries_max",
        "",
        "-x",
        "_x",
        "ä" * 500,
        "x" * 64,
        "x" * 65,
        OWNER,
    ]
    parts = [object_keys.uid_part(name) for name in names]
    assert len(set(parts)) == len(names)
    assert all(part and "/" not in part and part.isascii() and len(part) <= 64 for part in parts)
    assert object_keys.uid_part(OWNER) == OWNER
