"""The findings of `imgstore doctor` as JSON."""

from collections.abc import Sequence

from imgstore.domain.diagnosis import Finding, find_worst_level
from imgstore.wire.json_text import Json


def diagnosis_json(findings: Sequence[Finding]) -> Json:
    """Return the findings, with the worst level of all."""
    return {"level": find_worst_level(findings).value, "findings": [finding_json(each) for each in findings]}


def finding_json(finding: Finding) -> Json:
    """Return a finding."""
    return {
        "level": finding.level.value,
        "check": finding.check,
        "subject": finding.subject,
        "found": finding.found,
        "nextStep": finding.next_step,
    }
