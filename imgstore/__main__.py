"""``python -m imgstore``."""

from imgstore.cli.main import start

start()
