"""Catalog queries of a read of a version, and the errors for missing resources."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from imgstore.domain.errors import ImgstoreError
from imgstore.domain.names import VersionName
from imgstore.operations.gallery import versions as gallery_versions
from imgstore.operations.installation import Installation
from tests.support.sample_gallery import ADMIN, DEFINITION, GALLERY, GROUP, create_sample_gallery, open_home, publish

PLACE: dict[str, Any] = {"group": GROUP, "gallery": GALLERY, "definition": DEFINITION}


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    with open_home(tmp_path / "home") as opened:
        create_sample_gallery(opened)
        disk = tmp_path / "disk.raw"
        disk.write_bytes(bytes(range(256)) * 4096)
        publish(opened, disk)
        yield opened


@contextmanager
def asked(engine: Engine) -> Iterator[list[str]]:
    """The first words of the statements that are run meanwhile."""
    words: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        words.append(statement.split(maxsplit=1)[0])

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield words
    finally:
        event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize(("replicas", "looks"), [(False, 1), (True, 3)])
def test_version_is_read_by_one_query_and_replicas_by_another(
    installation: Installation, *, replicas: bool, looks: int
) -> None:
    """What its zones miss is a third look, since one replica lies in three.

    Nothing else is said on the connection: a PRAGMA would make SQLite forget the statements that it has prepared.
    """
    whole = gallery_versions.show_version(installation, ADMIN, **PLACE, version=VersionName(1, 0, 0))
    with asked(installation.catalog._database.readers) as words:
        seen = gallery_versions.show_version(
            installation, ADMIN, **PLACE, version=VersionName(1, 0, 0), replicas=replicas
        )
    assert words == ["BEGIN", *["SELECT"] * looks]
    assert (seen.version, seen.definition_path) == (whole.version, whole.definition_path)
    assert whole.replicas
    assert seen.replicas == (whole.replicas if replicas else ())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"group": "none"}, f"Parent resource '{GALLERY}' not found"),
        ({"gallery": "none"}, "Parent resource 'none' not found"),
        ({"definition": "none"}, "The image definition 'none' was not found"),
        ({"version": VersionName(1, 0, 1)}, "The image version '1.0.1' was not found"),
    ],
)
def test_error_names_the_missing_resource(installation: Installation, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ImgstoreError, match=said):
        gallery_versions.show_version(installation, ADMIN, **{**PLACE, "version": VersionName(1, 0, 0), **change})
