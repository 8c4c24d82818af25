"""The tables of revisions and the conversion of rows to JSON (invariant B18)."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Integer, LargeBinary

from imgstore.catalog import schema
from imgstore.catalog.engine.columns import DecimalText, EnumText, UtcDateTime
from imgstore.catalog.storage.revisions import KINDS, LEFT_OUT, Member, decode_row, encode_row
from imgstore.domain.errors import StoreMismatch
from imgstore.domain.storage.object_keys import uid_part
from imgstore.domain.storage.revisions import OWNER_KINDS

MEMBERS = {member.table.name: member for kind in KINDS.values() for member in kind.members}


def test_each_table_has_revisions_or_a_reason_for_none() -> None:
    assert MEMBERS.keys() | LEFT_OUT.keys() == schema.metadata.tables.keys()
    assert not MEMBERS.keys() & LEFT_OUT.keys()
    assert KINDS.keys() >= OWNER_KINDS
    assert all(uid_part(name) == name for name in KINDS)


def test_rows_refer_to_rows_of_earlier_kinds_only() -> None:
    inserted: set[str] = set()
    for kind in KINDS.values():
        for member in kind.members:
            inserted.add(member.table.name)
            missing = {key.column.table.name for key in member.table.foreign_keys} - inserted
            assert not missing, f"{member.table.name} is inserted before {missing}"


@pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)
def test_row_reads_back_through_json(member: Member) -> None:
    columns = {column.name for column in member.table.c}
    assert {*member.identity, *member.quiet, *member.omitted} <= columns
    row = {column.name: _example(column) for column in member.table.c}
    stored = json.loads(json.dumps(encode_row(member, row)))
    assert decode_row(member, stored) == {name: row[name] for name in columns - member.omitted}
    empty = dict.fromkeys(row)
    assert decode_row(member, encode_row(member, empty)) == dict.fromkeys(columns - member.omitted)


def test_keys_and_tokens_are_in_no_revision() -> None:
    stored = {f"{member.table.name}.{column.name}" for member in MEMBERS.values() for column in member.columns}
    for secret in (
        "installation.hmac_key",
        "pools.fingerprint_key",
        "disks.grant_uid",
        "signing_keys.pem",
        "ledger_keys.private_key",
    ):
        assert secret not in stored


def test_row_of_a_newer_schema_is_refused_and_an_older_one_is_completed() -> None:
    member = MEMBERS["groups"]
    with pytest.raises(StoreMismatch, match="unknown columns of the table groups") as caught:
        decode_row(member, {"uid": "u", "colour": "red"})
    assert caught.value.found == "colour"
    assert decode_row(member, {"uid": "u"}) == {"uid": "u"}


def _example(column: "Column[Any]") -> object:
    kind = column.type
    if isinstance(kind, UtcDateTime):
        return datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC)
    if isinstance(kind, EnumText):
        return next(iter(kind.members.__members__.values()))
    if isinstance(kind, DecimalText):
        return Decimal("0.10")
    if isinstance(kind, LargeBinary):
        return b"\x00\xff"
    if isinstance(kind, JSON):
        return {"a": [1, None, {"b": "ä"}]}
    if isinstance(kind, Boolean):
        return True
    if isinstance(kind, Float):
        return 0.1
    return 2**60 if isinstance(kind, BigInteger | Integer) else "text"
