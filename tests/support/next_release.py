"""Code of a next release: a copy of this package with one more migration.

Two releases side by side need no history of the repository this way.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import imgstore
from imgstore.catalog.schema import REVISION

NEXT: Final = f"{int(REVISION) + 1:04d}"

_MIGRATION: Final = '''"""A migration of a next release."""

import sqlalchemy as sa
from alembic import op

revision = {next!r}
down_revision = {present!r}
branch_labels = None
depends_on = None
oldest_code = {oldest!r}


def upgrade() -> None:
{body}
'''


@dataclass(frozen=True, slots=True)
class Release:
    """A copy of the package."""

    folder: Path

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Start `imgstore` with `words`."""
        environment = os.environ | {"PYTHONPATH": str(self.folder)} | options.pop("env", {})
        return subprocess.Popen(
            [sys.executable, "-m", "imgstore", *words],
            cwd=self.folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `imgstore` with `words` to the end."""
        with self.start(*words, **options) as process:
            out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, out, err)


def make_next_release(folder: Path, *statements: str, oldest_code: str) -> Release:
    """Copy the package to `folder`, and add a migration with the lines `statements`."""
    package = folder / "imgstore"
    shutil.copytree(Path(imgstore.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "testing"))
    body = "\n".join(f"    {line}" for line in statements)
    text = _MIGRATION.format(next=NEXT, present=REVISION, oldest=oldest_code, body=body)
    (package / f"catalog/migrations/versions/{NEXT}_next.py").write_text(text, encoding="utf-8")
    schema = package / "catalog/schema.py"
    code = schema.read_text(encoding="utf-8")
    schema.write_text(code.replace(f'REVISION: Final = "{REVISION}"', f'REVISION: Final = "{NEXT}"'), encoding="utf-8")
    return Release(folder)
