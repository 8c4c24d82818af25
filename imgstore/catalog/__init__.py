"""The catalog remembers facts: resources, works, money. It never hears of a store, and facts never wait for a bucket."""

from imgstore.catalog.catalog import Catalog, Transaction
from imgstore.catalog.resources.activity import ActivityRow
from imgstore.catalog.resources.installation import InstallationRow

__all__ = ["ActivityRow", "Catalog", "InstallationRow", "Transaction"]
