"""After any sequence of commands, and rebuilds between them, a rebuilt catalog equals the lost catalog (K6)."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgstore.bootstrap import Settings, open_rebuild
from imgstore.domain.errors import ImgstoreError
from imgstore.domain.progress import ignore_event
from imgstore.operations.disks.disks import delete_disk
from imgstore.operations.gallery import galleries, groups
from imgstore.operations.installation import Installation
from imgstore.operations.maintenance.revision_upkeep import write_all_revisions
from imgstore.operations.recovery.rebuild import rebuild_catalog
from imgstore.operations.recovery.recovery_file import read_present_keys
from tests.support.catalog_dump import dump, remove_catalog
from tests.support.sample_gallery import (
    ADMIN,
    GROUP,
    SampleImages,
    audit,
    delete,
    make_disk,
    open_home,
    retarget,
    update,
)

pytest_plugins = ["tests.support.published_gallery"]

COMMANDS: dict[str, Callable[[Installation, str], object]] = {
    "create group": lambda home, name: groups.create_group(home, ADMIN, name=name, location="eastus", tags={"a": name}),
    "delete group": lambda home, name: groups.delete_group(home, ADMIN, name=name),
    "create gallery": lambda home, name: galleries.create_gallery(
        home, ADMIN, group=GROUP, name=name, location="eastus"
    ),
    "delete gallery": lambda home, name: galleries.delete_gallery(home, ADMIN, group=GROUP, name=name),
    "create disk": lambda home, name: make_disk(home, name, "eastus"),
    "delete disk": lambda home, name: delete_disk(home, ADMIN, group=GROUP, name=name),
    "tag": lambda home, name: update(home, tags={"t": name}),
    "fewer regions": lambda home, _: retarget(home, ["southcentralus", "eastus"]),
    "more regions": lambda home, _: retarget(home, ["southcentralus=2", "eastus"]),
    "delete version": lambda home, _: delete(home),
}
STEPS = st.lists(st.tuples(st.sampled_from([*COMMANDS, "rebuild"]), st.sampled_from(["x", "y"])), max_size=12)


def rebuild_and_compare(home: Path) -> None:
    """Lose the catalog, rebuild the catalog, and compare."""
    with open_home(home) as installation:
        write_all_revisions(installation)
        with installation.catalog.reading() as transaction:
            keys = read_present_keys(installation, transaction)
        before = dump(installation.catalog)
    remove_catalog(home)
    with open_rebuild(Settings(home=home, environ={}), keys, ignore_event, dry_run=False) as context:
        assert rebuild_catalog(context, "test", dry_run=False).is_complete
    with open_home(home) as installation:
        after = dump(installation.catalog)
        after["recovery_keys"] = before["recovery_keys"]  # The file is newer than the lost catalog here.
        assert {name: rows for name, rows in after.items() if rows != before[name]} == {}
        audit(installation, collected=True)


def check_steps(home: Path, steps: list[tuple[str, str]]) -> None:
    for command, name in steps:
        if command == "rebuild":
            rebuild_and_compare(home)
            continue
        with open_home(home) as installation:
            try:
                COMMANDS[command](installation, name)
            except ImgstoreError:
                continue  # The state does not permit the command.
    rebuild_and_compare(home)


def run_steps(tmp_path: Path, samples: SampleImages, steps: list[tuple[str, str]]) -> None:
    home = tmp_path / "home"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(samples.home, home)
    check_steps(home, steps)


@settings(max_examples=1, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(steps=STEPS)
def test_a_rebuilt_catalog_equals_the_lost_one(
    tmp_path: Path, samples: SampleImages, steps: list[tuple[str, str]]
) -> None:
    run_steps(tmp_path, samples, steps)


@pytest.mark.long
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_many_rebuilt_catalogs_equal_the_lost_ones(
    tmp_path: Path, samples: SampleImages, steps: list[tuple[str, str]]
) -> None:
    run_steps(tmp_path, samples, steps)
