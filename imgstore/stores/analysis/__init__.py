"""The analysis of a store: prove or disprove the properties that imgstore needs, with objects under a prefix of its own.

`requests.py` counts and repeats the requests, `checks.py` has a check for each property, and `analyzer.py` runs the
checks. docs/internals/stores.md lists the properties, and the parts of imgstore that rely on each property.
"""

from imgstore.stores.analysis.analyzer import AnalyzedStore, analyze_store, plan_analysis
from imgstore.stores.analysis.checks import PEAK_BODIES
from imgstore.stores.analysis.results import (
    AnalysisSettings,
    Check,
    CheckResult,
    Outcome,
    RequestTotals,
    StoreAnalysis,
)

__all__ = [
    "PEAK_BODIES",
    "AnalysisSettings",
    "AnalyzedStore",
    "Check",
    "CheckResult",
    "Outcome",
    "RequestTotals",
    "StoreAnalysis",
    "analyze_store",
    "plan_analysis",
]
