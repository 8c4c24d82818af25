"""The settings that all processes share: kept in the catalog, imported from a file, shown, and applied from a file."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from imgstore.catalog import Catalog
from imgstore.domain.errors import InvalidInput
from imgstore.domain.identity.access import Action, Principal, authorize
from imgstore.domain.settings.disk_space import read_disk_space
from imgstore.domain.settings.limits import DEFAULT_PRESET, Limits, read_limits
from imgstore.domain.settings.maintenance import MaintenanceSettings, read_maintenance
from imgstore.domain.settings.shared import Difference, Values, as_document, differences, shared_values
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation

SETTINGS_FILE: Final = "settings.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting as it counts."""

    key: str
    value: Any
    is_set: bool
    """The installation sets it; else it is the default, or the preset's."""
    in_file: Any
    """The value in the home's file; None where the file does not set it."""


def read_settings_file(file: Path) -> Mapping[str, Any] | None:
    """Read and check a settings file; None where there is none.

    Raises:
        InvalidInput: it cannot be read, is no TOML, or says what nobody knows.
    """
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(
            f"{file} cannot be used.",
            found=str(error),
            expected="a TOML document",
            hint=f"mend it, or take it away: the limits are those of the installation then ({DEFAULT_PRESET} at first)",
            target=str(file),
        ) from error
    for read in (read_limits, read_disk_space, read_maintenance):
        read(document, str(file))
    return document


def initialize_settings(catalog: Catalog, document: Mapping[str, Any] | None) -> tuple[Values, list[Difference]]:
    """The settings of the installation, taken from a file where the catalog has none yet.

    Args:
        catalog: the catalog.
        document: the home's settings file; None where there is none.

    Returns:
        The settings, and where the file says something else. A file without shared settings disagrees with nothing.
    """
    mine = shared_values(document or {})
    with catalog.reading() as transaction:
        values = transaction.settings.all()
    if mine and not values:
        with catalog.transaction() as transaction:
            values = transaction.settings.initialize(mine)
    return values, differences(mine, values) if mine else []


def show_settings(installation: Installation, principal: Principal) -> list[Setting]:
    """Every setting that all processes share, as it counts."""
    authorize(principal, Action.READ, "/")
    in_file = shared_values(read_settings_file(installation.home / SETTINGS_FILE) or {})
    with installation.catalog.reading() as transaction:
        values = transaction.settings.all()
    document = as_document(values)
    tables: dict[str, Limits | MaintenanceSettings] = {
        "limits": read_limits(document, SETTINGS_FILE),
        "maintenance": read_maintenance(document, SETTINGS_FILE),
    }
    effective = {
        f"{table}.{each.name}": getattr(found, each.name)
        for table, found in tables.items()
        for each in fields(found)
        if each.name != "file"
    }
    effective["limits.preset"] = values.get("limits.preset", DEFAULT_PRESET)
    return [
        Setting(key=key, value=value, is_set=key in values, in_file=in_file.get(key))
        for key, value in sorted(effective.items())
    ]


def apply_settings(installation: Installation, principal: Principal, file: Path | None = None) -> Sequence[Difference]:
    """Make the shared settings of a file those of the installation, all of them. May be repeated.

    Args:
        installation: the installation.
        principal: an administrator.
        file: the file; None is settings.toml in the home.

    Returns:
        What changed.

    Raises:
        InvalidInput: there is no such file, or it cannot be used.
    """
    place = file or installation.home / SETTINGS_FILE
    with record_activity(installation, principal, Action.ADMINISTER, "/", "imgstore/settings/apply", about=str(place)):
        document = read_settings_file(place)
        if document is None:
            raise InvalidInput(
                "There is no settings file to apply.",
                found=f"no file {place}",
                expected="a TOML document with [limits] or [maintenance]",
                hint="write it, or name another with --file",
                target="file",
            )
        values = shared_values(document)
        with installation.catalog.transaction() as transaction:
            before = transaction.settings.all()
            transaction.settings.replace(values)
        return differences(values, before)
