"""`imgstore disk attach` in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def start_attach(home: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Run the command in a process, and yield the process and the printed values."""
    line = [sys.executable, "-m", "imgstore", "disk", "attach", *words, "--home", str(home)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        lines: list[str] = []
        for text in running.stdout:
            lines.append(text)
            if text == "}\n":
                break
        try:
            yield running, json.loads("".join(lines))
        finally:
            running.terminate()
