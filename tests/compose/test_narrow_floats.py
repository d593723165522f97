"""Reducing in float32 first gives float64's result, bit for bit, whatever the values are."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from modpkg.compose import narrow_floats
from modpkg.compose.arrays import STORED, Array, Stored, in_double, in_single
from modpkg.compose.in_memory import tensor_in_memory
from modpkg.compose.narrow_floats import (
    NarrowReduction,
    cancelled,
    largest_magnitudes,
    nearest_narrow,
    out_of_range,
    round_to_narrow,
)
from modpkg.compose.reducers import REDUCERS, Contribution, as_arguments
from modpkg.compose.reducers.single import NARROW
from modpkg.compose.reducers.trimming import TrimBounds, threshold_cuts
from modpkg.compose.rounding import rounded
from modpkg.compose.tensor import Job, Reduction
from modpkg.core.errors import ComposeError
from tests.compose.helpers import base, module
from tests.compose.test_reducers import NAMES, World

METHODS: dict[str, list[dict[str, Any]]] = {
    "sum": [{}],
    "mean": [{}, {"with_base": False}],
    "linear": [{}, {"base_weight": 0.25}, {"base_weight": 0.3}],
    "task-arithmetic": [{}, {"lambda": 0.7}, {"lambda": -2.0, "normalize": True}],
    "ties": [{"density": 0.4}, {"density": 1.0}, {"density": 0.6, "lambda": 0.5}],
    "ties-mergekit": [
        {"density": 0.4},
        {"density": 0.7, "normalize": False},
        {"density": 0.3, "lambda": 0.3},
        {"density": 0.5, "rescale": True},
    ],
    "ties-peft": [{"density": 0.4}, {"density": 0.4, "majority_sign": "frequency"}],
}
CASES = [(method, index) for method, sets in METHODS.items() for index in range(len(sets))]
COUNT = 1200


def test_every_method_in_float32_is_tested() -> None:
    assert {name for name, item in REDUCERS.items() if item.single} == METHODS.keys()


DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}
INFINITY = {"BF16": 0x7F80, "F16": 0x7C00}
ONE = {"BF16": 127 << 7, "F16": 15 << 10}


def bits(seed: int, kind: str, dtype: str, count: int = COUNT) -> list[NDArray[np.uint16]]:
    """Return bits of a base and three fine-tunes: near, on ties, far, or any that are finite."""
    draws = np.random.default_rng(seed)
    if kind in ("any", "all"):
        most = INFINITY[dtype] if kind == "any" else 0x8000
        found = draws.integers(0, most, (4, count)) | draws.integers(0, 2, (4, count)) << 15
        return list(found.astype(np.uint16))
    binade = 1 << NARROW[dtype].fraction
    start = draws.integers(ONE[dtype] - 4 * binade, ONE[dtype] + binade, count)
    start |= draws.integers(0, 2, count) << 15
    reach = {"near": 6, "ties": 2, "edges": 3 * binade + 10}[kind]
    models = [start] + [start + draws.integers(-reach, reach + 1, count) for _ in range(3)]
    if kind == "near":  # and some of what is not
        for model in models:
            model[draws.integers(0, count, 25)] = draws.choice(
                [0, 0x8000, 1, 0x8001, INFINITY[dtype] - 1], 25
            )
    return [model.astype(np.uint16) for model in models]


def world(seed: int, kind: str, dtype: str = "BF16") -> World:
    """Return a base and three fine-tunes of one tensor in the place of a `World`'s."""
    found = World(seed)
    tensors = [
        {"w": torch.from_numpy(each.view(np.int16)).view(DTYPES[dtype]).reshape(-1, 30)}
        for each in bits(seed, kind, dtype)
    ]
    found.modules = {"base": base(Path(tempfile.mkdtemp()), tensors[0])}
    for name, own in zip(NAMES, tensors[1:], strict=True):
        found.modules[name] = module(found.folder, name, "base", own, config={})
    return found


def both_ways(world: World, method: str, steps: Any, **parameters: Any) -> tuple[Any, Any, int]:
    """Return a tensor computed in float32 first, in float64 only, and how many values the first
    left to float64."""
    composition = world.plan(method, steps, **parameters)
    left = 0
    exactly = Reduction._at

    def counted(self: Reduction, base: Array, others: Sequence[Array], places: Any) -> Stored:
        nonlocal left
        left += base.size
        return exactly(self, base, others, places)

    measured = None
    made = composition.computed["w"]
    reducer = REDUCERS[method]
    if reducer.across and reducer.measure is not None:
        from modpkg.compose.model_blocks import ModelBlocks

        with np.errstate(all="ignore"):
            measured = reducer.measure(ModelBlocks("model", [("w", made)]))

    def once() -> Any:
        build = Job

        def job(**named: Any) -> Job:
            return build(**named, measured=measured)

        with mock.patch("modpkg.compose.in_memory.Job", job):
            try:
                return tensor_in_memory("model", "w", made).view(torch.int16).tolist()
            except ComposeError:
                return "not finite"

    with (
        mock.patch.object(narrow_floats, "SINGLE_ELEMENTS", 256),
        mock.patch.object(Reduction, "_at", counted),
    ):
        first = once()
    with mock.patch.object(Reduction, "_narrow_reduction", return_value=None):
        return first, once(), left


@pytest.mark.parametrize(("method", "index"), CASES)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["near", "ties", "edges", "any", "all"]),
    dtype=st.sampled_from(list(DTYPES)),
    weights=st.lists(
        st.sampled_from([0.5, 0.25, 1.0, 0.3, 0.7, 1.7, 2.0, -0.5, 0.1, 1 / 3, 1e-3, 30.0]),
        min_size=1,
        max_size=3,
    ),
)
def test_the_result_is_that_of_float64(
    method: str, index: int, seed: int, kind: str, dtype: str, weights: list[float]
) -> None:
    if not REDUCERS[method].weighted:
        weights = [1.0] * len(weights)
    if method == "linear":
        weights = [abs(weight) for weight in weights]  # a sum of 0 is refused
    steps = list(zip(NAMES, weights, strict=False))
    made = world(seed, kind, dtype)
    single, double, _ = both_ways(made, method, steps, **METHODS[method][index])
    assert single == double


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.31, 0.63)])
@pytest.mark.parametrize("kind", ["near", "ties"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_most_of_a_merge_is_computed_in_float32(
    method: str, weights: tuple[float, float], kind: str, dtype: str
) -> None:
    """Otherwise these tests would pass if float32 were never used."""
    if not REDUCERS[method].weighted:
        weights = (1.0, 1.0)
    steps = list(zip(NAMES, weights, strict=False))
    _, _, left = both_ways(world(3, kind, dtype), method, steps, **METHODS[method][0])
    assert left < COUNT / 3


# The bounds that `SinglePrecision` states -------------------------------------------------------

WEIGHTS = [0.5, 0.25, 0.3, 0.7, 1.0, 1 / 3, 1.7, -0.4, 109 / 64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_proofs_assumptions_about_a_dtype(dtype: str) -> None:
    narrow, layout = NARROW[dtype], narrow_floats.LAYOUTS[dtype]
    assert 2 * narrow.exact + narrow.fraction + 1 <= 14
    assert narrow.fraction == layout.fraction
    steps = narrow.exact << narrow.fraction
    # A value of the other sign is 2¹⁵ steps away, less the difference of both without theirs.
    assert max(0x7FFF - layout.small, layout.large) < (1 << 15) - steps
    # What is as far away as may be is normal.
    assert layout.small - steps >= 1 << narrow.fraction
    assert layout.large + steps < INFINITY[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_values_cancel_or_are_far_apart(dtype: str) -> None:
    layout, stored = narrow_floats.LAYOUTS[dtype], STORED[dtype]
    most, close = 2, 22 - layout.fraction
    bits = np.array([0, 1, 0x8001, INFINITY[dtype], 0x7FFF, layout.small, layout.large], np.uint16)
    draws = np.random.default_rng(3)
    base, one, two, result = (
        np.concatenate([np.roll(bits, shift), draws.integers(0, 1 << 16, 4000, np.uint16)])
        for shift in range(4)
    )
    base[5:2000] = ONE[dtype] + draws.integers(-2000, 2000, 1995)
    models = [each.view(stored) for each in (base, one, two)]
    with np.errstate(all="ignore"):
        sizes = [np.abs(in_double(each)) for each in (*models, result.view(stored))]
        largest = np.maximum(np.maximum(sizes[0], sizes[1]), sizes[2])
        least = np.minimum(np.minimum(sizes[0], sizes[1]), sizes[2])
        ends = [in_double(np.array([b], np.uint16).view(stored))[0] for b in bits[-2:]]
        fine = (sizes[3] >= ends[0]) & (sizes[3] <= ends[1]) & (largest <= 2**most * sizes[3])
        apart = fine & (largest <= 2.0**close * least)
        fine &= np.isfinite(largest)
        for near, expected in ((0, fine), (close, apart)):
            found = ~cancelled(models[0], models[1:], result, most, near, layout)
            # the bits of subnormal numbers are not like logarithms
            normal = (result & 0x7FFF >= layout.small) & (least >= ends[0])
            assert found[normal].tolist() == expected[normal].tolist()
            assert not (found & ~fine).any()
            assert found.any()
        exact = in_single(models[0]) - in_single(models[1])
        wide = in_double(models[0]) - in_double(models[1])
        assert (exact == wide)[found].all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_float32_is_within_its_stated_error(method: str, dtype: str) -> None:
    """For values as far from the base as allowed."""
    layout, stored = narrow_floats.LAYOUTS[dtype], STORED[dtype]
    reducer = REDUCERS[method]
    checked = exact = 0
    for count, parameters in itertools.product((1, 2, 3), METHODS[method]):
        # Of three weights, every fifth choice: that has each weight with each other one.
        for weights in itertools.islice(
            itertools.product(WEIGHTS, repeat=count), None, None, 5 if count == 3 else 1
        ):
            if not reducer.weighted and set(weights) != {1.0}:
                continue
            given = {**reducer.defaults, **parameters}
            given.pop("density", None)
            single = reducer.single(NARROW[dtype], weights, given) if reducer.single else None
            if single is None:
                continue
            draws = np.random.default_rng(checked)
            start = ONE[dtype] + draws.integers(0, 1 << layout.fraction, 600)
            reach = single.steps or 4 << layout.fraction
            near = [start + _edges(draws, reach, 600) for _ in weights]
            if single.ulps:
                near = [each ^ draws.choice([0, 0, 0, 1 << 15], 600) for each in near]
            models = [each.astype(np.uint16).view(stored) for each in (start, *near)]
            outside = np.zeros(600, np.bool_)
            if not single.ulps:
                outside = out_of_range(models[0], models[1:], single.steps, layout)
                assert not outside.any()
            bounds = [TrimBounds() for _ in weights]
            if "ties" in method:
                least = [float(draws.choice([0.0, 2.0**-6, 0.3])) for _ in weights]
                half = [int(draws.choice([0, 1 << 63])) or None for _ in least]
                bounds = [
                    TrimBounds(each, limit if each else None, stream=checked)
                    for each, limit in zip(least, half, strict=True)
                ]
            doubt = np.zeros(600, np.bool_)
            got = [in_single(each) for each in models]
            others = got[1:] if single.of_values else [each - got[0] for each in got[1:]]
            cuts = threshold_cuts(bounds, 0)
            assert cuts is not None
            with np.errstate(over="ignore"):
                values = single.reduce(got[0].copy(), others, cuts, doubt)
            if single.ulps:
                result = rounded(values.astype(np.float64), dtype).view(np.uint16)
                close = 0 if single.of_values else 22 - layout.fraction
                how = (single.cancelled, close, layout)
                outside = cancelled(models[0], models[1:], result, *how)
                assert np.count_nonzero(outside) < 500
            doubt |= outside
            wanted = _in_double(method, models, weights, bounds, given)
            off = np.abs(values.astype(np.float64) - wanted) / np.spacing(np.abs(values))
            assert (off[~doubt] <= single.ulps).all(), (weights, parameters)
            checked += 1
            exact += not single.ulps
    assert checked > exact > 0


def _edges(draws: Any, steps: int, count: int) -> Any:
    """Return distances in representable bfloat16 values: up to the largest allowed."""
    any_size = draws.integers(-steps, steps + 1, count)
    small = draws.integers(-min(3, steps), min(3, steps) + 1, count)
    return np.where(draws.random(count) < 0.3, small, any_size)


def _in_double(
    method: str, models: list[Any], weights: Sequence[float], bounds: Any, given: dict[str, Any]
) -> Array:
    reducer = REDUCERS[method]
    wide = [in_double(each).reshape(1, -1) for each in models]
    changes = [
        Contribution(
            delta=(other - wide[0]) * (weight if method == "sum" else 1.0),
            weight=1.0 if method == "sum" else weight,
        )
        for other, weight in zip(wide[1:], weights, strict=True)
    ]
    measured = [bounds] if reducer.measure else []
    with np.errstate(all="ignore"):
        found = reducer.reduce(wide[0], changes, *measured, **as_arguments(reducer, given))
    return np.asarray(found).reshape(-1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tie_is_broken_by_the_smallest_weight(dtype: str) -> None:
    """Weights whose float64 sum is not exact make no short factors."""
    for kind in ("near", "ties"):
        made = world(5, kind, dtype)
        steps = [(name, 0.5) for name in NAMES[:2]]
        single, double, _ = both_ways(made, "linear", steps, base_weight=1e-17)
        assert single == double


def test_out_of_range_values_are_flagged() -> None:
    every = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    ends = (0x2180, 0x217F, 0x5D80, 0x5DFF, 0x0C00, 0x0BFF, 0x7000, 0x7001)
    for bit, dtype in itertools.product(
        (0x3F80, 0x3F81, 0xBFFF, 0x0001, 0x0000, 0x8000, 0x7F80, *ends), DTYPES
    ):
        layout = narrow_floats.LAYOUTS[dtype]
        least, most = {"BF16": (2.0**-60, 2.0**60), "F16": (2.0**-12, 2.0**13)}[dtype]
        for steps in (1, 32, 256, 384, 1024):
            start = np.full(every.size, bit, np.uint16)
            outside = out_of_range(start, [every], steps, layout)
            with np.errstate(invalid="ignore"):
                b, x = in_double(start.view(STORED[dtype])), in_double(every.view(STORED[dtype]))
            fine = (np.signbit(b) == np.signbit(x)) & (abs(b) >= least) & (abs(b) <= most)
            fine &= np.abs((start & 0x7FFF).astype(int) - (every & 0x7FFF).astype(int)) <= steps
            assert (outside == ~fine).all(), (hex(bit), steps)
            assert (outside == out_of_range(start, [start, every, start], steps, layout)).all()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, (1 << 32) - 1).filter(lambda n: (n >> 23) & 0xFF < 0xFF), min_size=1),
    st.sampled_from([0, 1, 2, 100, 400]),
    st.sampled_from(list(DTYPES)),
)
def test_rounding_is_to_nearest_and_flags_ties(patterns: list[int], ulps: int, dtype: str) -> None:
    layout = narrow_floats.LAYOUTS[dtype]
    if dtype == "F16":  # as great as float16 is, or almost
        patterns = [n & 0x807FFFFF | (110 + (n >> 23) % 35) << 23 for n in patterns]
    tie = 1 << (22 - layout.fraction)
    ties = [n & ~(2 * tie - 1) | tie + off for n in patterns for off in (-ulps, 0, ulps)]
    values = np.array(patterns + ties, np.uint32)
    doubt = np.zeros(values.size, np.bool_)
    single = values.copy().view(np.float32)
    found = round_to_narrow(single.copy(), ulps, layout, doubt)
    unsure = np.zeros(values.size, np.bool_)
    nearest = np.empty(values.size, np.uint16)
    nearest_narrow(single, layout, unsure, nearest, np.empty(values.size, np.float32))
    wanted = rounded(single.astype(np.float64), dtype).view(np.uint16)
    assert (found == wanted)[~doubt].all()
    tied = (values & np.uint32(2 * tie - 1)) == tie
    in_range = np.ones(values.size, np.bool_)
    if dtype == "F16":
        in_range = (abs(single) >= 2.0**-14) & (abs(single) <= 2.0**15)
    assert (nearest == wanted)[in_range & ~tied].all()
    away = rounded(single.astype(np.float64) * (1 + 2.0**-30), dtype).view(np.uint16)
    assert (nearest == away)[in_range].all()
    assert (unsure == (doubt if not ulps else unsure & ~in_range)).all()
    normal = np.ones(values.size, np.bool_)
    if dtype == "F16":
        normal = (abs(single) >= 2.0**-14) & (abs(single) <= 2.0**15)
    near_tie = abs((values & np.uint32(2 * tie - 1)).astype(int) - tie) <= ulps if ulps else False
    assert (doubt == (near_tie | ~normal)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_magnitude_of_each_row(dtype: str) -> None:
    largest = INFINITY[dtype]
    rows = [[0, 0x8000], [1, 0x8002], [3, 0x8001], [0x8000 | largest - 1, 5], [largest, 0xFFFF]]
    stored = np.array(rows, np.uint16).view(STORED[dtype])
    found = largest_magnitudes(stored)
    wanted = np.abs(in_double(stored)).max(axis=1)
    assert found[:4].tolist() == wanted[:4].tolist()
    assert not np.isfinite(found[4])


def test_float16_is_widened_exactly() -> None:
    every = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    assert (in_single(every).view(np.uint32) == every.astype(np.float32).view(np.uint32)).all()


def test_other_dtypes_and_operators_do_not_use_float32() -> None:
    """Only fine-tunes in bfloat16 or float16 are reduced in float32."""
    made = World(5, torch.float32)
    with mock.patch.object(NarrowReduction, "within", side_effect=AssertionError):
        made.bytes("linear", {"one": 0.5})
        made.bytes("dare-linear", {"one": 0.5}, density=0.5)
    with (
        mock.patch.object(NarrowReduction, "within", side_effect=ArithmeticError),
        pytest.raises(ArithmeticError),
    ):
        World(5).bytes("linear", {"one": 0.5})


def test_a_weight_that_underflows_in_float32() -> None:
    made = world(9, "near")
    for weight in (1e-60, 1e60, 1e-40, -1e30, math.pi * 1e-8):
        for method in ("sum", "linear", "ties-mergekit"):
            single, double, _ = both_ways(made, method, [("one", weight), ("two", 0.5)])
            assert single == double
