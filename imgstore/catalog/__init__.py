"""The catalog remembers facts: resources, works, money. It never hears of a store, and facts never wait for a bucket."""

from imgstore.catalog.activity import ActivityRow
from imgstore.catalog.catalog import Catalog, Facts
from imgstore.catalog.installation import InstallationRow

__all__ = ["ActivityRow", "Catalog", "Facts", "InstallationRow"]
