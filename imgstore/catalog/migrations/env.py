"""The environment of Alembic. Alembic runs in the transaction that `imgstore.catalog.engine.upgrade` has begun."""

from alembic import context

from imgstore.catalog.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
