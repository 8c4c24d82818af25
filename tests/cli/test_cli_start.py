"""The program as a process: start-up, help of every command, pipes."""

import itertools
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import imgstore
from imgstore.cli.framework.command import Command, Group
from imgstore.cli.main import main
from tests.support.sample_gallery import create_sample_gallery, open_home, publish

HEAVY = (
    "numpy",
    "boto3",
    "botocore",
    "sqlalchemy",
    "alembic",
    "yaml",
    "jmespath",
    "tqdm",
    "zstandard",
    "moto",
    "urllib3",
)


def commands(
    command: click.Command = main, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, (*words, name))


@pytest.mark.parametrize("line", [["--version"], ["--help"], ["storage", "list"], ["--nonsense"]])
def test_a_light_start(line: list[str]) -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            (
                "import atexit, sys; from imgstore.cli.main import main\n"
                f"atexit.register(lambda: print('loaded:', [m for m in {HEAVY} if m in sys.modules], file=sys.stderr))\n"
                f"main({line}, prog_name='imgstore')"
            ),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "loaded: []" in told.stderr, told.stderr


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one version of a small disk."""
    home = tmp_path_factory.mktemp("start") / "home"
    with open_home(home) as installation:
        create_sample_gallery(installation)
        (home / "disk.raw").write_bytes(bytes(range(256)) * 16)
        publish(installation, home / "disk.raw", targets=["westus2"], location="westus2")
    return home


WATCHED = {
    *HEAVY,
    "sqlalchemy.dialects.postgresql",
    "imgstore.cli.commands.galleries.image_version_changes",
    "imgstore.transfer",
}
RECORDS = {"sqlalchemy", "yaml"}
BYTES = RECORDS | {"numpy", "imgstore.transfer"}
DEFINITION = "-g rg -r g1 -i ubuntu"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("regions list", RECORDS),
        ("group list", RECORDS),
        ("sig list", RECORDS),
        ("sig image-definition list -g rg -r g1", RECORDS),
        ("sig image-version list -g rg -r g1 -i ubuntu", RECORDS),
        (f"sig image-version show {DEFINITION} -e 1.0.0", RECORDS),
        (
            f"sig image-version create {DEFINITION} -e 2.0.0 --os-vhd-uri disk.raw -l westus2",
            BYTES | {"imgstore.cli.commands.galleries.image_version_changes"},
        ),
        ("disk export --gallery-image-reference rg/g1/ubuntu -l westus2 --file out.raw", BYTES),
    ],
)
def test_a_command_loads_what_it_works_with(line: str, expected: set[str], furnished: Path) -> None:
    """On directories, SQLite and a catalog that is up to date: no client of S3, no other dialect, no migrations."""
    program = (
        "import atexit, sys; from imgstore.cli.main import main\n"
        f"atexit.register(lambda: print(*({WATCHED} & sys.modules.keys())))\n"
        "main(sys.argv[1:], prog_name='imgstore')"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, "--home", str(furnished), "-o", "none", *line.split()],
        cwd=furnished,
        env={name: value for name, value in os.environ.items() if not name.startswith("IMGSTORE_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert set(told.stdout.split()) == expected


def test_what_was_imported_is_out_of_the_collectors_way_and_the_collector_is_back() -> None:
    program = (
        "import atexit, gc; from imgstore.cli.main import main\n"
        "atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count() > 10_000))\n"
        "main(['regions', '--help'], prog_name='imgstore')"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == "True True"


def end_of(*lines: str, arguments: str = "--version", **how: Any) -> subprocess.CompletedProcess[str]:
    """The installed command's own process, with `lines` run before it begins."""
    program = "\n".join(("import atexit, sys", *lines, "from imgstore.cli.main import start", "start()"))
    words = [sys.executable, "-c", program, *arguments.split()]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(words, text=True, check=False, env=buffered, **({"capture_output": True} | how))


@pytest.mark.parametrize(("arguments", "code"), [("--version", 0), ("--nonsense", 2), ("inspect no-such-file", 1)])
def test_the_process_ends_with_the_code_and_output_of_the_command(arguments: str, code: int) -> None:
    kept = "class Kept:\n    def __del__(self): print('taken apart', file=sys.stderr)\nkept = Kept()"
    told = end_of(kept, arguments=arguments)
    assert told.returncode == code
    assert "taken apart" not in told.stderr, "nobody waits for that"
    assert told.stdout == f"imgstore {imgstore.__version__}\n" * (code == 0)


WAITING = "import imgstore.cli.main as cli\ncli.main.callback = lambda: atexit.register(print, 'left')"


def test_what_waits_for_the_end_is_called_before_it() -> None:
    assert end_of(WAITING, arguments="regions --help").stdout.endswith("left\n")


def test_output_to_a_full_device_is_no_success() -> None:
    with Path("/dev/full").open("w") as full:
        told = end_of(arguments="--version", stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert told.returncode not in {0, None}


def test_output_to_a_full_device_at_the_end_is_no_success() -> None:
    with Path("/dev/full").open("w") as full:
        told = end_of(
            WAITING, arguments="inspect no-such-file", stdout=full, stderr=subprocess.PIPE, capture_output=False
        )
    assert told.returncode == 120  # the interpreter's own, where a stream can't take what it holds
    assert "No space left on device" in told.stderr


@pytest.mark.parametrize("closed", [1, 2])
def test_a_stream_that_is_closed_from_the_start_is_no_matter(closed: int) -> None:
    words = [sys.executable, "-m", "imgstore", "--version"]
    shut = ["sh", "-c", f'exec "$@" {closed}>&-', "sh", *words]
    told = subprocess.run(shut, capture_output=True, text=True, check=True)
    assert told.stdout == f"imgstore {imgstore.__version__}\n" * (closed != 1)
    assert told.stderr == ""


def test_as_a_module() -> None:
    told = subprocess.run([sys.executable, "-m", "imgstore", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout == f"imgstore {imgstore.__version__}\n"


def test_what_the_issue_asks_for_is_there() -> None:
    expected = {
        "group create", "group list", "group show", "group delete",
        "sig create", "sig list", "sig show", "sig delete",
        "sig image-definition create", "sig image-definition list", "sig image-definition show",
        "sig update", "sig image-definition update",
        "sig image-definition delete", "sig image-version create", "sig image-version list",
        "sig image-version show", "sig image-version delete", "sig image-version update",
        "sig image-version list-soft-deleted", "sig image-version undelete", "sig image-version wait",
        "disk create", "disk list", "disk show", "disk delete", "disk export",
        "snapshot create", "snapshot list", "snapshot show", "snapshot delete",
        "image create", "image list", "image show", "image delete",
        "disk attach", "disk commit", "disk trace", "disk grant-access", "disk revoke-access",
        "vm create", "vm list", "vm show", "vm generalize", "vm delete",
        "vm start", "vm stop", "vm deallocate", "vm disk attach", "vm disk detach", "vm restart", "vm console", "vm get-instance-view",
        "vmss create", "vmss scale", "vmss show", "vmss list", "vmss list-instances", "vmss delete",
        "vmss update", "vmss update-instances", "vmss reimage",
        "vmss rolling-upgrade get-latest", "vmss rolling-upgrade cancel",
        "bill show", "bill correct", "bill explain", "bill reconcile", "regions list", "regions check", "regions init", "inspect", "verify", "quickstart",
        "gc", "scrub", "serve", "worker list", "account list", "monitor activity-log list", "bench", "auth init",
        "sig share add", "sig share remove", "sig share reset", "sig share enable-community",
        "sig list-shared", "sig list-community", "sig show-shared", "sig show-community",
        *(
            f"sig image-{inside} {verb}-{kind}"
            for inside in ("definition", "version") for verb in ("list", "show") for kind in ("shared", "community")
        ),
        "auth tenant create", "auth tenant list", "auth issuer add", "auth issuer list", "auth issuer remove",
        "auth keys list", "auth keys rotate", "auth sp create", "auth sp list", "auth sp show", "auth sp delete",
        "auth sp credential reset", "auth user create", "auth user list", "auth user delete",
            "auth sp revoke-tokens", "auth user revoke-tokens",
        "auth role assignment create", "auth role assignment list", "auth role assignment delete",
        "cache show", "cache clear", "settings show", "settings apply", "regions accept-catalog", "regions policy", "doctor", "status",
        "bill checkpoint", "bill export", "bill plot", "bill prove", "bill rotate-key", "bill seal", "bill verify", "prices list", "prices apply",
        "budget set", "budget show", "budget list", "budget delete",
        "catalog recovery-file", "catalog rebuild", "catalog adopt",
        "catalog backup", "catalog restore", "catalog copy",
        "operation list", "operation show", "operation cancel",
    }  # fmt: skip
    # Invariant H1.
    assert {" ".join(words) for words, command in commands() if isinstance(command, Command)} == expected


def test_every_command_has_help_with_an_example_and_the_root_has_the_global_options() -> None:
    for words, command in commands():
        result = CliRunner().invoke(main, [*words, "--help"], prog_name="imgstore")
        assert result.exit_code == 0, words
        assert "shows the global options" in result.stdout or not words, words
        assert ("--query" in result.stdout and "IMGSTORE_HOME" in result.stdout) == (not words), words
        if isinstance(command, Command):
            assert f"Example:\n  imgstore {' '.join(words)}" in result.stdout, words


def test_every_option_is_described() -> None:
    for words, command in commands():
        assert command.help, words
        for param in command.params:
            if isinstance(param, click.Option):
                assert param.help, (words, param.opts)


def test_the_list_of_commands_repeats_the_help_of_each_command() -> None:
    groups = [group for _, group in commands() if isinstance(group, Group)]
    for group in groups:
        for name, lazy in group.lazy.items():
            command = group.get_command(click.Context(group), name)
            assert command is not None
            assert (command.help or "").splitlines()[0] == lazy.summary


def test_examples_parse() -> None:
    """Each example's line is taken by its command's parser, up to the point where it would run.

    The program after a shell pipe is not of this project, and a file after ">" belongs to the shell.
    """
    for words, command in commands():
        if isinstance(command, Command):
            for line in command.example.replace("\\\n", " ").strip().splitlines():
                program, *args = itertools.takewhile(lambda word: word not in {"|", ">"}, shlex.split(line))
                assert program == "imgstore"
                assert tuple(args[: len(words)]) == words
                command.make_context(" ".join(words), args[len(words) :])


def test_a_reader_that_leaves_is_no_error_worth_words() -> None:
    program = "import sys; from imgstore.cli.main import main; main(['--help'], prog_name='imgstore')"
    writer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.close()
    assert writer.stderr.read() == b""
    writer.stderr.close()
    assert writer.wait() in (0, 1)


def test_groups_of_the_gallery_are_found() -> None:
    for _, command in commands():
        assert isinstance(command, Command | Group)
