"""Weighted sums and disjoint merges next to ties, decided by signs, against Python's fractions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from modpkg.compose.arrays import in_double
from modpkg.compose.composition import Term
from modpkg.compose.decided_merge import decided_merge
from modpkg.compose.reducers.stream import draws_at, stream_of
from modpkg.compose.reducers.trimming import TrimBounds
from modpkg.compose.rounding import rounded
from modpkg.compose.sums import decided_sum
from tests.compose.hard_tensors import ULP
from tests.compose.test_exact import as_double, hard_values, nearest

LINEAR = {"normalize": True, "base_weight": 0.4}
SUMS: list[tuple[str, tuple[float, ...], dict[str, Any]]] = [
    ("linear", (0.37, 0.23), LINEAR),
    ("linear", (-0.9, 0.1), LINEAR),
    ("mean", (1.0, 1.0), {"with_base": True}),
    ("task-arithmetic", (0.3, 0.5, -0.1), {"lambda": 0.7, "normalize": True}),
    ("task-arithmetic", (1e-9, -0.5), {"lambda": 1.0, "normalize": False}),
]


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize(("method", "weights", "settings"), SUMS)
def test_sides_of_ties(
    method: str, weights: tuple[float, ...], settings: dict[str, Any], dtype: str
) -> None:
    rng = np.random.default_rng(len(weights))
    count = 300
    base = rng.uniform(1, 2, count) * rng.choice([1, -1], count)
    base = np.round(base / ULP[dtype]) * ULP[dtype]
    others = [base + rng.integers(-100, 101, count) * ULP[dtype] / 2 for _ in weights]
    hard = [np.array([nearest(Fraction(x), dtype) for x in hard_values(rng, 80)]) for _ in "bcde"]
    hard = [np.where(np.isfinite(values), values, 1.0) for values in hard]
    starts = np.concatenate([base, hard[0]])
    ends = [np.concatenate(pair) for pair in zip(others, hard[1:], strict=False)]
    terms = [Term(op="dense", weight=1.0, scale=weight, inputs={}) for weight in weights]
    decided = decided_sum(method, terms, settings, dtype)
    assert decided is not None
    stored = [rounded(values, dtype) for values in (starts, *ends)]
    starts, *ends = (in_double(values) for values in stored)
    with np.errstate(all="ignore"):
        found, certain = decided.at(stored[0], stored[1:])
    assert certain[:count].all()
    divisor, factor = Fraction(1), Fraction(settings.get("lambda", 1.0))
    if method == "mean":
        divisor = Fraction(len(weights) + 1)
    elif settings["normalize"]:
        divisor = sum(map(Fraction, weights), Fraction(settings.get("base_weight", 0.0)))
    expected = []
    for start, *values in zip(starts.tolist(), *ends, strict=True):
        start = Fraction(start)
        changes = (
            Fraction(weight) * (Fraction(value) - start)
            for weight, value in zip(weights, values, strict=True)
        )
        expected.append(nearest(start + factor * sum(changes) / divisor, dtype))
    results = as_double(found, dtype)
    assert [r for r, c in zip(results, certain, strict=True) if c] == [
        e for e, c in zip(expected, certain, strict=True) if c
    ]


MERGES: list[tuple[str, tuple[float, ...], dict[str, Any]]] = [
    ("ties-mergekit", (0.37, 0.23), {"normalize": True, "lambda": 1.0}),
    ("ties-mergekit", (0.37, 0.23, 0.4), {"normalize": False, "lambda": 0.9}),
    ("ties-peft", (0.7, 0.4, 0.1), {"majority_sign": "total"}),
    ("ties", (1.0, 1.0), {"lambda": 0.3}),
]


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize(("method", "weights", "settings"), MERGES)
def test_elected_signs_and_sides_of_ties(
    method: str, weights: tuple[float, ...], settings: dict[str, Any], dtype: str
) -> None:
    rng, count = np.random.default_rng(len(method)), 400
    ulp = ULP[dtype]
    base = np.round(rng.uniform(1, 2, count) / ulp) * ulp * rng.choice([1, -1], count)
    others = [base + rng.integers(-4, 5, count) * ulp / 2 for _ in weights]
    others[1][:40] = 2 * base[:40] - others[0][:40]
    base[:4] = [0.0, np.nan, np.inf, 2.0**-14]
    stream, half = stream_of(0, b"key"), 1 << 63
    bounds = [TrimBounds(ulp, half, stream=stream), *(TrimBounds(ulp / 2) for _ in weights[1:])]
    terms = [Term(op="dense", weight=1.0, scale=weight, inputs={}) for weight in weights]
    decided = decided_merge(method, terms, settings, bounds, dtype)
    assert decided is not None
    with np.errstate(all="ignore"):
        stored = [rounded(values, dtype) for values in (base, *others)]
        base, *others = (in_double(values) for values in stored)
        found, certain = decided.at(stored[0], stored[1:], np.arange(count))
    assert not certain[:3].any()
    assert np.count_nonzero(certain) > count - 20
    results = as_double(found, dtype)
    shares = [Fraction(weight) for weight in weights]
    for place in np.flatnonzero(certain).tolist():
        start, kept = Fraction(base[place]), []
        for other, bound in zip(others, bounds, strict=True):
            change = Fraction(other[place]) - start
            drawn = bound.low_draws is None or int(draws_at(stream, [place])[0]) < half
            enough = abs(change) > bound.low or (abs(change) == bound.low and drawn)
            kept.append(change if enough else Fraction(0))
        votes = shares if method == "ties-mergekit" else [Fraction(1)] * len(shares)
        sign = 1 if sum(v * k for v, k in zip(votes, kept, strict=True)) >= 0 else -1
        agreeing = [(w, k) for w, k in zip(shares, kept, strict=True) if k * sign > 0]
        total = sum((w * k for w, k in agreeing), Fraction(0))
        below = Fraction(len(agreeing))
        if method == "ties-mergekit":
            below = sum((w for w, _ in agreeing), Fraction(0))
        if settings.get("normalize", True):
            total /= below or 1
        wanted = nearest(start + Fraction(settings.get("lambda", 1.0)) * total, dtype)
        assert results[place] == wanted, place


def test_rare_merges_are_left_to_exact_arithmetic() -> None:
    terms = [Term(op="dense", weight=1.0, scale=scale, inputs={}) for scale in (0.3, 0.4)]
    settings = {"normalize": True, "lambda": 1.0}
    plain = [TrimBounds(0.5), TrimBounds()]
    assert decided_merge("ties-mergekit", terms, settings, plain, "BF16") is not None
    for bound in (TrimBounds(factor=2.0), TrimBounds(low_exact=Fraction(1, 3)),
                  TrimBounds(high=2.0, high_draws=0)):  # fmt: skip
        bounds = [bound, TrimBounds()]
        assert decided_merge("ties-mergekit", terms, settings, bounds, "BF16") is None
    assert decided_merge("breadcrumbs-ties", terms, settings, plain, "BF16") is None
    frequency = {"majority_sign": "frequency"}
    assert decided_merge("ties-peft", terms, frequency, plain, "BF16") is None


def test_weights_out_of_range_are_left_to_exact_arithmetic() -> None:
    terms = [Term(op="dense", weight=1.0, scale=scale, inputs={}) for scale in (1e-200, 1.0)]
    assert decided_sum("linear", terms, LINEAR, "BF16") is None
    assert decided_sum("ties", terms, {}, "BF16") is None
    assert decided_sum("linear", terms[1:], LINEAR, "F32") is None


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize(("weights", "start"), [((0.5, 0.5), 1.0), ((0.37, 0.23), 0.6)])
def test_sums_of_0(weights: tuple[float, ...], start: float, dtype: str) -> None:
    """They are +0.0, of a base that is not 0; 0.37 and 0.23 are not 0.6."""
    terms = [Term(op="dense", weight=1.0, scale=weight, inputs={}) for weight in weights]
    decided = decided_sum("linear", terms, {"normalize": True, "base_weight": start}, dtype)
    assert decided is not None
    base = rounded(np.array([1.5, -2.0, -0.0, 0.0, 2.0**-14]), dtype)
    others = [rounded(-in_double(base), dtype) for _ in weights]
    with np.errstate(all="ignore"):
        found, certain = decided.at(base, others)
    exact = Fraction(start) == sum(map(Fraction, weights))
    assert certain.tolist() == [exact, exact, False, False, exact]
    if exact:
        assert found.view(np.uint16)[certain].tolist() == [0, 0, 0]
