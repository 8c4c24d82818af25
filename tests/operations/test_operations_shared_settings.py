"""Limits and maintenance settings of the installation: every process uses the settings in the catalog."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from imgstore.cli.main import main
from imgstore.domain.errors import InvalidInput
from imgstore.domain.progress import ProgressEvent
from imgstore.domain.settings.shared import as_document, differences, shared_values
from imgstore.operations.shared_settings import apply_settings, read_settings_file
from tests.support.sample_gallery import ADMIN, open_home

DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.engine("postgresql"))]


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of one catalog, for several homes."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shared/catalog.sqlite"
    return str(request.getfixturevalue("postgresql"))


def write(home: Path, text: str) -> None:
    home.mkdir(exist_ok=True)
    (home / "settings.toml").write_text(text)


def run(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, [*words, "--home", str(home)], prog_name="imgstore")


def body(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


TEXT = "[limits]\n# für alle\ngalleries_max = 7\n"


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + TEXT.encode(),
        TEXT.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
    ],
    ids=["mark", "line ends of Windows", "both", "carriage returns"],
)
def test_files_of_other_editors_are_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "settings.toml").write_bytes(content)
    assert read_settings_file(tmp_path / "settings.toml") == {"limits": {"galleries_max": 7}}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (TEXT.encode("utf-16"), "the file is UTF-16; save the file as UTF-8"),
        (TEXT.encode("utf-16-be"), "the file is UTF-16 or binary; save the file as UTF-8"),
        (TEXT.encode("latin-1"), "line 2 has the byte 0xfc, which is not UTF-8; save the file as UTF-8"),
    ],
)
def test_another_encoding_is_named(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "settings.toml").write_bytes(content)
    with pytest.raises(InvalidInput) as caught:
        read_settings_file(tmp_path / "settings.toml")
    assert caught.value.found == found


@pytest.mark.parametrize("value", [b"[" * 3000, b"9" * 5000], ids=["nested too deep", "a number that is too long"])
def test_a_value_that_python_cannot_read_is_refused(tmp_path: Path, value: bytes) -> None:
    (tmp_path / "settings.toml").write_bytes(b"a = " + value)
    with pytest.raises(InvalidInput, match=r"settings\.toml cannot be read"):
        read_settings_file(tmp_path / "settings.toml")


def test_settings_file_is_imported_once_and_applies_to_every_home(tmp_path: Path, database: str) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    heard: list[ProgressEvent] = []
    with open_home(two, database=database) as installation:
        assert installation.limits.galleries_max == 100
    write(one, "[limits]\ngalleries_max = 7\n[maintenance]\ngc_interval_seconds = 60\n")
    for home in (one, two):
        with open_home(home, heard.append, database=database) as installation:
            assert installation.limits.galleries_max == 7
            assert installation.maintenance.gc_interval_seconds == 60
    assert heard == []
    write(three, "[limits]\ngalleries_max = 9\n")
    with open_home(three, heard.append, database=database) as installation:
        assert installation.limits.galleries_max == 7, "a process does not count by its own file"
    (event,) = heard
    assert "limits.galleries_max (file: 9, installation: 7)" in event.detail
    assert "maintenance.gc_interval_seconds (file: not set, installation: 60)" in event.detail
    # Invariant E7.
    assert "imgstore settings apply" in event.detail


def test_limits_of_one_machine_are_not_shared(tmp_path: Path, database: str) -> None:
    heard: list[ProgressEvent] = []
    write(tmp_path / "one", "[limits]\ngalleries_max = 7\n[disk_space]\nupload_days_max = 3\n")
    write(tmp_path / "two", "[disk_space]\nupload_days_max = 4\n")
    with open_home(tmp_path / "one", heard.append, database=database) as installation:
        assert installation.space.upload_days_max == 3
    with open_home(tmp_path / "two", heard.append, database=database) as installation:
        assert (installation.space.upload_days_max, installation.limits.galleries_max) == (4, 7)
    assert heard == []


def test_settings_file_takes_effect_when_applied(tmp_path: Path) -> None:
    home = tmp_path / "home"
    write(home, '[limits]\npreset = "azure-2026"\ngalleries_max = 1\n')
    shown = {each["name"]: each for each in body(run(home, "settings", "show"))}
    assert shown["limits.galleries_max"] == {"name": "limits.galleries_max", "value": 1, "isSet": True, "inFile": 1}
    assert shown["limits.replicas_per_version_max"]["value"] == 100
    assert not shown["maintenance.gc_interval_seconds"]["isSet"]
    write(home, "[limits]\ngalleries_max = 2\n")
    told = run(home, "settings", "show")
    assert "limits.galleries_max (file: 2, installation: 1)" in told.output
    changed = body(run(home, "settings", "apply"))
    assert changed == [
        {"name": "limits.galleries_max", "before": 1, "after": 2},
        {"name": "limits.preset", "before": "azure-2026", "after": None},
    ]
    assert body(run(home, "settings", "apply")) == []
    with open_home(home) as installation:
        assert (installation.limits.galleries_max, installation.limits.replicas_per_version_max) == (2, None)
        with installation.catalog.reading() as transaction:
            assert [row.action for row in transaction.activity.list(9)].count("imgstore/settings/apply") == 2
    (home / "settings.toml").unlink()
    refused = run(home, "settings", "apply")
    assert refused.exit_code == 1
    assert "There is no settings file" in refused.output
    (tmp_path / "team.toml").write_text("[limits]\n")
    assert [each["after"] for each in body(run(home, "settings", "apply", "--file", str(tmp_path / "team.toml")))] == [
        None
    ]


def test_invalid_settings_file_changes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    write(home, "[limits]\ngalleries_max = 1\n")
    with open_home(home) as installation:
        write(home, "[limits]\ngalleries_max = 0\n")
        with pytest.raises(InvalidInput, match=r"limits\.galleries_max"):
            apply_settings(installation, ADMIN)
        with installation.catalog.reading() as transaction:
            assert transaction.settings.all() == {"limits.galleries_max": 1}


def test_values_and_documents() -> None:
    document = {"limits": {"a": 1}, "maintenance": {"b": 2}, "replication": {"d": 4}, "disk_space": {"c": 3}}
    values = shared_values(document)
    assert values == {"limits.a": 1, "maintenance.b": 2, "replication.d": 4}
    assert as_document(values) == {"limits": {"a": 1}, "maintenance": {"b": 2}, "replication": {"d": 4}}
    assert differences(values, values) == []
    assert [each.key for each in differences(values, {"limits.a": 2})] == ["limits.a", "maintenance.b", "replication.d"]
