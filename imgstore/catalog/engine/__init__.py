"""Open the database, upgrade its schema and run transactions (SQLite and PostgreSQL)."""
