"""Rounding is correct: against exact arithmetic on fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modpkg.compose.rounding import rounded as rounding

FORMATS = {torch.bfloat16: (8, -126, 127), torch.float16: (11, -14, 15)}
"""Significant bits, least and greatest exponent of a normal value."""
NAMES = {torch.bfloat16: "BF16", torch.float16: "F16"}


def exact(value: float, dtype: torch.dtype) -> float:
    """Return ``value`` rounded to nearest, ties to even, by exact arithmetic."""
    bits, least, greatest = FORMATS[dtype]
    if value == 0:
        return value
    exponent = max(math.frexp(value)[1] - 1, least)
    unit = Fraction(2) ** (exponent - bits + 1)
    rounded = round(Fraction(value) / unit) * unit  # round() of a Fraction goes to even
    if abs(rounded) >= Fraction(2) ** (greatest + 1):
        return math.copysign(math.inf, value)
    return math.copysign(float(rounded), value)


def rounded(values: list[float], dtype: torch.dtype) -> list[float]:
    source = np.array(values, dtype=np.float64)
    found = rounding(source, NAMES[dtype])
    assert np.array_equal(source, np.array(values), equal_nan=True)
    return torch.from_numpy(found).view(dtype).double().tolist()


def near_ties(dtype: torch.dtype) -> list[float]:
    """Return values at and just beside ties, over all exponents and into the subnormals."""
    bits, least, greatest = FORMATS[dtype]
    found = []
    for exponent in range(least - bits - 2, greatest + 1):
        odd, even = 2**bits + 1, 2**bits + 2
        for significand in (2**bits, odd, even, 2 ** (bits + 1) - 1, 3 * 2**bits // 2 + 1):
            tie = math.ldexp(significand, exponent - bits)
            for beside in (tie, math.nextafter(tie, 0), math.nextafter(tie, math.inf)):
                for nudge in (0.0, 2.0**-26, -(2.0**-26), 2.0**-40, -(2.0**-40)):
                    found += [beside * (1 + nudge), -beside * (1 + nudge)]
    return found


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_ties_and_their_neighbours(dtype: torch.dtype) -> None:
    values = near_ties(dtype)
    assert rounded(values, dtype) == [exact(value, dtype) for value in values]


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_torchs_conversion_fails_on_these_values(dtype: torch.dtype) -> None:
    """torch's own conversion rounds twice, and these values show it."""
    values = near_ties(dtype)
    direct = torch.tensor(values, dtype=torch.float64).to(dtype).double().tolist()
    assert direct != [exact(value, dtype) for value in values]


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@settings(max_examples=60)
@given(st.lists(st.floats(-70000, 70000) | st.floats(-1e-4, 1e-4), min_size=1, max_size=200))
def test_any_value(dtype: torch.dtype, values: list[float]) -> None:
    assert rounded(values, dtype) == [exact(value, dtype) for value in values]


def test_signed_zeros_and_non_finite_values() -> None:
    for dtype in FORMATS:
        out = rounded([0.0, -0.0, math.inf, -math.inf], dtype)
        assert [math.copysign(1, value) for value in out] == [1, -1, 1, -1]
        assert out[2:] == [math.inf, -math.inf]
        assert math.isnan(rounded([math.nan], dtype)[0])


@pytest.mark.parametrize(("dtype", "kind"), [("F32", np.float32), ("F64", np.float64)])
def test_wider_dtypes_are_one_rounding(dtype: str, kind: type) -> None:
    source = np.random.default_rng(1).standard_normal(1000)
    assert np.array_equal(rounding(source, dtype), source.astype(kind))


def test_means_of_narrow_numbers_are_often_ties() -> None:
    draws = torch.randn(4000, generator=torch.Generator().manual_seed(5)).bfloat16().double()
    values = ((draws[::2] + draws[1::2]) / 2).tolist()
    assert rounded(values, torch.bfloat16) == [exact(value, torch.bfloat16) for value in values]
