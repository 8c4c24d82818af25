"""Run by Alembic: inside the transaction that `imgstore.catalog.engine.upgrade` has begun, on its connection."""

from alembic import context

from imgstore.catalog.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
