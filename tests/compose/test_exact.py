"""Exact results: against fractions, over every dtype, layout and method that is a polynomial."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modpkg.compose.blocks import TensorBlocks
from modpkg.compose.composition import ComputedTensor, Term
from modpkg.compose.doubt import doubtful
from modpkg.compose.exact import ExactTensor, is_exact
from modpkg.compose.exact_numbers import Exact
from modpkg.compose.reducers import as_arguments, find_reducer
from modpkg.compose.rounding import rounded
from modpkg.core.installed import TensorRef

DTYPES = {"BF16": (8, -126, 127), "F16": (11, -14, 15), "F32": (24, -126, 127)}
"""Significant bits, least and greatest exponent of a normal value."""


def nearest(value: Fraction, dtype: str) -> float:
    """Return a fraction rounded to nearest, ties to even."""
    bits, least, greatest = DTYPES.get(dtype, (53, -1022, 1023))
    if value == 0:
        return 0.0
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    if abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, least) - bits + 1)
    whole = round(value / unit) * unit  # round() of a Fraction goes to even
    sign = -1.0 if value < 0 else 1.0
    if abs(whole) >= Fraction(2) ** (greatest + 1):
        return sign * float("inf")
    return sign * float(abs(whole))


def as_double(stored: Any, dtype: str) -> list[float]:
    if dtype == "BF16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    return [float(value) for value in stored.reshape(-1)]


def hard_values(rng: np.random.Generator, count: int) -> Any:
    """Return floats of all sizes: near ties of every dtype, subnormal, huge, zero, equal."""
    kind = rng.integers(0, 7, count)
    plain = rng.standard_normal(count)
    ties = (rng.integers(256, 512, count) + 0.5) / 256 + rng.integers(-1, 2, count) * 2.0**-40
    return np.select(
        [kind == 0, kind == 1, kind == 2, kind == 3, kind == 4, kind == 5],
        [
            plain,
            ties,
            plain * 2.0 ** rng.integers(-150, -120, count),
            plain * 2.0 ** rng.integers(-20, 5, count),
            np.round(plain * 4) / 4,
            plain * 2.0 ** rng.integers(-1074, 1000, count),
        ],
        0.0,
    )


def test_numbers_are_fractions() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (hard_values(rng, 400) for _ in range(3))
    number = (Exact.of(a) * Exact.of(b) * 0.1 - Exact.of(c)) / 3 + Exact.of(a)
    own = [
        (Fraction(x) * Fraction(y) * Fraction(0.1) - Fraction(z)) / 3 + Fraction(x)
        for x, y, z in zip(a, b, c, strict=True)
    ]
    assert number.fractions() == own
    assert number.sign().tolist() == [(each > 0) - (each < 0) for each in own]
    for dtype in (*DTYPES, "F64"):
        found = as_double(number.rounded(dtype), dtype)
        assert found == [nearest(each, dtype) for each in own]


@pytest.mark.parametrize("dtype", [*DTYPES, "F64"])
def test_what_is_not_in_doubt_rounds_the_same_way(dtype: str) -> None:
    rng = np.random.default_rng(1)
    values = hard_values(rng, 4000)
    bound = np.abs(values) * 2.0 ** rng.integers(-52, -20, len(values)).astype(float) + 2.0**-1074
    mask = doubtful(values, bound, dtype)
    for moved in (values - bound, values + bound):
        same = rounded(moved, dtype) == rounded(values, dtype)
        assert same[~mask].all()
    assert mask.any()
    assert dtype == "F64" or not mask.all()
    assert not doubtful(values, 0.0, dtype).any()
    assert doubtful(np.array([np.inf, np.nan, 1.0]), np.array([0.0, 0.0, np.inf]), dtype).all()


class Inputs:
    """Tensors in files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tensor(self, values: Any, dtype: str) -> TensorRef:
        stored = rounded(np.asarray(values, np.float64), dtype)
        data = stored.tobytes()
        digest = hashlib.sha256(data + str(stored.shape).encode()).hexdigest()
        path = self._folder / digest
        path.write_bytes(data)
        return TensorRef(
            file=str(path),
            offset=0,
            length=len(data),
            dtype=dtype,
            shape=list(stored.shape),
            digest="sha256:" + hashlib.sha256(data).hexdigest(),
        )


def exact_of(
    blocks: TensorBlocks, computed: ComputedTensor, measured: Sequence[Any] = ()
) -> ExactTensor:
    reducer = find_reducer(computed.reducer, "m")
    assert is_exact("m", computed, reducer)
    settings: Mapping[str, Any] = {**reducer.parameters, **computed.settings}
    arguments = as_arguments(reducer, settings)
    return ExactTensor(blocks, computed.dtype, reducer, arguments, measured)


@pytest.mark.parametrize("dtype", [*DTYPES, "F64"])
def test_a_sum_of_changes_is_rounded_once(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    inputs = Inputs(tmp_path)
    values = [rng.standard_normal((6, 5)) for _ in range(2)]
    source, tune = (inputs.tensor(each, dtype) for each in values)
    a, b = (inputs.tensor(rng.standard_normal(shape), "F32") for shape in ((3, 5), (6, 3)))
    computed = ComputedTensor(
        source=source,
        dtype=dtype,
        terms=(
            Term(op="lora", weight=0.3, inputs={"a": a, "b": b}),
            Term(op="dense", weight=0.7, inputs={"values": tune}),
        ),
    )
    places = np.arange(30)
    with TensorBlocks("m", "t", computed) as blocks:
        found = exact_of(blocks, computed).at(places)
        assert len(exact_of(blocks, computed).at(places[:0])) == 0
        base, other = blocks.base.at(places), blocks.terms[1].read["values"].at(places)
        low, high = blocks.terms[0].raw["a"], blocks.terms[0].raw["b"]
    results = []
    for place in range(30):
        row, column = divmod(place, 5)
        inner = sum(Fraction(high[row, k]) * Fraction(low[k, column]) for k in range(3))
        first, second = Fraction(base[place]), Fraction(other[place])
        results.append(first + Fraction(0.3) * inner + Fraction(0.7) * (second - first))
    assert as_double(found, dtype) == [nearest(each, dtype) for each in results]
