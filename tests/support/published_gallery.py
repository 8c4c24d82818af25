"""Fixtures of a gallery with one published version, created once and copied for each test.

A plugin (``pytest_plugins = ["tests.support.published_gallery"]``) for the tests of operations and of faults.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgstore.domain.storage.sizes import KIB, MIB
from imgstore.operations.installation import Installation
from tests.support.sample_disks import make_raw, patch_disk
from tests.support.sample_gallery import SampleImages, create_sample_gallery, open_home, publish


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> SampleImages:
    """Disks and a home, created once per run."""
    folder = tmp_path_factory.mktemp("samples")
    odd = 24 * MIB + KIB // 2
    first = make_raw(folder / "first.raw", seed=1, virtual_bytes=odd)
    second = patch_disk(first, folder / "second.raw", seed=2)
    rebuilt = make_raw(folder / "rebuilt.raw", seed=1, layout=3, virtual_bytes=odd)
    with open_home(folder / "home") as installation:
        create_sample_gallery(installation)
        publish(installation, first)
    return SampleImages(first=first, second=second, rebuilt=rebuilt, home=folder / "home")


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Installation]:
    """A new home with the gallery and its definition."""
    with open_home(tmp_path / "home") as installation:
        create_sample_gallery(installation)
        yield installation


@pytest.fixture
def published(tmp_path: Path, samples: SampleImages) -> Iterator[Installation]:
    """A copy of the home with the published version."""
    shutil.copytree(samples.home, tmp_path / "home")
    with open_home(tmp_path / "home") as installation:
        yield installation
