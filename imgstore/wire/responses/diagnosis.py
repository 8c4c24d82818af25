"""The findings of `imgstore doctor` as JSON."""

from collections.abc import Sequence

from imgstore.domain.diagnosis import Finding, find_worst_level
from imgstore.wire.json_text import Json


def diagnosis_json(findings: Sequence[Finding]) -> Json:
    """Return the findings, with the worst level of all."""
    return {
        "level": find_worst_level(findings).value,
        "findings": [
            {
                "level": each.level.value,
                "check": each.check,
                "subject": each.subject,
                "found": each.found,
                "nextStep": each.next_step,
            }
            for each in findings
        ],
    }
