"""Exact results: against fractions, over every dtype, layout and method that is a polynomial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modpkg.compose.arrays import STORED, left_by_rounding
from modpkg.compose.blocks import TensorBlocks
from modpkg.compose.composition import ComputedTensor, Term
from modpkg.compose.doubt import doubtful
from modpkg.compose.exact import ExactTensor, is_exact
from modpkg.compose.exact_numbers import Exact
from modpkg.compose.model_blocks import ModelBlocks
from modpkg.compose.reducers import as_arguments, find_reducer
from modpkg.compose.reducers.stream import draws_at, stream_of, uniform
from modpkg.compose.reducers.trimming import bounds_of
from modpkg.compose.rounding import rounded
from modpkg.compose.tensor import Job, Reduction
from modpkg.core.packs import PackTensor
from tests.compose.hard_tensors import Inputs

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


def exact_of(
    blocks: TensorBlocks, computed: ComputedTensor, measured: Sequence[Any] = ()
) -> ExactTensor:
    reducer = find_reducer(computed.reducer, "m")
    assert is_exact("m", computed, reducer)
    settings: Mapping[str, Any] = {**reducer.defaults, **computed.settings}
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


# Methods: the whole reduction against fractions -------------------------------------------------

METHODS: dict[str, dict[str, Any]] = {
    "sum": {},
    "task-arithmetic": {"normalize": True, "lambda": 0.7},
    "linear": {"normalize": True, "base_weight": 0.25},
    "mean": {},
    "fisher": {"base_importance": 0.5},
    "nearswap": {"t": 0.2},
    "ram": {},
    "ram-plus": {"r": 0.7, "alpha": 0.9},
    "ramplus-tl": {"r": 0.7, "alpha": 0.1},
    "ties": {"lambda": 0.8},
    "ties-peft": {"majority_sign": "frequency"},
    "ties-mergekit": {"normalize": True, "lambda": 1.0},
    "dare-linear": {"seed": 3, "normalize": False, "rescale": True, "lambda": 1.0},
    "dare-ties": {"seed": 3, "normalize": True, "rescale": True, "lambda": 1.0},
    "breadcrumbs": {"normalize": False, "lambda": 1.0},
}
DENSITY, EPSILON = 0.6, 0.125
WEIGHTS = {
    "nearswap": (1.0,),
    **dict.fromkeys(("mean", "ties", "ram", "ram-plus", "ramplus-tl"), (1.0,) * 3),
}


def kept_of(deltas: list[Fraction], gamma: float, draws: list[int]) -> set[int]:
    """Return the places of the values that are kept: of equal ones, those with small draws."""
    count = len(deltas)
    wanted = max(int(DENSITY * count), 1)
    above = min(int(gamma * count), count - wanted)
    dropped = set(sorted(range(count), key=lambda n: (-abs(deltas[n]), -draws[n]))[:above])
    order = sorted(range(count), key=lambda place: (-abs(deltas[place]), draws[place]))
    return set([place for place in order if place not in dropped][:wanted])


def trimmed(method: str, deltas: list[Fraction], draws: list[int]) -> list[Fraction]:
    count = len(deltas)
    if method == "ties":  # of the whole model, here of one tensor: all from the threshold on
        least = sorted(map(abs, deltas), reverse=True)[int(DENSITY * count)]
        return [delta if abs(delta) >= least else Fraction(0) for delta in deltas]
    gamma = 0.05 if method == "breadcrumbs" else 0.0
    kept = kept_of(deltas, gamma, draws)
    return [delta if place in kept else Fraction(0) for place, delta in enumerate(deltas)]


def clipped(delta: Fraction, most: float) -> Fraction:
    return max(-Fraction(most), min(Fraction(most), delta))


def changes(parts: list[list[Fraction]], settings: Mapping[str, Any]) -> list[list[Fraction]]:
    """Return what RAM averages: deltas larger than epsilon, divided by how many there are."""
    masks = [[abs(delta) > Fraction(EPSILON) for delta in part] for part in parts]
    counts = [sum(row) for row in zip(*masks, strict=True)]
    found = []
    for part, mask in zip(parts, masks, strict=True):
        alone = sum(inside and count == 1 for inside, count in zip(mask, counts, strict=True))
        boost = Fraction(1)
        if "r" in settings:
            share = Fraction(sum(mask) - alone, max(alone, 1))
            boost += Fraction(settings["r"]) * min(share, Fraction(settings["alpha"]))
        found.append(
            [
                delta * inside * (boost if count == 1 else Fraction(1, max(count, 1)))
                for delta, inside, count in zip(part, mask, counts, strict=True)
            ]
        )
    return found


def merged(
    method: str,
    base: Fraction,
    deltas: Sequence[Fraction],
    weights: Sequence[float],
    settings: Mapping[str, Any],
) -> Fraction:
    """Return the result of one element, of sparsified deltas."""
    weighted = [Fraction(w) * d for w, d in zip(weights, deltas, strict=True)]
    factor, total = Fraction(settings.get("lambda", 1.0)), sum(weighted)
    whole = sum(map(Fraction, weights))
    if method == "nearswap":
        return base + clipped(deltas[0], settings["t"])
    if method.startswith("ram"):
        return base + sum(deltas)
    if method in ("sum", "breadcrumbs", "dare-linear", "task-arithmetic"):
        return base + factor * total / (whole if settings.get("normalize") else 1)
    if method == "linear":
        return base + total / (whole + Fraction(settings["base_weight"]))
    if method == "mean":
        return base + total / (len(weights) + 1)
    if method == "fisher":
        return base + total / (whole + Fraction(settings["base_importance"]))
    signs = [(d > 0) - (d < 0) for d in deltas]
    votes = {"ties": sum(deltas), "ties-peft": sum(signs)}.get(method, total)
    elected = -1 if votes < 0 else 1
    chosen = [number for number, sign in enumerate(signs) if sign == elected]
    below = sum(
        Fraction(weights[n]) if method in ("ties-mergekit", "dare-ties") else 1 for n in chosen
    )
    return base + factor * sum(weighted[n] for n in chosen) / (below or 1)


def job_of(computed: ComputedTensor) -> Job:
    """Return the job of a tensor, measured over it where the method measures over the model."""
    reducer = find_reducer(computed.reducer, "m")
    measured = None
    if reducer.across and reducer.measure is not None:
        measured = reducer.measure(ModelBlocks("m", [("t", computed)]))
    place = PackTensor(computed.dtype, computed.shape, 0, computed.length)
    return Job(model="m", name="t", computed=computed, file="", place=place, measured=measured)


def reduced(computed: ComputedTensor) -> Any:
    """Return what `Reduction` computes, measuring over the tensor where it is over the model."""
    job = job_of(computed)
    with np.errstate(all="ignore"), TensorBlocks("m", "t", computed) as blocks:
        reduction = Reduction(job, blocks)
        assert reduction.exact is not None
        return np.concatenate([block.reshape(-1) for block in reduction])


def merged_model(
    method: str,
    dtype: str,
    inputs: Inputs,
    rng: np.random.Generator,
    count: int = 240,
    largest: float = 2.0**120,
) -> tuple[ComputedTensor, list[Fraction]]:
    """Return a tensor merged from three models, and its results.

    Tunes are next to the base, or anything: differences cancel, tie and are not float64.
    """
    settings = dict(METHODS[method])
    start = hard_values(rng, count)
    largest = min(largest, 2.0**12) if dtype == "F16" else largest
    start = np.where(np.abs(start) > largest, 1.0, start)  # results are finite
    noise = [rng.integers(-3, 4, count) * 2.0 ** rng.integers(-9, -1, count) for _ in range(2)]
    models = [start * (1 + each) for each in noise] + [rng.standard_normal(count)]
    weights = WEIGHTS.get(method, (0.3, 0.5, 1.1))
    models = models[: len(weights)]
    refs = [inputs.tensor(each.reshape(-1, 15), dtype) for each in (start, *models)]
    reducer = find_reducer(method, "m")
    steps = {**reducer.step_defaults}
    if "density" in steps:
        steps["density"] = DENSITY
    if "gamma" in steps:
        steps["gamma"] = 0.05
    if "epsilon" in steps:
        steps["epsilon"] = EPSILON
    folded = method == "sum"
    terms = tuple(
        Term(
            op="dense",
            weight=weight if folded else 1.0,
            scale=1.0 if folded else weight,
            inputs={"values": ref},
            settings=steps,
        )
        for weight, ref in zip(weights, refs[1:], strict=True)
    )
    computed = ComputedTensor(
        source=refs[0],
        dtype=dtype,
        terms=terms,
        reducer=method,
        settings={**reducer.defaults, **settings},
    )
    values = [
        np.array(as_double(np.frombuffer(Path(ref.file).read_bytes(), STORED[dtype]), dtype))
        for ref in refs
    ]
    base = [Fraction(value) for value in values[0]]
    parts = [[Fraction(x) - b for x, b in zip(each, base, strict=True)] for each in values[1:]]
    with TensorBlocks("m", "t", computed) as blocks:
        keys = [term.contribution(0, 1, 15).key for term in blocks.terms]
    if method.startswith("dare"):
        for number, key in enumerate(keys):
            draws = uniform(3, key, 0, (count,))
            parts[number] = [
                part / Fraction(DENSITY) if draw < DENSITY else Fraction(0)
                for part, draw in zip(parts[number], draws, strict=True)
            ]
    elif "density" in steps:
        drawn = [draws_at(stream_of(0, key), np.arange(count)).tolist() for key in keys]
        parts = [trimmed(method, *each) for each in zip(parts, drawn, strict=True)]
    elif method.startswith("ram"):
        parts = changes(parts, settings)
    return computed, [
        merged(method, base[place], [each[place] for each in parts], weights, settings)
        for place in range(count)
    ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["BF16", "F32", "F64"])
def test_methods_round_the_exact_result(method: str, dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(len(method))
    computed, results = merged_model(method, dtype, Inputs(tmp_path), rng)
    assert as_double(reduced(computed), dtype) == [nearest(each, dtype) for each in results]


def test_of_equal_values_as_many_are_kept_as_asked_for(tmp_path: Path) -> None:
    """Both thresholds are the same value, and draws decide on which side of them one is."""
    inputs = Inputs(tmp_path)
    term = Term(
        op="dense",
        weight=1.0,
        inputs={"values": inputs.tensor(np.ones((3, 4)), "F32")},
        settings={"density": 0.25, "gamma": 0.25},
    )
    computed = ComputedTensor(
        source=inputs.tensor(np.zeros((3, 4)), "F32"),
        dtype="F32",
        terms=(term,),
        reducer="breadcrumbs",
        settings=find_reducer("breadcrumbs", "m").defaults,
    )
    assert sorted(reduced(computed).tolist()) == [0.0] * 9 + [1.0] * 3


def test_differences_that_float64_rounds_are_known() -> None:
    draws = np.random.default_rng(2)
    one, other = draws.normal(size=(2, 200)) * 2.0 ** draws.integers(-40, 40, (2, 200))
    one[:3], other[:3] = (1.0, 1.0, 3.0), (2.0**-54, 2.0**-53, -0.5)
    left = left_by_rounding(one, other)
    assert [bool(each) for each in left[:3]] == [True, False, False]
    for first, second, rest in zip(one.tolist(), other.tolist(), left.tolist(), strict=True):
        assert Fraction(first) - Fraction(second) == Fraction(first - second) + Fraction(rest)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize("density", [0.2, 0.5])
def test_thresholds_of_fine_tunes(dtype: str, density: float, tmp_path: Path) -> None:
    """Most differences are exact in float32, some only in float64, and some in neither."""
    rng = np.random.default_rng(int(density * 10))
    count = 10_000
    start = rng.standard_normal(count) * 0.02
    end = start + rng.standard_normal(count) * 4e-4
    odd = rng.choice(count, 60, replace=False)
    start[odd[:30]] = 2.0 ** rng.integers(-120, -18, 30)
    end[odd[30:]] = 2.0 ** rng.integers(-120, -18, 30)
    end[odd[:40]] = 2.0 ** rng.integers(-14, -10, 40)
    inputs = Inputs(tmp_path)
    refs = [inputs.tensor(each.reshape(200, 50), dtype) for each in (start, end)]
    term = Term(op="dense", weight=1.0, inputs={"values": refs[1]}, settings={"density": density})
    computed = ComputedTensor(source=refs[0], dtype=dtype, terms=(term,), reducer="ties-mergekit")
    with TensorBlocks("m", "t", computed) as blocks:
        bounds = bounds_of(blocks, 0, density)
        assert dtype == "F16" or any(
            block.apart.size for block in blocks.approximate(0, bounds.low)
        )
    values = [
        as_double(np.frombuffer(Path(ref.file).read_bytes(), STORED[dtype]), dtype) for ref in refs
    ]
    sizes = [abs(Fraction(x) - Fraction(b)) for b, x in zip(*values, strict=True)]
    drawn = draws_at(stream_of(0, blocks.keys[0]), np.arange(count)).tolist()
    order = sorted(range(count), key=lambda place: (-sizes[place], drawn[place]))
    low = bounds.low_exact or Fraction(bounds.low)
    below = 1 << 64 if bounds.low_draws is None else bounds.low_draws
    kept = {n for n, s in enumerate(sizes) if s > low or (s == low and drawn[n] < below)}
    assert kept == set(order[: int(density * count)])
