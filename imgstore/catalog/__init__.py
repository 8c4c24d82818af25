"""The catalog: a database of resources, works and charges. The catalog never calls a store."""

from imgstore.catalog.catalog import Catalog, Transaction
from imgstore.catalog.resources.activity import ActivityRow
from imgstore.catalog.resources.installation import InstallationRow

__all__ = ["ActivityRow", "Catalog", "InstallationRow", "Transaction"]
