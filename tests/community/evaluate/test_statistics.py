"""Confidence intervals: 95 %, by formulas and by what they cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from modpkg.community.evaluate.statistics import (
    PERCENTILES,
    RESAMPLES,
    Z95,
    bootstrap,
    paired_bootstrap,
    wilson,
)


def mean(rows: np.ndarray) -> float:
    return float(rows[:, 0].mean())


def test_the_level_is_95_percent() -> None:
    assert pytest.approx(norm.ppf(0.975), abs=1e-12) == Z95
    assert PERCENTILES == (2.5, 97.5)


@given(st.integers(1, 60), st.data())
def test_wilson_is_scipys(count: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, count))
    theirs = binomtest(right, count).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(right, count) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_stays_between_0_and_1() -> None:
    assert all(
        wilson(0, count)[0] >= 0.0 and wilson(count, count)[1] <= 1.0 for count in range(1, 500)
    )


def test_resamples_draw_every_case_alike() -> None:
    drawn: list[float] = []

    def collect(rows: np.ndarray) -> float:
        drawn.extend(rows[:, 0])
        return 0.0

    bootstrap(np.asarray([[0.0], [1.0]]), collect, 0)
    assert sum(drawn) / len(drawn) == pytest.approx(0.5, abs=0.05)


def test_bootstrap_takes_the_percentiles_of_its_resamples() -> None:
    """Cases 0 … 999 of which a resample's first is the value: its distribution is uniform."""
    rows = np.arange(1000, dtype=float).reshape(-1, 1)
    values: list[float] = []

    def first(drawn: np.ndarray) -> float:
        values.append(float(drawn[0, 0]))
        return values[-1]

    interval = bootstrap(rows, first, 0)
    assert len(values) == RESAMPLES == 1000
    assert interval == tuple(np.percentile(values, [2.5, 97.5]))
    assert interval == pytest.approx((25, 975), abs=15)


def test_bootstrap_repeats_by_its_seed() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 1))
    assert bootstrap(rows, mean, 1) == bootstrap(rows, mean, 1) != bootstrap(rows, mean, 2)


def test_bootstrap_covers_the_value_by_two_standard_errors() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 1))
    low, high = bootstrap(rows, mean, 1)
    assert low < mean(rows) < high
    assert high - low == pytest.approx(2 * 1.96 * rows.std() / math.sqrt(200), rel=0.1)


def test_bootstrap_leaves_out_resamples_without_a_value() -> None:
    rows = np.asarray([[0.0], [1.0], [2.0]])

    def undefined_for_equal_cases(drawn: np.ndarray) -> float:
        return mean(drawn) if len(set(drawn[:, 0])) > 1 else math.nan

    low, high = bootstrap(rows, undefined_for_equal_cases, 0)
    assert 0.0 < low < high < 2.0
    assert bootstrap(np.ones((3, 1)), undefined_for_equal_cases, 0) == pytest.approx(
        (math.nan, math.nan), nan_ok=True
    )


def test_pairs_that_moved_alike_have_no_spread() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 1))
    assert paired_bootstrap(rows, rows + 0.5, mean, 1) == pytest.approx((0.5, 0.5))
    low, high = paired_bootstrap(rows, np.zeros_like(rows), mean, 1)
    assert low < -mean(rows) < high
