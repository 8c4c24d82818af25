"""The presets of the limits, the settings of a team, and the error for an invalid setting."""

import tomllib
from typing import Any

import pytest

from imgstore.domain.errors import Conflict, InvalidInput
from imgstore.domain.settings.limits import PRESETS, Limits, check_count, read_limits
from imgstore.domain.storage.sizes import TIB


def read(text: str) -> Limits:
    return read_limits(tomllib.loads(text), "/home/settings.toml")


def numbers(limits: Limits) -> tuple[int | None, ...]:
    return (
        limits.galleries_max, limits.definitions_max, limits.versions_max, limits.replicas_per_region_max,
        limits.replicas_per_version_max, limits.image_bytes_max, limits.data_disk_bytes_max,
        limits.shallow_image_bytes_max, limits.machines_per_replica,
    )  # fmt: skip


def test_presets_have_the_limits_of_azure() -> None:
    assert numbers(PRESETS["azure-2019"]) == (100, 1_000, 10_000, 10, None, TIB, TIB, TIB, 20)
    assert numbers(PRESETS["azure-2026"]) == (100, 1_000, 10_000, None, 100, 2 * TIB - 512, 2 * TIB - 512, 32 * TIB, 50)


@pytest.mark.parametrize("text", ["", "[limits]", '[limits]\npreset = "azure-2019"'])
def test_default_preset_is_azure_2019(text: str) -> None:
    assert numbers(read(text)) == numbers(PRESETS["azure-2019"])


def test_number_overrides_the_preset() -> None:
    limits = read('[limits]\npreset = "azure-2026"\ngalleries_max = 7\nreplicas_per_region_max = 3')
    assert numbers(limits) == (7, 1_000, 10_000, 3, 100, 2 * TIB - 512, 2 * TIB - 512, 32 * TIB, 50)
    assert limits.raise_hint("galleries_max") == (
        "raise galleries_max under [limits] in /home/settings.toml, then run `imgstore settings apply`"
    )


@pytest.mark.parametrize(
    ("text", "key", "found", "expected"),
    [
        ("[limit]", "limit", "the key limit", r"\[limits\]"),
        ("limits = 3", "limits", "3", r"\[limits\]"),
        ("[limits]\ngaleries_max = 3", "limits.galeries_max", "the key galeries_max", "galleries_max"),
        ("[limits]\nfile = 'x'", "limits.file", "the key file", "galleries_max"),
        ('[limits]\npreset = "azure-2020"', "limits.preset", "'azure-2020'", '"azure-2019" or "azure-2026"'),
        ("[limits]\npreset = 2019", "limits.preset", "2019", '"azure-2019" or "azure-2026"'),
        ('[limits]\nversions_max = "7"', "limits.versions_max", "'7'", "a whole number from 1 to"),
        ("[limits]\nversions_max = 7.0", "limits.versions_max", "7.0", "a whole number from 1 to"),
        ("[limits]\nversions_max = true", "limits.versions_max", "True", "a whole number from 1 to"),
        ("[limits]\nversions_max = 0", "limits.versions_max", "0", "a whole number from 1 to"),
        ("[limits]\nimage_bytes_max = 70368744177665", "limits.image_bytes_max", "70368744177665", "to 70368744177664"),
    ],
)
def test_invalid_setting_is_reported_with_file_key_found_and_expected(
    text: str, key: str, found: str, expected: str
) -> None:
    with pytest.raises(InvalidInput, match=f"/home/settings.toml cannot be used: {key}") as caught:
        read(text)
    assert (caught.value.error_code, caught.value.target, caught.value.found) == ("InvalidParameter", key, found)
    assert expected.replace("\\", "") in (caught.value.expected or "")
    assert 'preset = "azure-2026"' in (caught.value.hint or "")


def test_exceeded_limit_is_reported_with_limit_count_and_setting() -> None:
    limits: Any = Limits(galleries_max=2)
    check_count(limits, "galleries_max", 1, what="galleries", region="eastus")
    with pytest.raises(
        Conflict, match="limit of 2 galleries in a subscription and region is reached in 'eastus'"
    ) as it:
        check_count(limits, "galleries_max", 2, what="galleries", region="eastus")
    assert (it.value.error_code, it.value.found, it.value.target) == (
        "QuotaExceeded",
        "2 galleries in eastus",
        "galleries_max",
    )
    assert "raise galleries_max under [limits] in settings.toml" in (it.value.hint or "")
