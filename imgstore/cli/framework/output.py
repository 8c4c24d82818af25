"""Print results on standard output as json, table, csv, tsv or yaml, after ``--query``."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import TYPE_CHECKING, Final, TypeAlias

import click

from imgstore.cli.framework.queries import search
from imgstore.cli.framework.table_layout import lay_out
from imgstore.domain.text.decimals import decimal_text
from imgstore.wire.json_text import Json, dumps

if TYPE_CHECKING:
    from imgstore.cli.framework.global_options import Globals

Rows: TypeAlias = Sequence[Mapping[str, Json]]
"""Values of each row by heading."""
Table: TypeAlias = Callable[[Json], Rows]
"""A function that makes the rows of a table from a result."""
Sheet: TypeAlias = Callable[[Json], tuple[Sequence[str], Rows]]
"""A function that makes the headings and rows of a CSV document. The headings are the same for each result."""

_FORMULA_BEGINS: Final = frozenset("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""Characters at which a program for spreadsheets begins a formula, some in full width, or leaves out white space."""
_NUMBER: Final = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_DECIMAL: Final = re.compile(r"-?[0-9]+\.[0-9]+")

_UNSHOWN: Final = frozenset({"id", "type", "etag"})
"""Long values that follow from other values. az omits the values in tables too."""


def scalars(body: Json) -> Rows:
    """Make a table of the plain values in `body`: az's rule for results without a table of their own."""
    return [_plain(item) for item in _items(body)]


def columns(**paths: str) -> Table:
    """Make a table with a column for each heading, filled from a dotted path: ``columns(Name="name")``.

    An empty column is left out.
    """

    def table(body: Json) -> Rows:
        items = _items(body)
        filled = {heading: [_follow(item, path) for item in items] for heading, path in paths.items()}
        kept = {heading: column for heading, column in filled.items() if any(value is not None for value in column)}
        return [dict(zip(kept, row, strict=True)) for row in zip(*kept.values(), strict=True)]

    return table


def fixed_columns(**paths: str) -> Sheet:
    """Make a CSV document with a column for each heading, filled from a dotted path, also without any row."""

    def sheet(body: Json) -> tuple[Sequence[str], Rows]:
        return list(paths), [{heading: _follow(item, path) for heading, path in paths.items()} for item in body]

    return sheet


def emit(
    body: Json, options: "Globals", table: Table = scalars, *, sheet: Sheet | None = None, on_stderr: bool = False
) -> None:
    """Print `body` in the format of the options. None prints nothing, as in az.

    CSV has the columns of `sheet`, or of the table without a sheet.

    Raises:
        click.UsageError: the query does not fit the result.
    """
    if options.query is not None:
        body = search(body, options.query)
        table, sheet = scalars, None
    output = options.output or "json"
    if body is None:
        text = None
    elif output == "csv" and sheet is not None:
        text = _csv_text(*sheet(body))
    else:
        text = _WRITERS[output](body, table)
    if text is not None:
        click.echo(text, err=on_stderr)


def print_warnings(texts: Iterable[str], *, quiet: bool) -> None:
    """Print notes for people on standard error, unless `quiet`."""
    for text in texts if not quiet else ():
        click.echo(f"WARNING: {text}", err=True)


def print_notes(texts: Iterable[str], *, quiet: bool) -> None:
    """Print facts that need no attention on standard error, unless `quiet`."""
    for text in texts if not quiet else ():
        click.echo(text, err=True)


def print_next_steps(steps: Sequence[str], *, quiet: bool) -> None:
    """Print the steps after a command on standard error, unless `quiet`."""
    for step in steps if not quiet else ():
        click.echo(f"Next step: {step}", err=True)


def _as_yaml(body: Json, _table: Table) -> str:
    import yaml  # noqa: PLC0415 - start-up time

    class Dumper(yaml.SafeDumper):
        """A dumper of our own, so that its representers do not change PyYAML's dumper."""

    def represent(dumper: yaml.SafeDumper, amount: Decimal) -> yaml.Node:
        text = decimal_text(amount)
        return dumper.represent_scalar(f"tag:yaml.org,2002:{'float' if '.' in text else 'int'}", text)

    Dumper.add_representer(Decimal, represent)
    text: str = yaml.dump(body, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _as_table(body: Json, table: Table) -> str | None:
    return table_text(table(body))


def table_text(rows: Rows) -> str | None:
    """Format rows below their headings, in at most `TABLE_COLUMNS_MAX` columns. None without rows."""
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    if not headings:
        return None
    cells = [[_cell(row.get(heading)) for heading in headings] for row in rows]
    numbers = [all(_is_number(row.get(heading)) for row in rows) for heading in headings]
    return lay_out([_one_line(heading) for heading in headings], cells, numbers)


def _as_tsv(body: Json, _table: Table) -> str | None:
    rows = body if isinstance(body, list) else [body]
    lines = ["\t".join(_tsv_cells(row)) for row in rows]
    return "\n".join(lines) if lines else None


def _as_csv(body: Json, table: Table) -> str | None:
    """Format the rows of the table as comma-separated values (RFC 4180), with the headings in the first line."""
    rows = table(body)
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    return _csv_text(headings, rows) if headings else None


def _csv_text(headings: Sequence[str], rows: Rows) -> str:
    cells = ({heading: None if value is None else _cell(value) for heading, value in row.items()} for row in rows)
    return "".join(csv_lines(headings, cells)).removesuffix("\r\n")


def csv_lines(headings: Sequence[str], rows: Iterable[Mapping[str, str | None]]) -> Iterator[str]:
    """Return the lines of a CSV document (RFC 4180) with a header. A missing value is an empty field.

    Names and tags are texts of any user, and a program for spreadsheets runs a formula in a text. So a text that would be
    a formula begins with an apostrophe (https://owasp.org/www-community/attacks/CSV_Injection). Numbers stay numbers.
    """
    line = io.StringIO(newline="")
    writer = csv.writer(line)
    for values in chain([headings], ([row.get(heading) for heading in headings] for row in rows)):
        line.seek(0)
        line.truncate()
        writer.writerow([value and _disarm_formula(value) for value in values])
        yield line.getvalue()


def _disarm_formula(text: str) -> str:
    return f"'{text}" if text[0] in _FORMULA_BEGINS and not _NUMBER.fullmatch(text) else text


_WRITERS: Final[Mapping[str, Callable[[Json, Table], str | None]]] = {
    "json": lambda body, _table: dumps(body),
    "yaml": _as_yaml,
    "table": _as_table,
    "csv": _as_csv,
    "tsv": _as_tsv,
    "none": lambda _body, _table: None,
}


def _items(body: Json) -> Sequence[Json]:
    return body if isinstance(body, list) else [body]


def _plain(item: Json) -> Mapping[str, Json]:
    if isinstance(item, Mapping):
        kept = (
            (key, value) for key, value in item.items() if key not in _UNSHOWN and not isinstance(value, dict | list)
        )
        return {key[:1].upper() + key[1:]: value for key, value in kept}
    if isinstance(item, list):
        return {f"Column{index}": value for index, value in enumerate(item, start=1)}
    return {"Result": item}


def _follow(item: Json, path: str) -> Json:
    for key in path.split("."):
        item = item.get(key) if isinstance(item, Mapping) else None
    return item


def _is_number(value: Json) -> bool:
    """Return True if a column with the value may be right-aligned: a number, or a decimal as text, such as "5.10"."""
    if isinstance(value, str):
        return _DECIMAL.fullmatch(value) is not None
    return value is None or (isinstance(value, int | float | Decimal) and not isinstance(value, bool))


def _cell(value: Json) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _one_line(value)
    return decimal_text(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False, default=str)


def _one_line(text: str) -> str:
    """Replace control characters, which would break the lines and columns of a terminal."""
    return text if text.isprintable() else "".join(" " if unicodedata.category(each) == "Cc" else each for each in text)


def _tsv_cells(row: Json) -> list[str]:
    if isinstance(row, Mapping):
        return [_tsv(value) for value in row.values()]
    return [_tsv(value) for value in row] if isinstance(row, list) else [_tsv(row)]


def _tsv(value: Json) -> str:
    """Format a value for tsv as az does: a list as its length, an object as nothing, null as None. Tabs and line ends are replaced."""
    if value is None:
        return "None"
    if isinstance(value, Mapping):
        return ""
    if isinstance(value, list):
        return str(len(value))
    return value.replace("\n", " ").replace("\t", " ") if isinstance(value, str) else _cell(value)
