"""Any word at any place of a line: it is done or refused in words, and never with "this error is unexpected"."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from imgstore.cli.framework.global_options import GlobalOption
from imgstore.cli.main import main
from tests.support.sample_disks import make_raw
from tests.support.sample_gallery import DEFINITION, GALLERY, GROUP, create_sample_gallery, open_home, publish

RUNS_ON = {"serve", "worker", "bench", "quickstart", "wait"}
"""Commands that run until they are ended or until something happens, or for minutes."""

VALUES = [
    "", " ", "\udcff", "a\udc80b", "\0", "²", "-1", "0", "-0", "1.5", "1e999", "NaN", "9" * 30, "9" * 5_000, "2147483648",
    "https://[/x", "https://a..b/x", "https://a:99999/x", "s3://[/x", "file://[/x", "//[x", "x" * 5_000, "é" * 300,
    "0001-01-01", "9999-12-31T23:59:59-14:00", "2090-02-30", "a=1e999", "a=" + "9" * 5_000, "tags.a=NaN", "1e12", "1e6", "tags.a=[1e999]",
    'properties.description="\\ud800"', "a=" + "[" * 5_000, "tags=" + "[" * 5_000, "[", "]", "{", "%00", "=", "=x", "==", "a=b=c=d=e",
    "eastus=" + "9" * 5_000, "eastus=²", "99999999999999999999.0.0", "/subscriptions/[/x", "rg/g/d/1e999",
    "WyIiLCJcdWQ4MDAiXQ", "W1tbW1s", "é",
]  # fmt: skip
PLAUSIBLE = {
    "group": GROUP,
    "gallery": GALLERY,
    "definition": DEFINITION,
    "version": "1.0.0",
    "reference": f"{GROUP}/{GALLERY}/{DEFINITION}",
    "location": "southcentralus",
    "name": "n1",
    "os_type": "Linux",
    "publisher": "p",
    "offer": "o",
    "sku": "s",
    "duration_in_seconds": "60",
}


def commands(group: click.Group, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with its words."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from commands(command, (*above, name))
        elif command is not None and name not in RUNS_ON:
            yield (*above, name), command


COMMANDS = list(commands(main))
PLACES = [
    (words, command, param)
    for words, command in COMMANDS
    for param in command.params
    if param.name not in ("help", "output", "version_", "home", "debug", "database", "regions")
    or not isinstance(param, GlobalOption)
]


def line(home: Path, words: tuple[str, ...], command: click.Command, param: click.Parameter, value: str) -> list[str]:
    """A line of a command with plausible words for what it needs, and `value` at one place."""
    said, arguments = list(words), []
    for each in command.params:
        word = value if each is param else PLAUSIBLE.get(each.name or "", "x")
        if isinstance(each, click.Argument):
            arguments += [word] if each.required or each is param else []
        elif each is param and isinstance(each, click.Option) and each.is_flag:
            said += [each.opts[0]]
        elif each is param or each.required:
            said += [f"{each.opts[-1]}={word}"]
    return [
        *said,
        "--home",
        str(home),
        "--yes" if any("--yes" in each.opts for each in command.params) else "--verbose",
        "--",
        *arguments,
    ]


def check(home: Path, where: tuple[tuple[str, ...], click.Command, click.Parameter], value: str) -> None:
    said = line(home, *where, value)
    result = CliRunner().invoke(main, said, prog_name="imgstore", input="")
    shown = (said, result.output[-2_000:], result.exception)
    assert "error is unexpected" not in result.output, shown
    assert result.exception is None or isinstance(result.exception, SystemExit), shown
    assert result.exit_code in (0, 1, 2, 3), shown


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a gallery and a version."""
    folder = tmp_path_factory.mktemp("values")
    make_raw(folder / "disk.raw", seed=1, virtual_bytes=8 << 20, content_bytes=1 << 20)
    with open_home(folder / "home") as installation:
        create_sample_gallery(installation)
        publish(installation, folder / "disk.raw", targets=("southcentralus",))
    return folder / "home"


@settings(
    max_examples=200,
    database=None,
    deadline=None,
    phases=(Phase.generate,),
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.function_scoped_fixture),
)
@given(where=st.sampled_from(PLACES), value=st.sampled_from(VALUES))
def test_no_word_is_an_internal_error(
    home: Path, where: tuple[tuple[str, ...], click.Command, click.Parameter], value: str
) -> None:
    check(home, where, value)


@pytest.mark.parametrize(
    "words", [("gc", "--grace-hours"), ("gc", "--work-abandon-days"), ("snapshot", "create", "--source")]
)
@pytest.mark.parametrize("value", ["1e999", "nan", "1e12", "x" * 5_000])
def test_numbers_without_end_and_long_names_are_refused(home: Path, words: tuple[str, ...], value: str) -> None:
    places = {(*path, option): (path, command, param) for path, command, param in PLACES for option in param.opts}
    check(home, places[words], value)


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value[:20]))
def test_no_word_at_any_place_is_an_internal_error(home: Path, value: str) -> None:
    for where in PLACES:
        check(home, where, value)
