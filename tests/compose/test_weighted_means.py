"""Weighted means of bfloat16 in float32, against Python's fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from modpkg.compose.arrays import in_double
from modpkg.compose.narrow_floats import LAYOUTS
from modpkg.compose.reducers.single import NARROW, weighted_sum
from modpkg.compose.weighted_means import weighted_mean
from tests.compose.test_exact import nearest

BOUNDS = (LAYOUTS["BF16"].small, LAYOUTS["BF16"].large)
WEIGHTS = [
    (0.37, 0.23), (0.5, 0.5), (0.25, 0.25), (1.0,), (0.5,), (1 / 64, 1 / 64), (1 / 64, 1 / 2),
    (1e-5, 0.9), (0.1, 0.2, 0.3), (1 / 3, 1 / 3),
]  # fmt: skip


def _values(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Return bits of a base and three fine-tunes: near, across exponents, and any at all."""
    base = rng.integers(0, 1 << 16, count)
    near = rng.choice([0, 1, 2, 3, 130, 1 << 7, 1 << 10, (1 << 11) - 1, 1 << 11], (3, count))
    others = base + near * rng.choice([-1, 1], near.shape)
    swapped = rng.random(near.shape) < 0.1
    others = np.where(swapped, rng.integers(0, 1 << 16, near.shape), others)
    return [each.astype(np.uint16) for each in (base, *others)]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_what_is_not_in_doubt_is_the_nearest(weights: tuple[float, ...]) -> None:
    single = weighted_sum(NARROW["BF16"], weights)
    assert single is not None
    assert single.mean is not None
    models = _values(np.random.default_rng(3), 6000)[: 1 + len(weights)]
    result = np.empty(models[0].size, np.uint16)
    with np.errstate(all="ignore"):
        wide = np.empty((len(models), result.size), np.float32)
        doubt = weighted_mean(single.mean, models, wide, result, BOUNDS)
    certain = np.flatnonzero(~doubt)
    assert certain.size > 500
    shares = [1 - sum(map(Fraction, weights)), *map(Fraction, weights)]
    columns = [in_double(each.take(certain)).tolist() for each in models]
    found = in_double(result.take(certain)).tolist()
    ties = 0
    for got, *values in zip(found, *columns, strict=True):
        exact = sum(share * Fraction(value) for share, value in zip(shares, values, strict=True))
        assert got == nearest(exact, "BF16")
        gap = abs(exact - Fraction(got)) / Fraction(2) ** (math.frexp(got)[1] - 9)
        ties += gap == 1
    short = all((64 * share).denominator == 1 for share in shares)
    assert (ties > 0) == (short and set(weights) != {1.0})


def test_means_with_negative_or_tiny_factors_are_none() -> None:
    for weights in ((1.0, 0.5), (-0.1,), (1e-9,), (0.6, 0.6)):
        single = weighted_sum(NARROW["BF16"], weights)
        assert single is not None
        assert single.mean is None
