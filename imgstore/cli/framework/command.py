"""The Command and Group classes, which parse a line as az does.

click does not parse lists of separate words (``--target-regions a b=2``), global options at any place of the line, or
flags with an optional value. A flag or a command that only az has is refused by name, so that the author of a script for
az sees the cause.
"""

import gc
import importlib
import json
import math
import re
import sys
import textwrap
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import signature
from types import ModuleType
from typing import Any, Final

import click
from click.core import ParameterSource

from imgstore.cli.framework import global_options, output, server_dispatch, unsupported
from imgstore.domain.paging import PageRequest
from imgstore.wire.json_text import Json
from imgstore.wire.requests.generic_update import Edit, Verb

_OPTION_LIKE: Final = re.compile(r"-[A-Za-z]|--[A-Za-z]")
_INTEGER_MAX: Final = 2**31 - 1
"""Largest count, size in GiB or LUN: the limit of the catalog's narrowest column."""
_BYTES_MAX: Final = 2**63 - 1
"""Largest value of an option with a range of its own, such as a number of bytes."""
_CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class WordsOption(click.Option):
    """An option that takes all words up to the next option. `parse` makes the value; None without the option."""

    def __init__(
        self, param_decls: Sequence[str], *, parse: Callable[[Sequence[str]], Any] = tuple, **attrs: Any
    ) -> None:
        super().__init__(param_decls, multiple=True, **attrs)
        self.parse = parse

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Distinguish an option that is not given (None) from an option without a word (one empty word)."""
        words = super().process_value(ctx, value)
        given = ctx.get_parameter_source(self.name or "") is ParameterSource.COMMANDLINE
        return self.parse(words) if given else None


class EditsOption(click.Option):
    """The options ``--set``, ``--add`` and ``--remove`` of az as one value: `Edit` values in the order of the line.

    The words of one option are packed into one word of JSON, so that click keeps the words together.
    """

    def __init__(self, param_decls: Sequence[str], **attrs: Any) -> None:
        super().__init__(param_decls, multiple=True, **attrs)

    @staticmethod
    def packed(name: str, words: Sequence[str]) -> str:
        """Pack an option and its words into one word."""
        return json.dumps([name.removeprefix("--"), *words])

    def process_value(self, ctx: click.Context, value: Any) -> tuple[Edit, ...]:
        """Return the edits in the order of the line."""
        given = (json.loads(each) for each in super().process_value(ctx, value) or ())
        return tuple(Edit(verb=Verb(verb), words=tuple(words)) for verb, *words in given)


class SwitchOption(click.Option):
    """A flag with an optional value: ``--x``, ``--x true``, ``--x false``. None without the flag."""

    def __init__(self, param_decls: Sequence[str], **attrs: Any) -> None:
        super().__init__(
            param_decls, is_flag=False, flag_value="true", type=click.BOOL, metavar="[true|false]", **attrs
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A result to print, with the exit code of a failure, or on standard error because standard output has other bytes."""

    body: Json
    exit_code: int = 0
    on_stderr: bool = False
    table: output.Table | None = None
    """The table of this result. None is the table of the command."""
    sheet: output.Sheet | None = None
    """The columns of `-o csv`. None is the table."""


class Command(click.Command):
    """A command that returns JSON values to print, an `Answer`, or None."""

    def __init__(
        self,
        name: str | None,
        *,
        example: str,
        table: output.Table = output.scalars,
        question: str | None = None,
        read_options: Callable[..., dict[str, Any]] = dict,
        forecast: Callable[..., Any] | None = None,
        **attrs: Any,
    ) -> None:
        """Create a command.

        Args:
            name: name of the command.
            example: lines that work, shown below the help.
            table: columns of ``-o table``.
            question: question of a deletion, with the names of options in braces. The option ``--yes`` answers.
            read_options: makes the arguments of the command, and of its function for `--server`, from the values of the
                options.
            forecast: runs instead of the command with the option ``--what-if``, with the arguments of the command. The
                module of commands through a server names such a function ``forecast_`` and the name of the command.
            attrs: passed to `click.Command`.
        """
        super().__init__(name, context_settings=_CONTEXT, **attrs)
        self.example = example
        self.table = table
        self.question = question
        self.read_options = read_options
        self.forecast = forecast
        if forecast is not None:
            self.params.append(_what_if())
        self.params.extend(global_options.options())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Convert az's lists to click's form, and refuse options that only az has."""
        left = super().parse_args(ctx, self._in_clicks_form(ctx, args))
        for param in self.params:
            value = ctx.params.get(param.name or "")
            integer_max = _BYTES_MAX if isinstance(param.type, click.IntRange) else _INTEGER_MAX
            if isinstance(value, float) and not math.isfinite(value):
                raise click.BadParameter(f"{value} is not a number.", ctx, param)
            if isinstance(value, int) and abs(value) > integer_max:
                raise click.BadParameter(f"{str(value)[:40]} is more than {integer_max}.", ctx, param)
        if "next_token" in ctx.params:
            ctx.params["page"] = PageRequest(items_max=ctx.params.pop("max_items"), token=ctx.params.pop("next_token"))
        return left

    def invoke(self, ctx: click.Context) -> None:
        """Run the command at the home or through the server, and print the result."""
        target = None if global_options.of(ctx).server is None else server_dispatch.target_of(ctx)
        predicts = self.forecast is not None and ctx.params.pop("what_if")
        if self.question is not None and not ctx.params.pop("yes") and not predicts:
            _confirm(ctx, self.question.format(**ctx.params))
        ctx.params = ctx.invoke(self.read_options, **ctx.params)
        if target is None:
            result = self._run_here(ctx, self.forecast if predicts else self.callback)
        else:
            module, _, name = target.partition(":")
            name = f"forecast_{name}" if predicts else name
            result = server_dispatch.run(ctx, getattr(_import_without_gc(module), name))
        answer = result if isinstance(result, Answer) else Answer(body=result)
        output.emit(
            answer.body,
            global_options.of(ctx),
            answer.table or self.table,
            sheet=answer.sheet,
            on_stderr=answer.on_stderr,
        )
        if answer.exit_code:
            ctx.exit(answer.exit_code)

    @staticmethod
    def _run_here(ctx: click.Context, function: Callable[..., Any] | None) -> Any:
        """Run a function at the home. A function whose first parameter is `session` gets the open session of the home."""
        assert function is not None, "the decorator `command` gives each command its function"
        if next(iter(signature(function).parameters), None) != "session":
            return ctx.invoke(function, **ctx.params)
        from imgstore.cli.framework.session import open_session  # noqa: PLC0415 - start-up time

        with open_session() as session:
            return ctx.invoke(function, session, **ctx.params)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options. The root command alone shows the global options."""
        _format_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example."""
        with formatter.section("Example"):
            formatter.write(textwrap.indent(self.example.strip() + "\n", " " * formatter.current_indent))

    def _in_clicks_form(self, ctx: click.Context, args: Iterable[str]) -> list[str]:
        options = {name: param for param in self.params if isinstance(param, click.Option) for name in param.opts}
        words, formed = deque(args), list[str]()
        while words:
            word = words.popleft()
            name, has_value, first = word.partition("=")
            option = options.get(name)
            if word == "--":
                return [*formed, word, *words]
            if option is None and _OPTION_LIKE.match(word):
                unsupported.refuse_option(ctx, name)
            if isinstance(option, EditsOption):
                formed += [name, option.packed(name, [first] if has_value else _plain_words(words))]
            elif option is None or has_value or option.is_flag:
                formed.append(word)
            elif isinstance(option, WordsOption):
                for value in _plain_words(words) or [""]:
                    formed += [name, value]
            else:
                formed.append(word)
                if words and not (isinstance(option, SwitchOption) and _OPTION_LIKE.match(words[0])):
                    formed.append(words.popleft())
        return formed


def _what_if() -> click.Option:
    return click.Option(
        ["--what-if"],
        is_flag=True,
        help="Print the effects on the bill by region, and change nothing: bytes, prices, time, and the same with whole copies.",
    )


def _confirm(ctx: click.Context, question: str) -> None:
    """Ask for a confirmation at a terminal, and exit if the answer is no."""
    if sys.stdin.isatty() and not click.confirm(question, err=True):
        click.echo("Nothing was deleted.", err=True)
        ctx.exit(1)


def require_confirmation(question: str, *, refusal: str) -> None:
    """Ask for a confirmation. Print `refusal` and exit with 1 if the answer is no, or if there is no terminal."""
    if not sys.stdin.isatty():
        click.echo(f"{refusal}: there is no terminal for a confirmation. Use --yes.", err=True)
    elif click.confirm(question, err=True):
        return
    else:
        click.echo(f"{refusal}.", err=True)
    click.get_current_context().exit(1)


def _plain_words(words: deque[str]) -> list[str]:
    plain = []
    while words and not _OPTION_LIKE.match(words[0]) and words[0] != "--":
        plain.append(words.popleft())
    return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class LazyCommand:
    """A command whose module is imported at the first use."""

    target: str
    """The command, as "module:attribute"."""
    summary: str
    """Line in the list of commands, and the first line of the command's help."""


def _import_without_gc(module: str) -> ModuleType:
    """Import a module with the garbage collector off.

    The collector scans all imported objects repeatedly and finds nothing. The scans take a fifth to a quarter of a short
    command's time.
    """
    if module in sys.modules:
        return sys.modules[module]
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()


class Group(click.Group):
    """A group of commands. The commands in `lazy` are imported at the first use."""

    command_class = Command

    def __init__(self, name: str | None = None, *, lazy: Mapping[str, LazyCommand] | None = None, **attrs: Any) -> None:
        super().__init__(name, context_settings=_CONTEXT, **attrs)
        self.lazy: Final = dict(lazy or {})
        self.params.extend(global_options.options())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the loaded and the lazy commands."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, and import a lazy command."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self.lazy[cmd_name].target.partition(":")
        command = getattr(_import_without_gc(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of a line. A command of az alone is refused by name, and a typing error gets a suggestion."""
        name = args[0]
        if not _OPTION_LIKE.match(name) and self.get_command(ctx, name) is None:
            unsupported.refuse_command(ctx, name)
            close = get_close_matches(name, self.list_commands(ctx))
            meant = f" Did you mean '{close[0]}'?" if close else ""
            raise click.UsageError(f"No such command '{name}'.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, then the options."""
        self.format_commands(ctx, formatter)
        _format_options(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without an import of lazy commands."""
        rows = [(name, self._summary(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _summary(self, ctx: click.Context, name: str) -> str:
        if name in self.lazy:
            return self.lazy[name].summary
        command = self.get_command(ctx, name)
        return command.get_short_help_str(limit=90) if command else ""


def _format_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    sections: dict[str, list[tuple[str, str]]] = {"Options": [], "Global options": []}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None and isinstance(param, click.Option):
            everywhere = isinstance(param, global_options.GlobalOption) or "--help" in param.opts
            sections["Global options" if everywhere else "Options"].append(record)
    is_root = ctx.parent is None
    for title, records in sections.items():
        if records and (is_root or title == "Options"):
            with formatter.section(title):
                formatter.write_dl(records)
    if not is_root:
        formatter.write_paragraph()
        formatter.write_text("`imgstore --help` shows the global options, such as --output and --server.")
