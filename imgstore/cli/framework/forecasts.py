"""Print forecasts (`--what-if`)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from imgstore.cli.framework.command import Answer
from imgstore.domain.resources import DiskKind
from imgstore.wire.json_text import Json
from imgstore.wire.responses.forecast import forecast_json, forecast_rows

if TYPE_CHECKING:
    from imgstore.cli.framework.session import Session
    from imgstore.ledger.forecast import Forecast


def answer_forecast(forecast: "Forecast", warn: Callable[[str], None]) -> Answer:
    """Return a forecast for printing, and print its notes."""
    return answer_forecast_json(forecast_json(forecast), warn)


def answer_forecast_json(body: Json, warn: Callable[[str], None]) -> Answer:
    """Return the forecast of a server for printing, and print its notes."""
    for note in body["notes"]:
        warn(note)
    return Answer(body=body, table=forecast_rows)


def forecast_disk_deletion(kind: DiskKind) -> Callable[..., Answer]:
    """Return the function of `--what-if` of the deletion of a disk, a snapshot or a managed image."""

    def forecast(session: "Session", group: str, name: str) -> Answer:
        from imgstore.operations.what_if import disks  # noqa: PLC0415 - start-up time

        found = session.run(disks.forecast_disk_deletion, group=group, name=name, kind=kind)
        return answer_forecast(found, session.warn)

    return forecast
