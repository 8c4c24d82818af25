"""Concurrent creation and update of galleries, on a database with concurrent transactions."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from imgstore.domain.errors import Conflict
from imgstore.domain.resources import Gallery, ImageDefinition
from imgstore.domain.settings.limits import Limits
from imgstore.domain.views import DefinitionPath
from imgstore.operations.gallery import definitions, galleries
from imgstore.operations.installation import Installation
from tests.support.sample_gallery import ADMIN, DEFINITION, GALLERY, GROUP, create_sample_gallery, open_home

pytestmark = pytest.mark.engine("postgresql")


@pytest.fixture
def shared(postgresql: str, tmp_path: Path) -> Iterator[Installation]:
    with open_home(tmp_path / "home", database=postgresql, limits=Limits(galleries_max=3)) as installation:
        create_sample_gallery(installation)
        yield installation


def test_last_place_is_given_only_once(shared: Installation) -> None:
    def make(number: int) -> str:
        try:
            galleries.create_gallery(shared, ADMIN, group=GROUP, name=f"more{number}")
        except Conflict as error:
            return error.error_code
        return "made"

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(make, range(8))) == ["QuotaExceeded"] * 6 + ["made"] * 2
    assert len(galleries.list_galleries(shared, ADMIN)) == 3


def test_concurrent_updates_of_a_gallery_are_both_kept(shared: Installation) -> None:
    place = {"group": GROUP, "name": GALLERY}

    def tagged() -> None:
        galleries.update_gallery(shared, ADMIN, lambda gallery: replace(gallery, tags={"a": "b"}), **place)

    second = Thread(target=tagged)

    def described(gallery: Gallery) -> Gallery:
        second.start()
        second.join(0.5)  # it ends here only if it did not wait for this transaction
        return replace(gallery, description="d")

    galleries.update_gallery(shared, ADMIN, described, **place)
    second.join()
    both = galleries.show_gallery(shared, ADMIN, **place)
    assert (both.description, dict(both.tags)) == ("d", {"a": "b"})


def test_concurrent_updates_of_a_definition_are_both_kept(shared: Installation) -> None:
    place = {"group": GROUP, "gallery": GALLERY, "name": DEFINITION}

    def tagged() -> None:
        definitions.update_definition(shared, ADMIN, lambda line: replace(line.definition, tags={"a": "b"}), **place)

    second = Thread(target=tagged)

    def described(line: DefinitionPath) -> ImageDefinition:
        second.start()
        second.join(0.5)  # it ends here only if it did not wait for this transaction
        return replace(line.definition, description="d")

    definitions.update_definition(shared, ADMIN, described, **place)
    second.join()
    both = definitions.show_definition(shared, ADMIN, **place).definition
    assert (both.description, dict(both.tags)) == ("d", {"a": "b"})
