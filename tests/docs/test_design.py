"""DESIGN.md and the pages of docs/ agree with the code, and every link leads somewhere."""

import re
from pathlib import Path
from typing import Final

import pytest

from imgstore.domain.states import REPLICA_TRANSITIONS, ReplicaState

ROOT: Final = Path(__file__).parents[2]
DESIGN: Final = ROOT / "imgstore" / "DESIGN.md"
PAGES: Final = (
    DESIGN,
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
)
SOURCES: Final = tuple(
    path for folder in ("imgstore", "tests", "bench") for path in sorted((ROOT / folder).rglob("*.py"))
)
LINES_MAX: Final = 450

_HEADING: Final = re.compile(r"^#+ +(.*)$", re.MULTILINE)
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_FENCED: Final = re.compile(r"```.*?```", re.DOTALL)
_PACKAGES: Final = sorted(path.parent.name for path in (ROOT / "imgstore").glob("*/__init__.py"))
_CODE_PATH: Final = re.compile(rf"`((?:{'|'.join(_PACKAGES)}|imgstore|tests|bench|docs)/[\w./-]*|[\w/-]+\.py)`")
"""A file or folder of the repository in backticks: any `*.py`, and any path that begins with a package's name."""
_PAGE_IN_CODE: Final = re.compile(r"docs/[\w/-]+\.md")
_SECTION_IN_CODE: Final = re.compile(r"DESIGN\.md,\s+(?:\"([^\"]+)\"|sections? (\d+))")


def _anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of the headings of a page."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(_FENCED.sub("", text)))
    return {heading.strip().replace(" ", "-") for heading in plain}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_design_is_short() -> None:
    assert len(DESIGN.read_text(encoding="utf-8").splitlines()) <= LINES_MAX


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in _anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "moves.md"], ids=_name)
def test_named_modules_exist(page: Path) -> None:
    named = set(_CODE_PATH.findall(page.read_text(encoding="utf-8")))
    bases = (ROOT, ROOT / "imgstore", page.parent)
    assert {path for path in named if not any((base / path).exists() for base in bases)} == set()


def test_contributing_names_each_file_with_long_tests() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("\n## Long tests\n")[2].partition("\n## ")[0]
    marked = {_name(path) for path in SOURCES if re.search(r"pytest\.mark\.long\b", path.read_text(encoding="utf-8"))}
    named = set(re.findall(r"^\| `(tests/[\w/]+\.py)`", section, re.MULTILINE))
    assert named == marked, "a file with the mark `long` needs a row in CONTRIBUTING.md, section Long tests"


def test_pages_and_sections_that_code_cites_exist() -> None:
    headings = {re.sub(r"^\d+\. ", "", each) for each in _HEADING.findall(DESIGN.read_text(encoding="utf-8"))}
    numbers = set(re.findall(r"^## (\d+)\. ", DESIGN.read_text(encoding="utf-8"), re.MULTILINE))
    broken = []
    for path in SOURCES:
        if path == Path(__file__):
            continue
        text = path.read_text(encoding="utf-8")
        broken += [(_name(path), page) for page in _PAGE_IN_CODE.findall(text) if not (ROOT / page).is_file()]
        for title, number in _SECTION_IN_CODE.findall(text):
            if (title and title not in headings) or (number and number not in numbers):
                broken.append((_name(path), title or number))
    assert not broken


def test_state_table_lists_the_transitions_of_a_replica() -> None:
    section = DESIGN.read_text(encoding="utf-8").split("### States of a replica")[1].split("\n###")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")][2:]
    listed = {
        (ReplicaState(before), ReplicaState(row[1]))
        for row in rows
        for before in row[0].split(", ")
        if before != "(none)"
    }
    assert listed == {(before, after) for before, afters in REPLICA_TRANSITIONS.items() for after in afters}
