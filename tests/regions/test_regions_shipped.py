"""Tests of the packaged files: regions.yaml is valid, and docker-compose.yml has the services that it names."""

import re
from pathlib import Path

import pytest
import yaml

from imgstore.domain.resources import StorageAccountType
from imgstore.regions import Policy, load_regions

TOP = Path(__file__).parents[2]
COMPOSE_TEXT = (TOP / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
EXPORTS = dict(re.findall(r"^# +export (IMGSTORE_\w+_ENDPOINT)=(\S+)$", COMPOSE_TEXT, re.MULTILINE))


def test_the_shipped_regions() -> None:
    regions = load_regions(None, {}).regions
    assert list(regions) == ["southcentralus", "westus2", "eastus", "northeurope"]
    assert all(region.embedded for region in regions.values())
    for name in ("southcentralus", "westus2"):
        assert (regions[name].policy, len(regions[name].zones)) == (Policy.ZRS, 3)
        assert regions[name].storage_account_types == tuple(StorageAccountType)
    for name in ("eastus", "northeurope"):
        assert (regions[name].policy, len(regions[name].zones)) == (Policy.LRS, 1)


def test_the_top_level_file_is_the_packaged_one() -> None:
    link = TOP / "regions.yaml"
    assert link.is_symlink()
    assert link.readlink() == Path("imgstore/regions.yaml")


def test_every_key_is_explained_in_the_file() -> None:
    comments = "\n".join(line for line in (TOP / "regions.yaml").read_text().splitlines() if line.startswith("#"))
    for key in (
        *("currency", "regions", "display_name", "bucket", "policy", "storage_account_types", "zones", "endpoint"),
        *("profile", "signing_region", "path_style", "prices", "egress_per_gb", "default", "pairs"),
        *("storage_per_gb_month", "${NAME:-}", "IMGSTORE_S3_ENDPOINT"),
    ):
        assert re.search(rf"(?<!\w){re.escape(key)}(?!\w)", comments), key


def test_every_zone_has_its_service_and_the_names_agree() -> None:
    regions = load_regions(None, EXPORTS).regions
    published = {
        f"http://{host}:{port}": name
        for name, service in COMPOSE["services"].items()
        for host, port, _ in (entry.split(":") for entry in service["ports"])
    }
    assert set(EXPORTS) == set(re.findall(r"\$\{(\w+_ENDPOINT):-\}", (TOP / "regions.yaml").read_text()))
    services = set()
    for region in regions.values():
        assert not region.embedded
        for zone in region.zones:
            name = region.name if len(region.zones) == 1 else f"{region.name}-{zone.name}"
            assert zone.endpoint is not None
            assert published[zone.endpoint] == name
            services.add(name)
    assert {*services, "postgresql"} == set(COMPOSE["services"]) == set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_service_is_pinned_local_and_looked_after(name: str) -> None:
    service = COMPOSE["services"][name]
    image = r"postgres:17\.\d+" if name == "postgresql" else r"minio/minio:RELEASE\.\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ"
    assert re.fullmatch(image, service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["volumes"][0].split(":")[0] == name
    secrets = [value for key, value in service["environment"].items() if "PASSWORD" in key]
    assert secrets
    assert all(value.startswith("${") and ":?" in value for value in secrets)
