"""Billing statements as JSON. Azure has no such format."""

from typing import TYPE_CHECKING

from imgstore.wire.json_text import Json, instant

if TYPE_CHECKING:  # JSON does not need the ledger's arithmetic, which imports numpy
    from imgstore.ledger.statement import Statement, StatementRow


def statement_json(statement: "Statement") -> Json:
    """Return the statement. Amounts are Decimals, which `imgstore.wire.json_text.dumps` prints with all digits."""
    return {
        "currency": statement.currency,
        "total": statement.total,
        "rows": [_row_json(row) for row in statement.rows],
    }


def _row_json(row: "StatementRow") -> Json:
    return {
        "kind": row.kind.value,
        "gallery": row.gallery,
        "definition": row.definition,
        "version": row.version,
        "source": row.source,
        "target": row.target,
        "replica": row.replica,
        "deliveredBytes": row.delivered_bytes,
        "byteHours": row.byte_hours,
        "unitPrice": row.unit_price,
        "amount": row.amount,
        "time": instant(row.time),
    } | ({} if row.disk is None else {"group": row.group, "disk": row.disk})
