"""The result of `bill reconcile` as JSON. Azure has no such format."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from imgstore.ledger.traffic import EndpointReading, EndpointTraffic
from imgstore.wire.json_text import Json

if TYPE_CHECKING:
    from imgstore.ledger.reconciliation import Reconciliation


def reconciliation_json(report: "Reconciliation") -> Json:
    """Return the bytes of each slot, the overhead by kind, the transferred bytes of each region, and the differences."""
    return {
        "agrees": report.agrees,
        "month": None if report.month is None else str(report.month),
        "slots": [
            {
                "region": each.region,
                "slot": each.slot,
                "billedBytes": each.billed_bytes,
                "namedBytes": each.named_bytes,
                "listedBytes": each.listed_bytes,
                "billableBytes": each.billable_bytes,
                "overhead": {kind.value: count for kind, count in sorted(each.overhead.items())},
            }
            for each in report.slots
        ],
        "installationOverhead": dict(sorted(report.installation_overhead.items())),
        "transfers": [
            {
                "region": each.region,
                "arrivedBytes": {kind.value: count for kind, count in sorted(each.arrived.items())},
                "suppliedBytes": {kind.value: count for kind, count in sorted(each.supplied.items())},
            }
            for each in report.egress
        ],
        "differenceCount": len(report.differences) + report.more_differences,
        "differences": [
            {
                "kind": each.kind.value,
                "region": each.region,
                "slot": each.slot,
                "subject": each.subject,
                "name": each.name,
                "foundBytes": each.found_bytes,
                "expectedBytes": each.expected_bytes,
            }
            for each in report.differences
        ],
    }


def counters_json(readings: Mapping[str, EndpointReading]) -> Json:
    """Return the counters of each server."""
    return [{"endpoint": endpoint} | _camel(asdict(reading)) for endpoint, reading in readings.items()]


def read_counters(body: Json) -> dict[str, EndpointReading]:
    """Return the readings of a body with `counters_json`, by endpoint.

    Raises:
        KeyError, TypeError, ValueError: the body has no counters.
    """
    names = [each.name for each in fields(EndpointReading)]
    return {
        str(each["endpoint"]): EndpointReading(**{name: int(each[_camel_name(name)]) for name in names})
        for each in body["counters"]
    }


def traffic_json(traffic: EndpointTraffic) -> Json:
    """Return the traffic of a server between two readings."""
    more = {"unexplainedBytes": traffic.unexplained_bytes, "agrees": traffic.agrees}
    return _camel(asdict(traffic)) | more


def _camel(values: Mapping[str, Any]) -> dict[str, Any]:
    return {_camel_name(name): value for name, value in values.items()}


def _camel_name(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.title, rest))
