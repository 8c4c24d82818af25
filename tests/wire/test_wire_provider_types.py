"""The listed api-versions of each resource type, compared with the installed clients of Azure."""

import re
from pathlib import Path
from typing import Final

import pytest

from imgstore.testing.pytest_plugin import require
from imgstore.wire.provider_types import PROVIDERS, versions_of

TYPES: Final = {
    "galleries": "galleries",
    "gallery_images": "galleries/images",
    "gallery_image_versions": "galleries/images/versions",
    "shared_galleries": "locations/sharedGalleries",
    "community_galleries": "locations/communityGalleries",
    "disks": "disks",
    "snapshots": "snapshots",
    "images": "images",
    "virtual_machines": "virtualMachines",
}
"""Operation groups of azure-mgmt-compute, with the resource type."""


def packages(engine: str) -> Path:
    """Return the folder of the installed packages of an engine."""
    return next((Path(require(engine).command).parents[1] / "lib").glob("python3*")) / "site-packages" / "azure"


def test_versions_are_sorted_and_start_with_the_newest() -> None:
    for types in PROVIDERS.values():
        for versions in types.values():
            assert list(versions) == sorted(set(versions), reverse=True)


@pytest.mark.parametrize(
    ("kind", "same_as"),
    [
        ("virtualMachines/start", "virtualMachines"),
        ("Microsoft.Compute/DISKS", "disks"),
        ("disks/beginGetAccess", "disks"),
        ("locations/sharedGalleries/images/versions", "locations/sharedGalleries"),
        ("Microsoft.Network/virtualNetworks/subnets", "virtualNetworks"),
        ("unheardOf", "subscriptions"),
    ],
)
def test_nested_type_has_the_versions_of_its_parent(kind: str, same_as: str) -> None:
    assert versions_of(kind) == versions_of(same_as)


@pytest.mark.engine("azure-sdk")
def test_default_versions_of_the_sdk_are_listed() -> None:
    source = (packages("azure-sdk") / "mgmt" / "compute" / "operations" / "_operations.py").read_text()
    for group, kind in TYPES.items():
        found = re.search(rf'def build_{group}_get_request\(.*?"(20\d\d-\d\d-\d\d)"', source, re.DOTALL)
        assert found is not None, group
        assert found[1] in versions_of(kind), (group, found[1])


@pytest.mark.engine("az")
def test_versions_of_az_are_listed() -> None:
    commands = packages("az") / "cli" / "command_modules" / "vm" / "aaz" / "latest"
    texts = [file.read_text() for file in commands.rglob("_*.py")]
    words = "galleries|disks|snapshots|images|virtualmachines"
    pattern = rf'resourcegroups/{{}}/providers/microsoft\.compute/({words})/{{}}", "(20\d\d-\d\d-\d\d)"'
    used = {(match[1], match[2]) for text in texts for match in re.finditer(pattern, text)}
    assert len(used) > len(TYPES)
    assert {(kind, version) for kind, version in used if version not in versions_of(kind)} == set()
