"""Check tokens, client secrets and the rights of each route."""
