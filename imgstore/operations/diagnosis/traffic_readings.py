"""Read the traffic counters of all stores, with the bytes that the listings and the ledger give to the stores."""

from imgstore.domain.errors import InvalidInput
from imgstore.domain.identity.access import INSTALLATION, Action, Principal
from imgstore.ledger.entries import ChargeKind
from imgstore.ledger.reconciliation import Reconciliation, RegionEgress
from imgstore.ledger.traffic import EndpointReading
from imgstore.operations.activity_log import permit
from imgstore.operations.installation import Installation
from imgstore.regions import ALL_ZONES
from imgstore.stores.traffic_counters import read_server_traffic


def read_traffic(
    installation: Installation, principal: Principal, report: Reconciliation
) -> dict[str, EndpointReading]:
    """Return the counters of each server of a zone, by endpoint.

    Args:
        installation: the installation.
        principal: an administrator of the installation.
        report: the reconciliation of all months, from now.

    Raises:
        InvalidInput: all zones are directories.
        StoreError: a server does not answer, or has no counters.
        AccessDenied: the principal is no administrator of the installation.
    """
    permit(installation, principal, Action.ADMINISTER, INSTALLATION)
    zones = [
        (region, zone.name, zone.endpoint)
        for region in report.installation_overhead
        for zone in installation.regions.get(region).zones
        if zone.endpoint is not None
    ]
    if not zones:
        raise InvalidInput(
            "No zone of a used region has a server, so no traffic was counted.",
            found="directories",
            expected="at least one zone with an endpoint",
            hint="leave out --counters",
            target="--counters",
        )
    egress = {each.region: each for each in report.egress}
    readings = {}
    for endpoint in sorted({endpoint for _, _, endpoint in zones}):
        traffic = read_server_traffic(endpoint, installation.effects.wait)
        served = {(region, zone) for region, zone, own in zones if own == endpoint}
        slots = [
            each
            for each in report.slots
            for region, zone in served
            if each.region == region and each.zone in (zone, ALL_ZONES)
        ]
        charged = [egress[region] for region in sorted({region for region, _ in served}) if region in egress]
        segment_bytes = sum(each.segment_bytes for each in slots)
        top_bytes = sum(report.installation_overhead[region] for region, _ in served)
        readings[endpoint] = EndpointReading(
            received_bytes=traffic.received_bytes,
            sent_bytes=traffic.sent_bytes,
            segment_bytes=segment_bytes,
            other_bytes=sum(each.listed_bytes for each in slots) - segment_bytes + top_bytes,
            egress_bytes=_arrived(charged, ChargeKind.EGRESS),
            repaired_bytes=_arrived(charged, ChargeKind.REPAIR),
            copied_bytes=_arrived(charged, ChargeKind.COPY),
            supplied_bytes=sum(
                each.supplied.get(kind, 0)
                for each in charged
                for kind in (ChargeKind.EGRESS, ChargeKind.CROSS_REGION_READ)
            ),
        )
    return readings


def _arrived(charged: list[RegionEgress], kind: ChargeKind) -> int:
    return sum(each.arrived.get(kind, 0) for each in charged)
