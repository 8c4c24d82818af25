"""``python -m imgstore``."""

from imgstore.cli.main import main

main(prog_name="imgstore")
