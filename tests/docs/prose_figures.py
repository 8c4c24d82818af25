"""Figures of plain technical English: length of sentences, and counts of words that make sentences hard to read."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

VAGUE_CLAUSES: Final = re.compile(r"\b(what|who|whoever|whose|whom|those that|that which)\b")
PRONOUNS: Final = re.compile(r"\b(it|its|they|them|their|these|those|one|ones)\b")
RARE_WORDS: Final = re.compile(
    r"\b(anew|besides|likewise|whoever|told|tells|stands|stand|lies|lie|gone|goes on|go on|gone on|had back|afresh|aloud"
    r"|reckon\w*|meanwhile|beside|hereby|therein|thereof|said|lacks|hence|heed\w*|nobody|whichever|ours)\b"
)

_DOCUMENTED: Final = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_SECTIONS: Final = re.compile(r"\n\n(?:Args|Raises|Returns|Yields):")
_ERROR_PARTS: Final = ("found", "expected", "hint")
_HELP: Final = ("help", "short_help", "epilog")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Measured figures of a text, or limits of the figures. Counts are per 1,000 words."""

    mean: float = 16.0
    """Words of a sentence."""
    p90: float = 27.0
    """Words of the sentence that 90 of 100 sentences do not exceed."""
    vague: float = 3.0
    """Clauses that begin with what, who or whose."""
    pronouns: float = 22.0
    rare: float = 1.0


def sentences(text: str) -> list[str]:
    """Return the sentences of Markdown or of docstrings, without tables, code and headings. Code in a line is "X"."""
    text = re.sub(r"```.*?```|<!--.*?-->", "", text, flags=re.DOTALL)
    skipped = ("|", "+", "#", "..")
    lines = [line for line in text.splitlines() if not line.strip().startswith(skipped) and not line.startswith("    ")]
    text = re.sub(r"`+[^`]*`+(_+)?", "X", "\n".join(lines))
    text = re.sub(r"\*\*|\[|\]\([^)]*\)", "", text)
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.) ", text):
        joined = " ".join(paragraph.split())
        found += [part for part in re.split(r"(?<=[.:;?!])\s+(?=[A-Z0-9X(])", joined) if len(part.split()) > 2]
    return found


def measure(text: str) -> Figures:
    """Measure a text."""
    parts = sentences(text)
    lengths = sorted(len(part.split()) for part in parts)
    words = sum(lengths)
    low = " ".join(parts).lower()

    def rate(pattern: re.Pattern[str]) -> float:
        return round(1_000 * len(pattern.findall(low)) / max(words, 1), 1)

    return Figures(
        mean=round(words / max(len(lengths), 1), 1),
        p90=lengths[int(0.9 * len(lengths))] if lengths else 0,
        vague=rate(VAGUE_CLAUSES),
        pronouns=rate(PRONOUNS),
        rare=rate(RARE_WORDS),
    )


def worst_sentences(text: str, count: int) -> list[str]:
    """Return the sentences with most hits and words, for the message of a failed test."""

    def score(part: str) -> int:
        hits = sum(len(pattern.findall(part.lower())) for pattern in (VAGUE_CLAUSES, PRONOUNS, RARE_WORDS))
        return 5 * hits + max(0, len(part.split()) - 25)

    return sorted(filter(score, sentences(text)), key=score, reverse=True)[:count]


def docstrings(folder: Path) -> str:
    """Return all docstrings of modules, classes, functions and attributes, without sections such as "Raises:"."""
    return "\n\n".join(text for tree in _trees(folder) for node in ast.walk(tree) for text in _texts_of(node))


def help_texts(folder: Path) -> str:
    """Return the texts of `help=`, `short_help=` and `epilog=`."""
    return "\n\n".join(
        node.value.value
        for tree in _trees(folder)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg in _HELP
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )


def error_texts(folder: Path) -> str:
    """Return the messages of errors, and the parts found, expected and hint. Values in a text are "X"."""
    texts: list[str] = []
    for tree in _trees(folder):
        raised = {node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            parts = [keyword.value for keyword in node.keywords if keyword.arg in _ERROR_PARTS]
            if parts or node in raised:
                texts += filter(None, map(_text_of, [*node.args, *parts]))
    return "\n\n".join(texts)


def _trees(folder: Path) -> Iterator[ast.Module]:
    for path in sorted(folder.rglob("*.py")):
        if "migrations" not in path.parts:
            yield ast.parse(path.read_text(encoding="utf-8"))


def _texts_of(node: ast.AST) -> Iterator[str]:
    """Yield the docstring of a node, and the texts below the attributes in the body of the node."""
    first = 0
    if isinstance(node, _DOCUMENTED):
        first = 1
        if text := ast.get_docstring(node):
            yield _SECTIONS.split(text)[0]
    body = getattr(node, "body", None)
    for child in body[first:] if isinstance(body, list) else []:
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant) and isinstance(child.value.value, str):
            yield child.value.value


def _text_of(node: ast.expr) -> str:
    """Return the text of a string or f-string; "" for any other expression."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text_of(part) if isinstance(part, ast.Constant) else "X" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text_of(node.left) + _text_of(node.right)
    return ""
