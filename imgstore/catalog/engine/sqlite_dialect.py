"""SQLite's dialect, whose compiled statements all engines of a process share.

By default, each engine of SQLAlchemy compiles all statements again. A catalog has an engine for writers and another for
readers, and a process may open several catalogs: a short command in a test then takes a third less processor time.
"""

from typing import Any, Final

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import LRUCache

NAME: Final = "sqlite+shared"
"""The scheme of the dialect in a URL."""

COMPILED: Final[LRUCache[Any, Any]] = LRUCache(1000)
"""The compiled statements, for the execution option `compiled_cache`."""


class SharedDialect(SQLiteDialect_pysqlite):
    """The dialect of the driver `sqlite3`. All instances are equal, because the dialect is a part of a cache's key."""

    supports_statement_cache = True

    def __eq__(self, other: object) -> bool:
        """Return whether `other` is of this class."""
        return type(other) is type(self)

    def __hash__(self) -> int:
        """Return the same number for all instances."""
        return hash(type(self))


registry.register(NAME.replace("+", "."), __name__, SharedDialect.__name__)
