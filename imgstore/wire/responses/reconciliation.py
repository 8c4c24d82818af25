"""The result of `bill reconcile` as JSON. Azure has no such format."""

from typing import TYPE_CHECKING

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
