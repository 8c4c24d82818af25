"""The price lists of the installation, which are never changed."""

from sqlalchemy import func, select

from imgstore.catalog import schema
from imgstore.catalog.engine.repository import Repository
from imgstore.ledger.prices.price_documents import digest_of, from_document, to_document
from imgstore.ledger.prices.price_list import PriceList, PriceLists

_table = schema.price_lists


class RecordedPrices(Repository):
    """All price lists by number, from 1. The newest list applies now."""

    def all(self) -> PriceLists:
        """Return all lists. There is no list before the first start of code with price lists."""
        rows = self._session.all(select(_table).order_by(_table.c.number))
        return PriceLists(
            lists=tuple(from_document(row.document, row.number) for row in rows),
            begins=tuple(row.effective_at for row in rows),
        )

    def newest(self) -> PriceList | None:
        """Return the list that applies now, or None before the first list."""
        row = self._session.first(select(_table).order_by(_table.c.number.desc()).limit(1))
        return None if row is None else from_document(row.document, row.number)

    def digests(self) -> list[str]:
        """Return the digest of each list, by number."""
        return [row.digest for row in self._session.all(select(_table.c.digest).order_by(_table.c.number))]

    def lock(self) -> None:
        """Let no other process add a list until the end of the transaction."""
        self._session.lock_name("price-lists")

    def add(self, uid: str, prices: PriceList) -> int:
        """Record a list that applies from now on, under `lock`. Return its number."""
        number: int = (self._session.value(select(func.max(_table.c.number))) or 0) + 1
        values = {"uid": uid, "number": number, "digest": digest_of(prices), "document": to_document(prices)}
        self._session.run(_table.insert(), {**values, "effective_at": self._session.now()})
        return number
