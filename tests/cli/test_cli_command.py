"""az's manners, on commands made for the purpose: what click is told, and what it must not be told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from imgstore.cli.framework import global_options, options, unsupported
from imgstore.cli.framework.command import Answer, Command, Group, SwitchOption, WordsOption
from imgstore.cli.main import RootGroup
from imgstore.domain.errors import ImageNotAvailable, InvalidInput
from imgstore.domain.resources import OsType
from imgstore.wire.json_text import Json
from imgstore.wire.requests.arguments import parse_tags

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("IMGSTORE_HOME", "IMGSTORE_REGIONS", "IMGSTORE_DATABASE", "IMGSTORE_SUBSCRIPTION", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def run() -> Run:
    """`imgstore sig echo ...`: prints what it was given; `imgstore sig fail` raises what it was told to."""

    @click.group(cls=RootGroup, name="imgstore")
    def root() -> None:
        """Root."""

    @root.group("sig", cls=Group)
    def sig() -> None:
        """A group."""

    @sig.command("create", example="imgstore sig create -n x")
    @click.option("-n", "--name")
    @click.option("--target-regions", cls=WordsOption)
    @click.option("--tags", cls=WordsOption, parse=parse_tags)
    @click.option("--set", "set_", cls=WordsOption)
    @click.option("--exclude-from-latest", cls=SwitchOption)
    @click.option("--count", type=int)
    @click.option("--flag", is_flag=True)
    @options.choice("--os-type", members=tuple(OsType))
    @click.argument("words", nargs=-1)
    def create(**given: Any) -> Json:
        """Print what was given."""
        kept = global_options.of(click.get_current_context())
        told = {"home": str(kept.home), "homeGiven": kept.home_given, "regions": str(kept.regions or "")}
        told |= {"database": kept.database or "", "subscription": kept.subscription or "", "debug": kept.debug}
        return {key: value for key, value in given.items() if value not in (None, (), False)} | {"kept": told}

    @sig.command("fail", example="imgstore sig fail")
    @click.argument("how")
    def fail(how: str) -> Json:
        """Fail in a certain way."""
        if how == "answer":
            return Answer(body={"matches": False}, exit_code=1)
        raise {
            "input": InvalidInput("Bad value.", found="1", expected="2", hint="give 2"),
            "absent": ImageNotAvailable("Not there."),
            "bug": ZeroDivisionError("1/0"),
            "interrupt": KeyboardInterrupt(),
            "noted": noted(InvalidInput("Bad value.")),
        }[how]

    def invoke(*args: str, **env: str) -> Result:
        return CliRunner().invoke(root, args, prog_name="imgstore", env=env)

    return invoke


def noted(error: Exception) -> Exception:
    error.add_note("the disk stays")
    return error


def given(result: Result) -> dict[str, Any]:
    import json

    assert result.exit_code == 0, result.output
    body: dict[str, Any] = json.loads(result.stdout)
    return body


def test_words_stand_apart_up_to_the_next_option(run: Run) -> None:
    line = "sig create --target-regions a b=2 c=1=standard_zrs --tags k=v k2=v2 --set x=1 y.z=2 -n name"
    body = given(run(*line.split()))
    assert body["target_regions"] == ["a", "b=2", "c=1=standard_zrs"]
    assert body["tags"] == {"k": "v", "k2": "v2"}
    assert body["set_"] == ["x=1", "y.z=2"]
    assert body["name"] == "name"


def test_words_may_contain_spaces_and_be_repeated(run: Run) -> None:
    body = given(
        run("sig", "create", "--target-regions", "West US 2=2", "b", "--flag", "--target-regions=c", "--", "d")
    )
    assert body["target_regions"] == ["West US 2=2", "b", "c"]
    assert body["words"] == ["d"]
    assert body["flag"] is True


def test_a_list_without_words_is_given_but_empty(run: Run) -> None:
    for line in ("sig create --tags -n x", "sig create -n x --tags"):
        assert given(run(*line.split()))["tags"] == {}
    assert "tags" not in given(run("sig", "create", "-n", "x"))


def test_a_value_may_look_like_an_option(run: Run) -> None:
    body = given(run("sig", "create", "--name", "--tags", "--count", "-1", "--target-regions", "-2", "x"))
    assert body["name"] == "--tags"
    assert body["count"] == -1
    assert body["target_regions"] == ["-2", "x"]


@pytest.mark.parametrize(
    ("words", "value"), [("", None), ("--exclude-from-latest", True), ("--exclude-from-latest true", True),
                         ("--exclude-from-latest=TRUE -n x", True), ("--exclude-from-latest -n x", True)]
)  # fmt: skip
def test_a_switch_takes_a_value_or_none(run: Run, words: str, value: bool | None) -> None:
    assert given(run("sig", "create", *words.split())).get("exclude_from_latest") is value


def test_a_switch_can_be_turned_off(run: Run) -> None:
    result = run("sig", "create", "--exclude-from-latest", "false", "-n", "x", "--query", "exclude_from_latest")
    assert result.exit_code == 0, result.output
    assert run("sig", "create", "--exclude-from-latest", "maybe").exit_code == 2


def test_members_match_in_any_case_and_others_are_refused(run: Run) -> None:
    assert given(run("sig", "create", "--os-type", "LINUX"))["os_type"] == "Linux"
    result = run("sig", "create", "--os-type", "Plan9")
    assert result.exit_code == 2
    assert "Linux, Windows" in result.stderr


@pytest.mark.parametrize("line", ["--home /h sig create -n x", "sig --home /h create -n x", "sig create --home /h -n x",
                                  "sig create -n x --home /h", "--home /g sig create -n x --home=/h"])  # fmt: skip
def test_global_options_stand_anywhere_and_the_rightmost_wins(run: Run, line: str) -> None:
    kept = given(run(*line.split(), IMGSTORE_HOME="/from/environment"))["kept"]
    assert (kept["home"], kept["homeGiven"]) == ("/h", True)


def test_the_environment_replaces_global_options(run: Run) -> None:
    kept = given(
        run(
            "sig", "create", IMGSTORE_HOME="/h", IMGSTORE_REGIONS="/r", IMGSTORE_DATABASE="d", IMGSTORE_SUBSCRIPTION="s"
        )
    )["kept"]
    assert kept == {
        "home": "/h", "homeGiven": True, "regions": "/r", "database": "d", "subscription": "s", "debug": False,
    }  # fmt: skip


def test_the_home_is_by_xdg(run: Run, tmp_path: Path) -> None:
    assert given(run("sig", "create"))["kept"]["home"] == str(tmp_path / ".local/share/imgstore")
    assert given(run("sig", "create", XDG_DATA_HOME="/data"))["kept"]["home"] == "/data/imgstore"
    relative = given(run("sig", "create", XDG_DATA_HOME="data", IMGSTORE_HOME=""))["kept"]
    assert relative["home"] == str(tmp_path / ".local/share/imgstore"), "the specification: ignore what is relative"
    assert relative["homeGiven"] is False


@pytest.mark.parametrize("line", ["--version", "sig --version", "sig create --version -n x"])
def test_the_version_is_printed_anywhere(run: Run, line: str) -> None:
    result = run(*line.split())
    assert result.exit_code == 0
    assert result.stdout.startswith("imgstore 0.")


@pytest.mark.parametrize("flag", ["--mi-user-assigned", "--ids", "--no-wait", "--soft-delete-grace=3"])
def test_what_only_az_has_is_refused_by_name(run: Run, flag: str) -> None:
    result = run("sig", "create", "-n", "x", flag, "private")
    assert result.exit_code == 2
    assert f"{flag.partition('=')[0]} of 'az sig create' is not supported by imgstore." in result.stderr
    assert result.stdout == ""


def test_a_command_that_only_az_has_is_refused_by_name(run: Run) -> None:
    result = run("sig", "identity", "assign")
    assert result.exit_code == 2
    assert "'az sig identity' is not supported by imgstore." in result.stderr
    assert "'az storage' is not supported by imgstore." in run("storage", "list").stderr


def test_slips_get_a_suggestion(run: Run) -> None:
    result = run("sig", "create", "--target-region", "a")
    assert result.exit_code == 2
    assert "--target-regions" in result.stderr
    result = run("sig", "craete")
    assert result.exit_code == 2
    assert "Did you mean 'create'?" in result.stderr


def test_an_error_has_found_expected_and_hint(run: Run) -> None:
    result = run("sig", "fail", "input")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "ERROR: (InvalidParameter) Bad value.\n  found: 1\n  expected: 2\n  what to do: give 2\n"


def test_what_is_not_found_has_an_exit_code_of_its_own(run: Run) -> None:
    result = run("sig", "fail", "absent")
    assert result.exit_code == 3
    assert result.stderr.startswith("ERROR: (GalleryImageNotFound) Not there.")


def test_a_bug_prints_a_short_message_and_a_traceback_with_debug(run: Run) -> None:
    result = run("sig", "fail", "bug")
    assert result.exit_code == 1
    assert "ZeroDivisionError: 1/0" in result.stderr
    assert "--debug" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in run("sig", "fail", "bug", "--debug").stderr
    assert "Traceback" in run("--debug", "sig", "fail", "input").stderr


def test_an_interruption_reports_the_present_state(run: Run) -> None:
    result = run("sig", "fail", "interrupt")
    assert result.exit_code == 130
    assert result.stderr.strip() == "Interrupted. Run the same command again to resume."


def test_notes_on_an_error_are_printed(run: Run) -> None:
    assert run("sig", "fail", "noted").stderr.endswith("\n  the disk stays\n")


def test_an_answer_can_be_printed_and_yet_be_a_failure(run: Run) -> None:
    result = run("sig", "fail", "answer")
    assert result.exit_code == 1
    assert '"matches": false' in result.stdout


def test_a_query_is_checked_before_any_work(run: Run) -> None:
    result = run("sig", "fail", "bug", "--query", "a[")
    assert result.exit_code == 2
    assert "not a JMESPath" in result.stderr
    assert "ZeroDivisionError" not in result.stderr


def test_verbose_prints_the_duration(run: Run) -> None:
    assert "Command ran in" in run("sig", "create", "--verbose").stderr
    assert run("sig", "create").stderr == ""


def test_help_shows_options_global_options_and_an_example(run: Run) -> None:
    for flag in ("-h", "--help"):
        text = run("sig", "create", flag).stdout
        assert text.index("Options:") < text.index("--name") < text.index("shows the global options")
        assert "--query" not in text
        assert "Example:\n  imgstore sig create -n x" in text


def test_no_own_command_is_listed_as_az_only() -> None:
    from imgstore.cli.main import main

    for words, refused in unsupported.az_only_words().items():
        command: click.Command | None = main
        for word in words.split():
            assert isinstance(command, click.Group)
            command = command.get_command(click.Context(command), word)
        assert command is not None, words
        ours = {name for param in command.params for name in param.opts}
        if isinstance(command, Group):
            ours |= set(command.list_commands(click.Context(command)))
        else:
            assert isinstance(command, Command)
        assert not ours & refused, words
