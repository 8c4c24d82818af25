"""Test that the hints of errors name commands, options, variables, settings and files that exist."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Final

import click

from imgstore.cli.main import main
from imgstore.domain.settings.disk_space import DiskSpace
from imgstore.domain.settings.limits import Limits
from imgstore.domain.settings.maintenance import MaintenanceSettings

REPOSITORY: Final = Path(__file__).parents[2]
PACKAGE: Final = REPOSITORY / "imgstore"
HINTS: Final = re.compile(r"hint|advice", re.IGNORECASE)
"""Names of parameters, variables and tables that contain hints."""
LIBRARIES: Final = {
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "SSL_CERT_FILE",
    "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "REQUESTS_CA_BUNDLE", "TMPDIR", "HOME", "HTTP_PROXY", "HTTPS_PROXY",
    "NO_PROXY",
}  # fmt: skip
"""Variables that boto3, OpenSSL, `tempfile` and the operating system read, or that the tests of hints try."""
NOT_VARIABLES: Final = {"RG", "GALLERY", "DEFINITION", "FILE", "REGION"}


def strings(node: ast.AST) -> Iterator[str]:
    """Yield the texts in an expression. A value in an f-string is "X"."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
    else:
        for child in ast.iter_child_nodes(node):
            yield from strings(child)


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of the package."""

    hints: frozenset[str]
    all: frozenset[str]
    """All texts except docstrings, those below attributes too."""
    limits: frozenset[str]
    """The settings that hints to raise a limit name."""


@cache
def texts() -> Texts:
    hints, every, limits = set[str](), set[str](), set[str]()
    for path in PACKAGE.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        skipped = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        skipped |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in nodes:
            if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in skipped:
                every.update(strings(node))
            hints.update(text for each in hint_expressions(node) for text in strings(each) if text)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "raise_hint":
                limits.update(strings(node.args[0]))
    return Texts(frozenset(hints), frozenset(every), frozenset(limits))


def hint_expressions(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.keyword) and HINTS.search(node.arg or ""):
        yield node.value
    elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(each, ast.Name) and HINTS.search(each.id) for each in targets):
            yield node.value
    elif isinstance(node, ast.FunctionDef) and HINTS.search(node.name):
        yield from (each.value for each in ast.walk(node) if isinstance(each, ast.Return) and each.value)


def commands_in(text: str) -> Iterator[str]:
    """Yield the command lines of imgstore in a text: in backticks, or in plain text up to a punctuation mark."""
    for quoted in re.findall(r"`([^`]*)`", text):
        if quoted.startswith("imgstore "):
            yield quoted
    for plain in re.findall(r"\bimgstore [^`,;:()]*", re.sub(r"`[^`]*`", "`", text)):
        if plain.split()[1:2] and plain.split()[1] in main.list_commands(click.Context(main)):
            yield plain


def find_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command of a line, and the words after the command."""
    here: click.Command = main
    while isinstance(here, click.Group) and words:
        found = here.get_command(click.Context(main), words[0])
        if found is None:
            break
        here, words = found, words[1:]
    return here, words


def options_of(command: click.Command) -> set[str]:
    return {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {"--help"}


def all_commands(command: click.Command = main) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(main)):
            below = command.get_command(click.Context(main), name)
            assert below is not None
            yield from all_commands(below)


def options_in(text: str) -> list[str]:
    return re.findall(r"(?<![\w-])--?[a-zA-Z][a-z-]*(?![\w-])", text)


def test_each_named_command_and_its_options_exist() -> None:
    lines = sorted({line for text in texts().hints | texts().all for line in commands_in(text)})
    assert len(lines) > 100
    faults = []
    for line in lines:
        command, rest = find_command(line.split()[1:])
        known = options_of(command) | options_of(main)
        if isinstance(command, click.Group) and rest and re.search(r"[X{]", rest[0]):
            continue  # The program inserts the name of the command.
        if isinstance(command, click.Group) and rest and re.fullmatch(r"[a-z][a-z-]+", rest[0]):
            faults.append(f"{command.name} has no command {rest[0]}: {line}")
        faults += [f"{command.name} has no {each}: {line}" for each in options_in(line) if each not in known]
    assert not faults


def test_each_named_option_exists() -> None:
    known = {option for command in all_commands() for option in options_of(command)}
    foreign = re.compile(r"`(?!imgstore |delete |image-version |operation )[^`]*`")
    missing = {
        (option, text)
        for text in texts().hints
        for option in options_in(foreign.sub("", text))
        if option.startswith("--") and option not in known
    }
    assert not missing


def test_each_named_variable_is_read() -> None:
    hinted = {
        name
        for text in texts().hints
        for name in re.findall(r"\b(?:[A-Z]+_[A-Z0-9_]+|TMPDIR|HOME)\b", text)
        if name not in NOT_VARIABLES
    }
    read = {text for text in texts().all if re.fullmatch(r"[A-Z0-9_]+", text)}
    assert hinted
    assert not {name for name in hinted if name not in read | LIBRARIES and not name.endswith("_ENDPOINT")}


def test_each_named_setting_exists() -> None:
    settings = {each.name for kind in (Limits, DiskSpace, MaintenanceSettings) for each in fields(kind)}
    named = {
        name
        for text in texts().hints
        for name in re.findall(r"(?<![\w.'`-])[a-z]+(?:_[a-z]+)*_(?:max|min|days)\b", text)
    }
    assert texts().limits
    assert not (named | texts().limits) - settings


def test_each_named_page_exists() -> None:
    named = {name for text in texts().all if " " in text for name in re.findall(r"\b[\w/-]+\.md\b", text)}
    assert "docs/regions-and-stores.md" in named
    assert not [name for name in named if not (REPOSITORY / name).is_file()]
    assert "README.md" not in named, "the README describes no format"
