"""The texts of the repository are plain technical English: short sentences, nouns instead of pronouns, common words."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Final

import pytest
from prose_figures import Figures, docstrings, error_texts, help_texts, measure, worst_sentences

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "imgstore"
PAGES: Final = (
    ROOT / "README.md",
    ROOT / "bench" / "README.md",
    PACKAGE / "DESIGN.md",
    *sorted((ROOT / "docs").glob("*.md")),
)
INTERNALS: Final = tuple(sorted((ROOT / "docs" / "internals").glob("*.md")))
DECISIONS: Final = tuple(sorted((ROOT / "docs" / "decisions").glob("*.md")))

GOALS: Final = Figures()
LIMITS: Final[dict[str, Figures]] = {}
"""Texts that do not reach the goals. A limit may only fall."""
CODE_TEXTS: Final[dict[str, Callable[[], str]]] = {
    "docstrings": lambda: docstrings(PACKAGE),
    "help": lambda: help_texts(PACKAGE / "cli"),
    "errors": lambda: error_texts(PACKAGE),
}


def check_prose(name: str, text: str) -> None:
    """Check the figures of a text.

    Raises:
        AssertionError: a figure is above the limit; the message has the worst sentences.
    """
    limits, found = LIMITS.get(name, GOALS), measure(text)
    above = [
        f"{field.name} {getattr(found, field.name)} > {getattr(limits, field.name)}"
        for field in fields(Figures)
        if getattr(found, field.name) > getattr(limits, field.name)
    ]
    assert not above, "\n".join([f"{name}: {', '.join(above)}", *worst_sentences(text, 15)])


@pytest.mark.parametrize("name", CODE_TEXTS)
def test_texts_of_the_code(name: str) -> None:
    check_prose(name, CODE_TEXTS[name]())


@pytest.mark.parametrize("path", [*PAGES, *INTERNALS], ids=lambda path: str(path.relative_to(ROOT)))
def test_pages(path: Path) -> None:
    check_prose(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))


def test_decisions() -> None:
    """Each decision is too short for figures of its own."""
    check_prose("docs/decisions", "\n\n".join(path.read_text(encoding="utf-8") for path in DECISIONS))


def test_every_limit_names_a_text() -> None:
    pages = {str(path.relative_to(ROOT)) for path in (*PAGES, *INTERNALS)}
    assert LIMITS.keys() <= pages | CODE_TEXTS.keys()


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        ("One word. Another short sentence here.", Figures(mean=4, p90=4, vague=0, pronouns=0, rare=0)),
        ("Copy the file that `it` names.", Figures(mean=6, p90=6, vague=0, pronouns=0, rare=0)),
        ("It is what nobody told them.", Figures(mean=6, p90=6, vague=166.7, pronouns=333.3, rare=333.3)),
        ("| it | what |\n\n```\nit lies\n```\nA page has words.", Figures(mean=4, p90=4, vague=0, pronouns=0, rare=0)),
    ],
)
def test_measure_counts_sentences_and_words(text: str, figures: Figures) -> None:
    assert measure(text) == figures
