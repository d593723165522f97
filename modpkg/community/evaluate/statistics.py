"""Confidence intervals of values that were measured on a sample of cases."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Z95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution: 95 % lie within it on both sides."""
PERCENTILES = (2.5, 97.5)
"""Ends of a 95 % percentile interval."""
RESAMPLES = 1000


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of ``count`` cases.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference"; unlike a
    bootstrap it is valid near 0 and 1, and for few cases.

    >>> low, high = wilson(10, 10)
    >>> round(low, 3), round(high, 3)
    (0.722, 1.0)
    """
    share, square = right / count, Z95 * Z95
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    half *= Z95 / (1 + square / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(
    rows: np.ndarray, value: Callable[[np.ndarray], float], seed: int
) -> tuple[float, float]:
    """Return the 95 % percentile interval of ``value`` over resamples of the cases.

    Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13. ``rows`` is [cases,
    numbers per case]. Resamples with a non-finite value (all cases equal, say) are left out.
    """
    return _interval(len(rows), lambda drawn: value(rows[drawn]), seed)


def paired_bootstrap(
    before: np.ndarray, after: np.ndarray, value: Callable[[np.ndarray], float], seed: int
) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two values over equal resamples of the cases.

    Cases are paired, so that their difficulty, which both models share, does not widen it.
    """
    return _interval(len(before), lambda drawn: value(after[drawn]) - value(before[drawn]), seed)


def _interval(count: int, value: Callable[[np.ndarray], float], seed: int) -> tuple[float, float]:
    generator = np.random.Generator(np.random.PCG64(seed))
    values = [value(generator.integers(0, count, count)) for _ in range(RESAMPLES)]
    finite = [number for number in values if math.isfinite(number)]
    if not finite:
        finite = [value(np.arange(count))]
    low, high = np.percentile(finite, PERCENTILES)
    return float(low), float(high)
