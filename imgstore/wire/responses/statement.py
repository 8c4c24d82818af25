"""Billing statements as JSON. Azure has no such format."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from imgstore.domain.text.decimals import decimal_text
from imgstore.ledger.statements.statement import ROUNDING_RULE
from imgstore.wire.json_text import Json, instant
from imgstore.wire.responses.parties import party_json

if TYPE_CHECKING:
    from imgstore.ledger.entries import LedgerRow
    from imgstore.ledger.statements.explanation import Explanation
    from imgstore.ledger.statements.grouped_statement import GroupedStatement
    from imgstore.ledger.statements.statement import Statement, StatementRow, Total
    from imgstore.ledger.storage.shared_bytes import SharedStorage


_UNKNOWN_SEGMENTS: Final = "The segments are unknown, because the replica, disk or storage of the entry was removed."


def statement_json(statement: "Statement") -> Json:
    """Return the statement. Amounts are texts with all digits, because readers of JSON numbers lose digits."""
    single = statement.totals[0] if len(statement.totals) == 1 else None
    return {
        "currency": single and single.currency,
        "total": single and decimal_text(single.amount),
        "due": single and f"{single.due:f}",
        "totals": _totals_json(statement.totals),
        "rounding": ROUNDING_RULE,
        "rows": [_row_json(row) for row in statement.rows],
    }


def shared_storage_json(rows: Sequence["SharedStorage"]) -> Json:
    """Return the bytes that several owners name, with the owner that pays and the other owners in the order of payment."""
    return {
        "storedBytes": sum(row.stored_bytes for row in rows),
        "rows": [
            {
                "region": row.region,
                "storageAccountType": row.storage_account_type.value,
                "replica": row.replica,
                "storedBytes": row.stored_bytes,
                "payer": party_json(row.parties[0]),
                "sharedWith": [party_json(party) for party in row.parties[1:]],
            }
            for row in rows
        ],
    }


def explanation_json(explanation: "Explanation", *, with_segments: bool) -> Json:
    """Return the explanation of an entry. Amounts and quantities are texts with all digits."""
    usage, party = explanation.usage, explanation.usage.party
    segments = explanation.segments
    return {
        "entry": explanation.entry,
        "kind": usage.kind.value,
        "rule": explanation.rule,
        "subscription": party.subscription,
        "group": party.group,
        "gallery": party.gallery,
        "definition": party.definition,
        "version": party.version,
        "disk": party.disk,
        "tags": dict(party.tags),
        "source": usage.source,
        "target": usage.target,
        "replica": usage.replica,
        "storageAccountType": usage.storage_account_type and usage.storage_account_type.value,
        "begin": instant(usage.begin),
        "bytes": explanation.bytes,
        "parts": [
            {
                "month": part.month,
                "priceList": part.price_list,
                "line": part.line,
                "tierBegin": f"{part.tier_begin_gigabytes:f}",
                "before": f"{part.before:f}",
                "quantity": f"{part.quantity:f}",
                "unitPrice": f"{part.unit_price:f}",
                "amount": f"{part.amount:f}",
                "currency": part.currency,
            }
            for part in explanation.parts
        ],
        "segmentCount": None if segments is None else len(segments),
        "segmentBytes": None if segments is None else sum(each.stored_bytes for each in segments),
        "segmentNote": _UNKNOWN_SEGMENTS if segments is None else None,
    } | (
        {}
        if segments is None or not with_segments
        else {"segments": [{"name": each.name.hex(), "storedBytes": each.stored_bytes} for each in segments]}
    )


def grouped_statement_json(statement: "GroupedStatement") -> Json:
    """Return a statement by a property."""
    return {
        "by": statement.by,
        "totals": _totals_json(statement.totals),
        "rounding": ROUNDING_RULE,
        "rows": [
            {
                "name": row.name,
                "deliveredBytes": row.delivered_bytes,
                "byteHours": decimal_text(row.byte_hours),
                "amount": decimal_text(row.amount),
                "currency": row.currency,
            }
            for row in statement.rows
        ],
    }


def _totals_json(totals: "tuple[Total, ...]") -> Json:
    return [total_json(each) for each in totals]


def total_json(total: "Total") -> Json:
    """Return the total of a statement in one currency."""
    return {"currency": total.currency, "amount": f"{total.amount:f}", "due": f"{total.due:f}"}


def entry_json(row: "LedgerRow") -> Json:
    """Return a row of the ledger. `amount` is the price of the bytes at `unitPrice`."""
    return {
        "entry": row.key,
        "kind": row.kind.value,
        "subscription": row.party.subscription,
        "group": row.party.group,
        "source": row.source,
        "target": row.target,
        "replica": row.replica,
        "deliveredBytes": row.delivered_bytes,
        "unitPrice": decimal_text(row.unit_price),
        "amount": decimal_text(row.amount),
        "time": instant(row.time),
    }


def _row_json(row: "StatementRow") -> Json:
    return {
        "kind": row.kind.value,
        "group": row.group,
        "gallery": row.gallery,
        "definition": row.definition,
        "version": row.version,
        "disk": row.disk,
        "source": row.source,
        "target": row.target,
        "replica": row.replica,
        "deliveredBytes": row.delivered_bytes,
        "byteHours": decimal_text(row.byte_hours),
        "unitPrice": None if row.unit_price is None else decimal_text(row.unit_price),
        "amount": decimal_text(row.amount),
        "currency": row.currency,
        "month": row.month,
        "time": instant(row.time),
        "entries": list(row.entries),
    }
