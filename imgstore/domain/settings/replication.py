"""The route of replication, from the settings of a team."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final

from imgstore.domain.settings.tables import SettingsTable


class ReplicationRoute(StrEnum):
    """The rule that chooses the region that the first replica of a region is copied from."""

    SOURCE = "source"
    """The source region of the version, as in Azure."""
    CHEAPEST = "cheapest"
    """The tree of copies with the lowest price (`policy/replication_routes.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationSettings:
    """The settings of replication."""

    route: ReplicationRoute = ReplicationRoute.SOURCE


_NAMES: Final = tuple(each.name for each in fields(ReplicationSettings))
_EXAMPLE: Final = '[replication] and below it route = "cheapest"'


def read_replication(settings: Mapping[str, Any], file: str) -> ReplicationSettings:
    """Read the table ``[replication]`` of a settings document.

    Args:
        settings: the document, as TOML reads the file.
        file: the path of the document, for errors.

    Raises:
        InvalidInput: an unknown key, or an unknown route. The target is the key.
    """
    table = SettingsTable(name="replication", file=file, example=_EXAMPLE)
    route = table.read(settings, _NAMES).get("route", ReplicationRoute.SOURCE)
    if not isinstance(route, str) or route not in {*ReplicationRoute}:
        raise table.refusal("replication.route", repr(route), " or ".join(f'"{each}"' for each in ReplicationRoute))
    return ReplicationSettings(route=ReplicationRoute(route))
