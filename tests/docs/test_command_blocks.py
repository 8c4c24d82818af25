"""Each command block of README.md and docs/ runs as typed, page by page, in an empty folder with an empty home.

A page is one shell session. A comment before a block says what the block needs:

==========  ==========================================================================================================
``home``    the block runs with the home of the page's server
``minio``   `http://127.0.0.1:9000` is a MinIO of the test run
``server``  the block names a server and its credentials; the page's server and a principal of the block before replace them
``postgresql``  the database is a PostgreSQL of the test run
``options``  the line is a server's: its options are parsed, and nothing starts
``install``, ``suite``  the two commands of the README that set a machine up; `test_package.py` and CI run them
==========  ==========================================================================================================
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import yaml

from imgstore.catalog.recovery.postgresql_dumps import find_program
from imgstore.cli.main import main
from imgstore.testing import engines

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?:<!-- test: (?P<need>\w+) -->\n)?```(?P<language>sh|python)\n(?P<text>.*?)```", re.DOTALL)
NEEDS = {None, "home", "minio", "server", "postgresql", "options", "install", "suite"}
SERVE = re.compile(r"^imgstore serve (?P<options>.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A command block, and its need."""

    need: str | None
    language: str
    text: str


def read_blocks(page: Path) -> list[Block]:
    """Read the command blocks of a page."""
    return [Block(each["need"], each["language"], each["text"]) for each in BLOCK.finditer(page.read_text())]


class Session:
    """One shell session, whose variables live from block to block."""

    def __init__(self, folder: Path) -> None:
        """Make the session's folder the current one, with an empty home in it."""
        self.folder = folder
        self.variables = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "IMGSTORE_HOME": str(folder / "home"),
        }

    def run(self, text: str, **more: str) -> str:
        """Run lines with bash and keep the exported variables. The output is returned."""
        keep = self.folder / ".variables"
        script = f"set -euo pipefail\n{text}\nenv -0 > {keep}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.variables | more,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        pairs = (entry.partition("=") for entry in keep.read_text().split("\0") if entry)
        self.variables = {name: value for name, _, value in pairs if name not in more}
        return done.stdout

    def serve(self, stack: ExitStack, options: str) -> tuple[str, Mapping[str, str]]:
        """Start a server on a free port, until the stack closes. Returns its URL and the variables that it printed."""
        line = [sys.executable, "-m", "imgstore", "serve", *options.split(), "--port", "0"]
        running = stack.enter_context(
            subprocess.Popen(line, cwd=self.folder, env=self.variables, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(running.terminate)
        printed: dict[str, str] = {}
        url = ""
        assert running.stdout is not None
        for text in running.stdout:
            if found := re.search(r"serves (https://localhost:\d+)", text):
                url = found[1]
            if pair := re.fullmatch(r"([A-Z_]+)=(.*)\n", text):
                printed[pair[1]] = pair[2]
            if text.startswith("az login"):
                break
        assert url, f"no address was printed by {line}"
        return url, printed


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_every_need_is_known() -> None:
    assert {block.need for page in PAGES for block in read_blocks(page)} <= NEEDS
    unread = [
        page.name
        for page in PAGES
        if page.read_text().count("```sh\n") != len([block for block in read_blocks(page) if block.language == "sh"])
    ]
    assert not unread


def run_page(name: str, session: Session, replacements: Mapping[str, str]) -> None:
    """Run the blocks of a page that need nothing but the session and the replacements."""
    for block in read_blocks(ROOT / name):
        if block.language == "sh" and block.need not in {"install", "suite"}:
            text = block.text
            for old, new in replacements.items():
                text = text.replace(old, new)
            session.run(text)


@pytest.mark.parametrize(
    "name",
    [
        str(page.relative_to(ROOT))
        for page in PAGES
        if read_blocks(page)
        and {block.need for block in read_blocks(page)} <= {None, "install", "suite"}
        and not SERVE.search(page.read_text())
    ],
)
def test_page_runs_as_typed(name: str, session: Session) -> None:
    run_page(name, session, {})


@pytest.mark.engine("minio")
def test_page_about_stores_runs_on_minio(session: Session, minio: engines.S3Engine) -> None:
    run_page(
        "docs/regions-and-stores.md",
        session,
        {"http://127.0.0.1:9000": minio.endpoint, "=minioadmin": f"={minio.secret_key}"}
        | {f"ACCESS_KEY_ID={minio.secret_key}": f"ACCESS_KEY_ID={minio.access_key}"},
    )


def test_page_about_operation_runs_on_postgresql(session: Session, postgresql: str) -> None:
    run_page("docs/operating.md", session, {"postgresql://imgstore@db.example/imgstore": postgresql})


def test_page_about_recovery_runs_on_postgresql(session: Session, postgresql_server: engines.PostgreSQL) -> None:
    """The client programs have the version of the server, because an old `pg_dump` refuses a new server."""
    with postgresql_server.database() as url, psycopg.connect(url.replace("+psycopg", "")) as connection:
        major = connection.info.server_version // 10_000
    tools = Path(find_program("pg_dump", major).path).parent
    session.variables["PATH"] = f"{tools}:{session.variables['PATH']}"
    with ExitStack() as stack:
        urls = [stack.enter_context(postgresql_server.database()) for _ in range(3)]
        addresses = {
            f"postgresql://imgstore@db.example/{name}": url.replace("+psycopg", "")
            for name, url in zip(("imgstore", "restored", "moved"), urls, strict=True)
        }
        run_page("docs/recovery.md", session, addresses)


def test_page_about_build_machines_runs_against_a_server(session: Session, stack: ExitStack) -> None:
    url, printed = session.serve(stack, "--dev-tls --retry-after-seconds 0")
    blocks = read_blocks(ROOT / "docs" / "build-machine.md")
    output = session.run(blocks[0].text)
    principal = yaml.safe_load(output[output.index("appId") : output.index("tenant")] + "")
    filled = (
        blocks[1]
        .text.replace("https://images.example:8443", url)
        .replace("TENANT_ID=...", f"TENANT_ID={printed['IMGSTORE_TENANT_ID']}")
        .replace("CLIENT_ID=...", f"CLIENT_ID={principal['appId']}")
        .replace("CLIENT_SECRET=...", f"CLIENT_SECRET={principal['password']}")
    )
    session.variables |= {
        "IMGSTORE_HOME": str(session.folder / "none"),
        "REQUESTS_CA_BUNDLE": printed["REQUESTS_CA_BUNDLE"],
    }
    session.run(filled)
    for block in blocks[2:]:
        session.run(block.text)
    assert not (session.folder / "none").exists(), "a build machine has no home"


@pytest.mark.engine("azure-sdk")
def test_page_about_the_server_runs_with_azures_client(session: Session, stack: ExitStack) -> None:
    url: str = ""
    printed: Mapping[str, str] = {}
    for block in read_blocks(ROOT / "docs" / "server.md"):
        if block.language == "python":
            python = engines.find("azure-sdk").command
            script = session.folder / "client.py"
            script.write_text(block.text.replace("https://localhost:8443", url))
            session.run(f"{python} {script.name}", **printed)
        elif block.need == "options":
            check_options(block.text)
        else:
            found = SERVE.search(block.text)
            assert found, block.text
            url, printed = session.serve(stack, found["options"])


def check_options(line: str) -> None:
    """Parse the options of a server without a start."""
    words = line.split()[1:]
    command = main.get_command(main.make_context("imgstore", [], resilient_parsing=True), "serve")
    assert command is not None
    command.make_context("serve", words[1:], resilient_parsing=False)
