"""Results of the analysis of stores."""

from typing import TYPE_CHECKING

from imgstore.wire.json_text import Json
from imgstore.wire.responses.reports import zone_json

if TYPE_CHECKING:  # JSON needs no stores at run time
    from imgstore.regions import ZoneReport
    from imgstore.stores.analysis import RequestTotals, StoreAnalysis


def analyzed_zone_json(report: "ZoneReport", analysis: "StoreAnalysis | None") -> Json:
    """Return the state of a zone with the analysis of its store; the analysis is None for a zone that cannot be used."""
    return zone_json(report) | {"analysis": None if analysis is None else _analysis_json(analysis)}


def _analysis_json(analysis: "StoreAnalysis") -> Json:
    return {
        "disproved": [each.check.value for each in analysis.results if each.hint is not None],
        "checks": [
            {
                "check": each.check.value,
                "outcome": each.outcome.value,
                "found": each.found,
                "expected": each.expected,
                "hint": each.hint,
            }
            for each in analysis.results
        ],
        "announced": totals_json(analysis.planned),
        "sent": totals_json(analysis.sent),
        "repeatedRequests": analysis.repeats,
        "removedLeftovers": analysis.leftovers,
        "cleanupProblem": analysis.cleanup_problem,
    }


def totals_json(totals: "RequestTotals") -> Json:
    """Return numbers of requests and bytes."""
    return {
        "requests": totals.request_count,
        "requestsByMethod": dict(totals.requests),
        "sentBytes": totals.sent_bytes,
        "receivedBytes": totals.received_bytes,
    }
