"""Tables fit 100 columns, whatever the names are, and lose nothing."""

import shlex
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from imgstore.cli.framework.output import table_text
from imgstore.cli.framework.table_layout import TABLE_COLUMNS_MAX, text_columns
from imgstore.cli.main import main
from imgstore.domain.storage.sizes import MIB
from tests.support.sample_disks import make_raw

CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=300),
    st.from_regex(r"[A-Za-z0-9-]{1,120}", fullmatch=True),
)
HEADINGS = st.text(st.characters(categories=["L", "N"]), max_size=130)


def columns_of(line: str) -> int:
    """Count as terminals do: format characters and marks have no column, except the soft hyphen."""
    return sum(
        0
        if (unicodedata.combining(each) or unicodedata.category(each) in {"Cf", "Me", "Mn"}) and each != "\u00ad"
        else 2
        if unicodedata.east_asian_width(each) in "FW"
        else 1
        for each in line
    )


def check_fits(text: str) -> None:
    for line in text.split("\n"):
        assert columns_of(line) <= TABLE_COLUMNS_MAX, line


@given(st.lists(HEADINGS, min_size=1, max_size=18, unique=True).flatmap(
    lambda names: st.lists(st.fixed_dictionaries(dict.fromkeys(names, CELLS)), min_size=1, max_size=4)
))  # fmt: skip
def test_any_table_fits_and_loses_no_letter(rows: list[dict[str, object]]) -> None:
    text = table_text(rows) or ""
    check_fits(text)
    printed = "".join(text.split())
    for row in rows:
        for value in row.values():
            if isinstance(value, str):
                letters = {each for each in value if each.isalnum()}
                assert letters <= set(printed)


def test_a_table_that_fits_is_not_wrapped() -> None:
    rows = [{"Name": "a" * 90, "Number": 12345678}]
    assert table_text(rows) == f"Name{' ' * 86}    Number\n{'-' * 90}  --------\n{'a' * 90}  12345678"


def test_the_widest_texts_are_wrapped_and_numbers_are_not() -> None:
    rows = [{"Name": "n" * 80, "Bytes": 10**12, "Problem": "the store is full " * 8}]
    lines = (table_text(rows) or "").split("\n")
    assert all(len(line) <= TABLE_COLUMNS_MAX for line in lines)
    assert sum("1000000000000" in line for line in lines) == 1
    assert "the store is full" in lines[2]
    assert sum(line.partition("  ")[0].count("n") for line in lines[2:]) == 80


def test_a_table_with_too_many_columns_becomes_blocks() -> None:
    rows = [{f"Heading{number:02}": number for number in range(12)} | {"Empty": None} for _ in range(2)]
    first, second = (table_text(rows) or "").split("\n\n")
    assert first == second
    assert first.split("\n")[:2] == ["Heading00  0", "Heading01  1"]
    assert "Empty" not in first


def test_a_soft_hyphen_takes_a_column() -> None:
    assert text_columns("a\u00adb") == 3
    check_fits(table_text([{"Name": "a\u00ad" * 80, "Tag": "\u0301b" * 80}]) or "")


def test_wide_characters_take_two_columns() -> None:
    assert text_columns("日本") == 4
    check_fits(table_text([{"Name": "日本語" * 40, "Tag": "e\u0301" * 30}]) or "")


# -- every list of the command line -----------------------------------------------------------------------------------

LONG = "n" * 79
GROUP = "g" * 89
REGION = "r" * 62
REGIONS = """
currency: USD
regions:
  {region}:
    display_name: "{display}"
    bucket: {bucket}
    policy: LRS
    storage_account_types: [Standard_LRS, Premium_LRS]
    zones: {{"zone-name-16-chr": {{}}}}
  remote:
    bucket: {bucket}-remote
    policy: LRS
    storage_account_types: [Standard_LRS]
    zones: {{"1": {{endpoint: "http://{host}.invalid:9000"}}}}
prices: {{egress_per_gb: {{default: 0}}, storage_per_gb_month: {{Standard_LRS: 1, Premium_LRS: 1}}}}
"""
VIEWS = {
    "account list": "",
    "auth issuer list": "",
    "auth keys list": "",
    "auth role assignment list": "",
    "auth sp list": "",
    "auth sp show": f"--id {LONG}",
    "auth tenant list": "",
    "auth user list": "",
    "bill show": "",
    "bill show --by version": "",
    "budget list": "",
    "budget show": "",
    "cache show": "",
    "disk list": "",
    "disk show": f"-g {GROUP} -n {LONG}",
    "gc": "--dry-run",
    "gc --unknown": "",
    "group list": "",
    "group show": f"-n {GROUP}",
    "image list": "",
    "image show": f"-g {GROUP} -n {LONG}",
    "inspect": "{disk}",
    "monitor activity-log list": "",
    "operation list": "",
    "prices list": "",
    "regions check": "",
    "regions list": "",
    "scrub": "--dry-run",
    "settings show": "",
    "sig image-definition list": f"-g {GROUP} -r {LONG}",
    "sig image-definition show": f"-g {GROUP} -r {LONG} -i {LONG}",
    "sig image-version list": f"-g {GROUP} -r {LONG} -i {LONG}",
    "sig image-version list-soft-deleted": f"-g {GROUP} -r {LONG} -i {LONG}",
    "sig image-version show": f"-g {GROUP} -r {LONG} -i {LONG} -e 1.0.0",
    "sig list": "",
    "sig show": f"-g {GROUP} -r {LONG}",
    "snapshot list": "",
    "snapshot show": f"-g {GROUP} -n {LONG}",
    "vm list": "--show-details",
    "vm show": f"-g {GROUP} -n {LONG[:64]} --show-details",
    "vmss list": "",
    "vmss list-instances": f"-g {GROUP} -n {LONG[:64]}",
    "vmss show": f"-g {GROUP} -n {LONG[:64]}",
    "worker list": "",
}
BY_SERVER = ("shared", "community")
"""The last words of commands that need a server. Their tables are those of `sig list` and of the definitions."""


def views(group: click.Group, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command that lists, shows or checks something."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from views(command, (*above, name))
        elif name.partition("-")[0] in {"list", "show", "check"} and not name.endswith(BY_SERVER):
            yield " ".join((*above, name))


def test_each_view_is_in_the_table() -> None:
    assert set(views(main)) - {"operation show"} <= set(VIEWS), "add the command to VIEWS"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which every name is as long as possible."""
    home = tmp_path_factory.mktemp("long") / "home"
    home.mkdir()
    document = REGIONS.format(region=REGION, display="D" * 100, bucket="b" * 50, host="h" * 60)
    (home / "regions.yaml").write_text(document)
    disk = make_raw(home / ("d" * 100 + ".raw"), seed=1, virtual_bytes=4 * MIB, content_bytes=MIB)
    tags = " ".join(f"{'t' * 100}{number}={'v' * 200}" for number in range(3))
    issuer = f"--issuer https://{'i' * 60}.example/{'realm' * 20}"
    subscription = run(home, "account list --query [0].id -o tsv").stdout.strip()
    definition = f"-g {GROUP} -r {LONG} -i {LONG}"
    scope = f"/subscriptions/{subscription}/resourceGroups/{GROUP}"
    for line in (
        f"group create -n {GROUP} -l {REGION} --tags {tags}",
        f"sig create -g {GROUP} -r {LONG} -l {REGION} --tags {tags} --description '{'long words ' * 40}'",
        f"sig image-definition create {definition} -p {LONG} -f {LONG[:64]} -s {LONG[:64]} --os-type Linux --tags {tags}",
        f"sig image-version create {definition} -e 1.0.0 --os-vhd-uri {disk}",
        f"disk create -g {GROUP} -n {LONG} --gallery-image-reference {GROUP}/{LONG}/{LONG}/1.0.0 -l {REGION} --tags {tags}",
        f"snapshot create -g {GROUP} -n {LONG} --source {disk} -l {REGION}",
        f"image create -g {GROUP} -n {LONG} --source {LONG} --os-type Linux",
        f"vm create -g {GROUP} -n {LONG[:64]} --attach-os-disk {LONG} --os-type Linux",
        f"vmss create -g {GROUP} -n {LONG[:64]} --image {GROUP}/{LONG}/{LONG}/1.0.0 --admin-username {'u' * 60} --tags {tags}",
        "budget set --amount 999999999.99 --at-limit warn",
        "auth init",
        f"auth tenant create -n {LONG}",
        f"auth sp create -n {LONG}",
        f"auth issuer add {issuer} --audience {LONG} --jwks https://{'j' * 60}.example/{'keys' * 20}",
        f"auth user create -n user-{LONG} {issuer} --subject {'u' * 120}",
        f"auth role assignment create --assignee {LONG} --role Contributor --scope {scope}",
    ):
        result = run(home, line)
        assert result.exit_code == 0, f"{line}\n{result.output}"
    return home


def run(home: Path, line: str) -> Result:
    words = [*shlex.split(line), "--home", str(home), "--regions", str(home / "regions.yaml")]
    return CliRunner().invoke(main, words, prog_name="imgstore")


@pytest.mark.parametrize("view", VIEWS)
def test_each_list_fits(home: Path, view: str) -> None:
    disk = home / ("d" * 100 + ".raw")
    result = run(home, f"{view} {VIEWS[view].format(disk=disk)} -o table")
    assert result.exit_code == (1 if view == "regions check" else 0), result.output
    check_fits(result.stdout)
