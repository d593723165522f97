"""Weighted sums next to ties, decided by signs, against Python's fractions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from modpkg.compose.composition import Term
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


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
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
    with np.errstate(all="ignore"):
        found, certain = decided.at(starts, ends)
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


def test_weights_out_of_range_are_left_to_exact_arithmetic() -> None:
    terms = [Term(op="dense", weight=1.0, scale=scale, inputs={}) for scale in (1e-200, 1.0)]
    assert decided_sum("linear", terms, LINEAR, "BF16") is None
    assert decided_sum("ties", terms, {}, "BF16") is None
    assert decided_sum("linear", terms[1:], LINEAR, "F64") is None
