"""Ids of invariants: each cited id is defined in docs/invariants.md, and code or a test cites each defined id."""

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
INVARIANTS: Final = ROOT / "docs" / "invariants.md"

_ID: Final = r"[A-Z]\d{1,2}"
_IDS: Final = rf"{_ID}(?:(?:,| and|, and| or| to)\s+{_ID})*"
_DEFINITION: Final = re.compile(rf"^- \*\*({_ID})\*\*:? *(Planned)?", re.MULTILINE)
_CITATION: Final = re.compile(rf"\b[Ii]nvariants?\s+({_IDS})|\(({_IDS})\)")
"""Ids after the word "invariant", and ids alone in brackets: "(invariant W9)", "(W9, Z1)"."""
_UNKNOWN_SOURCE: Final = re.compile(r"\b(?:rules|contract|design)\.md\b|\(rules? \d")
"""Documents that are not part of the repository."""


def _definitions() -> dict[str, bool]:
    """Return for each defined id whether its feature is planned."""
    return {name: bool(planned) for name, planned in _DEFINITION.findall(INVARIANTS.read_text(encoding="utf-8"))}


def _files(*suffixes: str) -> list[Path]:
    folders = [ROOT / name for name in ("imgstore", "tests", "bench", "docs")]
    found = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in suffixes]
    return [path for path in [*found, ROOT / "pyproject.toml", ROOT / "README.md"] if path.suffix in suffixes]


def _cited(paths: list[Path]) -> dict[str, str]:
    """Return each cited id with a file that cites the id."""
    found: dict[str, str] = {}
    for path in paths:
        for listed in _CITATION.findall(path.read_text(encoding="utf-8")):
            found |= dict.fromkeys(re.findall(_ID, "".join(listed)), str(path.relative_to(ROOT)))
    return found


def test_each_id_is_defined_once() -> None:
    names = [name for name, _ in _DEFINITION.findall(INVARIANTS.read_text(encoding="utf-8"))]
    assert len(names) > 200
    assert sorted(names) == sorted(set(names))


def test_each_cited_id_is_defined() -> None:
    paths = [path for path in _files(".py", ".md", ".toml") if path not in (INVARIANTS, Path(__file__))]
    assert {name: path for name, path in _cited(paths).items() if name not in _definitions()} == {}


def test_code_or_a_test_cites_each_id() -> None:
    cited = _cited([path for path in _files(".py", ".toml") if path != Path(__file__)])
    assert [name for name, planned in _definitions().items() if not planned and name not in cited] == []


def test_no_file_cites_a_document_outside_of_the_repository() -> None:
    paths = [path for path in _files(".py", ".md", ".toml") if path not in (INVARIANTS, Path(__file__))]
    assert [
        str(path.relative_to(ROOT)) for path in paths if _UNKNOWN_SOURCE.search(path.read_text(encoding="utf-8"))
    ] == []
