"""The command line of imgstore in the process of a test."""

import json
import shlex
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main

_SETTINGS: Final = ("IMGSTORE_REGIONS", "IMGSTORE_DATABASE", "IMGSTORE_SUBSCRIPTION", "IMGSTORE_S3_ENDPOINT")


class Terminal:
    """The command line with a home in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.environ = {"IMGSTORE_HOME": str(self.home)}

    def run(self, line: str) -> Result:
        """Run a line, with or without the name of the program."""
        words = shlex.split(line.removeprefix("imgstore "))
        return CliRunner().invoke(main, words, prog_name="imgstore", env=self.environ)

    def ok(self, line: str) -> Any:
        """Run a line that succeeds, and return the JSON. None if the line prints nothing."""
        result = self.run(line)
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
        return json.loads(result.stdout) if result.stdout else None

    def fails(self, line: str, code: int) -> str:
        """Run a line that ends with an exit code, and return the standard error."""
        result = self.run(line)
        assert result.exit_code == code, f"{line}\n{result.output}\n{result.exception!r}"
        return result.stderr


def enter_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder the current folder, and remove the settings of the surroundings."""
    monkeypatch.chdir(folder)
    for name in _SETTINGS:
        monkeypatch.delenv(name, raising=False)
