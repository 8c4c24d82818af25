"""A real `imgstore serve` and a build machine: a command line in processes with an empty home and without keys."""

import json
import os
import re
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from imgstore.cli.main import main

IMGSTORE = [sys.executable, "-m", "imgstore"]
PUTS = re.compile(r'imgstore_http_requests_total\{method="PUT",route="/[^"]*disk\}/\{name\}",status="201"\} ([\d.]+)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The result of a command."""

    exit_code: int
    out: Any
    """The JSON output, if any."""
    stderr: str
    """The standard error."""


@dataclass(slots=True, kw_only=True)
class Machine:
    """A build machine with the address, the authority and a secret of the server."""

    folder: Path
    server_home: Path
    settings: Mapping[str, str]
    url: str
    last_stderr: str = ""
    """The standard error of the last command in this process."""

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "TMPDIR") if name in os.environ}
        own = {"HOME": str(self.folder / "empty"), "IMGSTORE_SERVER": self.url}
        return kept | own | {name: self.settings[name] for name in self.settings if name.startswith("IMGSTORE_")}

    def start(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*IMGSTORE, *words, "--ca-file", self.settings["REQUESTS_CA_BUNDLE"]],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, **environment: str) -> Done:
        """Run a command. Later options take precedence, so the tests of `REQUESTS_CA_BUNDLE` add no ``--ca-file``."""
        line = [*IMGSTORE, *words]
        if "REQUESTS_CA_BUNDLE" not in environment:
            line += ["--ca-file", self.settings["REQUESTS_CA_BUNDLE"]]
        done = subprocess.run(
            line,
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        return Done(exit_code=done.returncode, out=json.loads(done.stdout) if done.stdout else None, stderr=done.stderr)

    def inside(self, *words: str) -> Any:
        """Run a command in this process, which is faster, for tests that need no empty machine."""
        env = {"REQUESTS_CA_BUNDLE": self.settings["REQUESTS_CA_BUNDLE"], **self.environment}
        result = CliRunner().invoke(main, list(words), prog_name="imgstore", env=env)
        assert result.exit_code == 0, f"{words}\n{result.output}\n{result.exception!r}"
        self.last_stderr = result.stderr
        return json.loads(result.stdout) if result.stdout else None

    def ok(self, *words: str) -> Any:
        done = self.run(*words)
        assert done.exit_code == 0, f"{words}\n{done.stderr}"
        return done.out

    def puts(self) -> int:
        """Return how many ranges the blob endpoint received."""
        with urllib.request.urlopen(f"{self.url}/metrics", context=self._trust()) as answer:
            found = PUTS.search(answer.read().decode())
        return 0 if found is None else int(float(found[1]))

    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.settings["REQUESTS_CA_BUNDLE"])


@contextmanager
def serving(folder: Path, *words: str) -> Iterator[Machine]:
    """Run a server with a home of its own during the block."""
    home = folder / "server"
    (folder / "empty").mkdir()
    command = [*IMGSTORE, "serve", "--dev-tls", "--port", "0", "--retry-after-seconds", "0", "--home", str(home)]
    command += words
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            settings, lines = {}, []
            assert running.stdout is not None
            for line in running.stdout:
                lines.append(line)
                if named := re.fullmatch(r"([A-Z_]+)=(.*)\n", line):
                    settings[named[1]] = named[2]
                if line.startswith("az login"):
                    break
            match = re.search(r"serves (https://localhost:\d+)", "".join(lines))
            assert match, lines
            yield Machine(folder=folder, server_home=home, settings=settings, url=match[1])
        finally:
            running.kill()
