"""Gunther's Universal Scalability Law, fitted to throughputs.

Source: N. J. Gunther, "A General Theory of Computational Scalability Based on Rational Functions", arXiv:0808.1431, equation
(9): ``X(N) = lambda N / (1 + alpha (N - 1) + beta N (N - 1))``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """The fitted parameters."""

    alpha: float
    """Contention: the part of the work that waits for a shared resource."""
    beta: float
    """Coherency: the cost of agreement between each two."""
    single: float
    """The throughput of one, lambda."""

    def throughput(self, count: float) -> float:
        """The throughput of `count`."""
        return self.single * count / (1 + self.alpha * (count - 1) + self.beta * count * (count - 1))


def fit(throughputs: Mapping[int, float]) -> Law:
    """Fits the law by least squares: N / X(N) is linear in 1, N - 1 and N (N - 1).

    A parameter below zero has no meaning in the law. It is set to zero, and the others are fitted again.
    """
    counts = np.array(list(throughputs), dtype=float)
    columns = np.stack([np.ones_like(counts), counts - 1, counts * (counts - 1)], axis=1)
    wanted = counts / np.array(list(throughputs.values()))
    kept = [0, 1, 2]
    while True:
        solved, *_ = np.linalg.lstsq(columns[:, kept], wanted, rcond=None)
        negative = [column for column, value in zip(kept, solved, strict=True) if column and value < 0]
        if not negative:
            break
        kept = [column for column in kept if column != negative[-1]]
    found = dict(zip(kept, solved.tolist(), strict=True))
    return Law(alpha=found.get(1, 0.0) / found[0], beta=found.get(2, 0.0) / found[0], single=1 / found[0])
