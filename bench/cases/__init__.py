"""The cases: rows of the design's table of speeds and of the issue's list, each measured against whom it is to beat."""

from collections.abc import Mapping

from bench.cases import (
    boot,
    caching,
    choices,
    distance,
    doors,
    exports,
    growing,
    keeping,
    lazy,
    limits,
    outages,
    replication,
    scale,
    sealing,
    serving,
    storm,
    uploads,
)
from bench.measuring import Case

CASES: Mapping[str, Case] = {
    case.name: case
    for module in (
        uploads,
        doors,
        replication,
        distance,
        exports,
        caching,
        keeping,
        lazy,
        boot,
        serving,
        growing,
        outages,
        limits,
        choices,
        sealing,
        storm,
        scale,
    )
    for case in module.CASES
}
