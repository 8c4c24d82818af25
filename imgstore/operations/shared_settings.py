"""Import, show and apply the shared settings of an installation, which are stored in the catalog."""

import io
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from imgstore.catalog import Catalog
from imgstore.domain.errors import InvalidInput
from imgstore.domain.host.os_errors import advise, describe
from imgstore.domain.identity.access import Action, Principal, authorize
from imgstore.domain.settings.disk_space import read_disk_space
from imgstore.domain.settings.limits import DEFAULT_PRESET, Limits, read_limits
from imgstore.domain.settings.maintenance import MaintenanceSettings, read_maintenance
from imgstore.domain.settings.replication import ReplicationSettings, read_replication
from imgstore.domain.settings.shared import Difference, Values, as_document, differences, shared_values
from imgstore.domain.text.text_encodings import find_encoding_fault
from imgstore.operations.activity_log import record_activity
from imgstore.operations.installation import Installation

SETTINGS_FILE: Final = "settings.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A shared setting with the effective value."""

    key: str
    value: Any
    is_set: bool
    """Whether the catalog contains the setting. Otherwise, the value is the default or the value of the preset."""
    in_file: Any
    """The value in the settings file of the home, None if the file does not contain the setting."""


def read_settings_file(file: Path) -> Mapping[str, Any] | None:
    """Read and check a settings file. Return None if the file does not exist.

    Raises:
        InvalidInput: the file cannot be read, is not TOML, or contains an unknown or invalid setting.
    """
    try:
        content = file.read_bytes()
        document = tomllib.loads(io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig").read())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidInput(
            f"The settings file {file} cannot be read.",
            found=describe(error, file),
            expected="a readable file, or no file",
            hint=advise(error, file),
            target=str(file),
        ) from error
    except (ValueError, RecursionError) as error:  # Also for a number of thousands of digits.
        raise InvalidInput(
            f"The settings file {file} cannot be read.",
            found=find_encoding_fault(content) or str(error),
            expected="a TOML document",
            hint="correct the file, or remove the file to use the limits of the installation "
            f"(initially {DEFAULT_PRESET})",
            target=str(file),
        ) from error
    for read in (read_limits, read_disk_space, read_maintenance, read_replication):
        read(document, str(file))
    return document


def initialize_settings(catalog: Catalog, document: Mapping[str, Any] | None) -> tuple[Values, list[Difference]]:
    """Return the settings of the installation. If the catalog has no settings, import the settings of a file.

    Args:
        catalog: the catalog.
        document: the content of the settings file of the home, None without a file.

    Returns:
        The settings, and the differences between file and settings. A file without shared settings has no differences.
    """
    mine = shared_values(document or {})
    with catalog.reading() as transaction:
        values = transaction.settings.all()
    if mine and not values:
        with catalog.transaction() as transaction:
            values = transaction.settings.initialize(mine)
    return values, differences(mine, values) if mine else []


def show_settings(installation: Installation, principal: Principal) -> list[Setting]:
    """List all shared settings with the effective values, by key."""
    authorize(principal, Action.READ, "/")
    in_file = shared_values(read_settings_file(installation.home / SETTINGS_FILE) or {})
    with installation.catalog.reading() as transaction:
        values = transaction.settings.all()
    document = as_document(values)
    tables: dict[str, Limits | MaintenanceSettings | ReplicationSettings] = {
        "limits": read_limits(document, SETTINGS_FILE),
        "maintenance": read_maintenance(document, SETTINGS_FILE),
        "replication": read_replication(document, SETTINGS_FILE),
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
    """Replace all shared settings of the installation by the settings of a file. May be repeated.

    Args:
        installation: the installation.
        principal: an administrator.
        file: the settings file. None means settings.toml in the home.

    Returns:
        The changed settings.

    Raises:
        InvalidInput: the file does not exist, cannot be read, or contains an invalid setting.
    """
    place = file or installation.home / SETTINGS_FILE
    with record_activity(installation, principal, Action.ADMINISTER, "/", "imgstore/settings/apply", about=str(place)):
        document = read_settings_file(place)
        if document is None:
            raise InvalidInput(
                "There is no settings file to apply.",
                found=f"no file {place}",
                expected="a TOML document with [limits], [maintenance] or [replication]",
                hint="create the file, or name another file with --file",
                target="file",
            )
        values = shared_values(document)
        with installation.catalog.transaction() as transaction:
            before = transaction.settings.all()
            transaction.settings.replace(values)
        return differences(values, before)
