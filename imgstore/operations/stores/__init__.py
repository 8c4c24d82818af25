"""Check and register the stores and zones of an installation."""
