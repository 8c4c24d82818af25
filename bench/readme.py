"""Figures that README.md, docs/performance.md and bench/README.md quote, each between marks that say which one it is.

In the text a figure stands as ``<!-- bench:upload.upload_ratio -->9.1 x<!-- /bench -->``: the case, a dot, the figure's
name. What stands between the marks must be what `results.show` makes of the figure in `bench/results`. A table stands
between ``<!-- bench-table -->`` and ``<!-- /bench-table -->``, which is `rows.table`, or between ``<!-- choices-table -->``
and its end, which is `choices.table`.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import choices, rows
from bench.results import Result, read_results, show

README = Path(__file__).parent.parent / "README.md"
DOCUMENTS = (README, README.parent / "docs" / "performance.md", Path(__file__).parent / "README.md")
_TABLES: Mapping[str, Callable[[Mapping[str, Result]], str]] = {
    "bench-table": rows.table,
    "choices-table": choices.table,
}
_TABLE = re.compile(r"(<!-- (?P<name>[a-z]+-table) -->\n)(?P<text>.*?)(<!-- /(?P=name) -->)", re.DOTALL)
_QUOTED = re.compile(r"(<!-- bench:(?P<case>[\w-]+)\.(?P<figure>\w+) -->)(?P<text>.*?)(<!-- /bench -->)", re.DOTALL)
_OPENED = "<!-- bench:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotation:
    """One marked figure."""

    line: int
    """Where it stands, from 1."""
    case: str
    figure: str
    text: str
    """What stands there."""


def quotations(document: str) -> Iterator[Quotation]:
    """The marked figures of a document.

    Raises:
        ValueError: a mark is opened that does not read as one, or is not closed.
    """
    found = list(_QUOTED.finditer(document))
    begun = [match.start() for match in re.finditer(re.escape(_OPENED), document)]
    for start in set(begun) - {match.start() for match in found}:
        raise ValueError(f"line {_line(document, start)}: expected <!-- bench:case.figure -->text<!-- /bench -->")
    for match in found:
        yield Quotation(
            line=_line(document, match.start()), case=match["case"], figure=match["figure"], text=match["text"]
        )


def _line(document: str, offset: int) -> int:
    return document.count("\n", 0, offset) + 1


def expected(case: str, figure: str, results: Mapping[str, Result]) -> str:
    """What is to stand for a figure.

    Raises:
        LookupError: there is no such result or figure, or it was measured on stand-ins.
    """
    if case not in results or figure not in results[case].figures:
        raise LookupError(f"bench/results has no figure {case}.{figure}")
    if results[case].quick:
        raise LookupError(f"{case}.{figure} was measured on small stand-ins: run `python -m bench {case}`")
    return show(results[case].figures[figure])


def faults(document: str, results: Mapping[str, Result]) -> Iterator[str]:
    """Where a document quotes something other than the results."""
    for quotation in quotations(document):
        name = f"line {quotation.line}: {quotation.case}.{quotation.figure}"
        try:
            right = expected(quotation.case, quotation.figure, results)
        except LookupError as error:
            yield f"line {quotation.line}: {error}"
            continue
        if quotation.text != right:
            yield f"{name}: found {quotation.text!r}, expected {right!r}"
    for match in _TABLE.finditer(document):
        if match["text"] != _TABLES[match["name"]](results):
            yield f"line {_line(document, match.start())}: the table is not what the results say"


def rewritten(document: str, results: Mapping[str, Result]) -> str:
    """The document with every figure as the results have it.

    Raises:
        LookupError: it quotes a figure that the results do not have.
    """
    list(quotations(document))
    document = _TABLE.sub(lambda match: match[1] + _TABLES[match["name"]](results) + match[4], document)
    return _QUOTED.sub(lambda match: match[1] + expected(match["case"], match["figure"], results) + match[5], document)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--write", action="store_true", help="put the results' figures there")


def use(given: argparse.Namespace) -> int:
    """Checks both documents, or with `--write` corrects them; gives the exit code."""
    results, wrong = read_results(), 0
    for path in DOCUMENTS:
        document = path.read_text()
        if given.write:
            path.write_text(rewritten(document, results))
            continue
        for fault in faults(document, results):
            print(f"{path.relative_to(README.parent)} {fault}")
            wrong += 1
    return 1 if wrong else 0
