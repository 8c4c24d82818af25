"""A bill as JSON: ours alone, since Azure has no such body."""

from typing import TYPE_CHECKING

from imgstore.wire.json_text import Json, instant

if TYPE_CHECKING:  # the ledger's arithmetic brings numpy, which a shape does not need
    from imgstore.ledger.statement import Statement, StatementRow


def statement_json(statement: "Statement") -> Json:
    """The statement; amounts are Decimals, which `imgstore.wire.json_text.dumps` prints to the last digit."""
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
