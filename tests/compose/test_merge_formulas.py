"""The merge methods that measure tensors first, against their formulas in plain float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modpkg.compose.rows as rows_module
from modpkg.compose.arrays import Array
from modpkg.compose.blocks import TensorBlocks
from modpkg.compose.composition import ComputedTensor, Term
from modpkg.compose.reducers import find_reducer
from modpkg.compose.reducers.stream import draws_at, stream_of
from modpkg.compose.reducers.trimming import TrimBounds, dropped, largest_of
from modpkg.compose.tensor import Reduction
from tests.compose.hard_tensors import Inputs
from tests.compose.test_exact import job_of

SHAPES = [(7, 12), (30,), (4, 3, 5), (9, 1), (1, 8)]


class Merge:
    """A base and models with float64 values, merged by a method."""

    def __init__(self, folder: Path, shape: tuple[int, ...], models: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.folder = folder
        self.base = rng.standard_normal(shape)
        self.models = [
            self.base + rng.standard_normal(shape) * rng.choice([0.3, 0.0, 1e-3], shape)
            for _ in range(models)
        ]

    def result(self, method: str, scales: tuple[float, ...] = (), **settings: Any) -> Array:
        inputs, reducer = Inputs(self.folder), find_reducer(method, "m")
        scales = scales or (1.0,) * len(self.models)
        computed = ComputedTensor(
            source=inputs.tensor(self.base, "F64"),
            dtype="F64",
            terms=tuple(
                Term(op="dense", weight=1.0, scale=s, inputs={"values": inputs.tensor(x, "F64")})
                for x, s in zip(self.models, scales, strict=True)
            ),
            reducer=method,
            settings={**reducer.defaults, **settings},
        )
        with np.errstate(all="ignore"), TensorBlocks("m", "t", computed) as blocks:
            parts = [part.reshape(-1) for part in Reduction(job_of(computed), blocks)]
        found: Array = np.concatenate(parts)
        return found.reshape(self.base.shape)


@pytest.mark.parametrize("elements", [1, 16, 1 << 16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_sce(
    shape: tuple[int, ...],
    share: float,
    elements: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows_module, "BLOCK_ELEMENTS", elements)
    merge = Merge(tmp_path, shape, 3, seed=len(shape))
    tasks = np.stack([model - merge.base for model in merge.models])
    variance = tasks.var(axis=0).reshape(-1)
    variance[np.ptp(tasks, axis=0).reshape(-1) == 0] = 0
    if share < 1:
        wanted = int(share * np.count_nonzero(variance))
        mask = np.zeros(variance.size)
        mask[np.argsort(-variance, kind="stable")[:wanted]] = 1
        tasks *= mask.reshape(shape)
    squares = (tasks**2).reshape(3, -1).mean(axis=1)
    weights = squares / squares.sum() if squares.any() else np.full(3, 1 / 3)
    elected = np.where(tasks.sum(axis=0) >= 0, 1, -1)
    chosen = (np.sign(tasks) == elected) * weights.reshape(3, *[1] * len(shape))
    below = chosen.sum(axis=0)
    wanted_result = merge.base + (tasks * chosen).sum(axis=0) / np.where(below == 0, 1, below)
    found = merge.result("sce", select_topk=share)
    np.testing.assert_allclose(found, wanted_result, rtol=1e-12, atol=1e-14)


def test_sce_weighs_small_changes_equally_unless_told_otherwise(tmp_path: Path) -> None:
    merge = Merge(tmp_path, (3, 4), 2)
    merge.models = [merge.base + 1e-4, merge.base + 3e-4]
    middle = merge.result("sce") - merge.base
    np.testing.assert_allclose(middle, 2e-4, rtol=1e-9)
    weighed = merge.result("sce", equal_below=0.0) - merge.base
    np.testing.assert_allclose(weighed, 2.8e-4, rtol=1e-9)  # weights 1/10 and 9/10


@pytest.mark.parametrize("elements", [1, 16, 1 << 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_arcee_fusion(
    shape: tuple[int, ...], elements: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "BLOCK_ELEMENTS", elements)
    merge = Merge(tmp_path, shape, 1, seed=1)

    def softmax(values: Array) -> Array:
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True) + 1e-8

    p, q = softmax(merge.models[0]), softmax(merge.base)
    divergence = (p * np.log(p / q)).sum(axis=-1, keepdims=True).clip(min=0)
    delta = merge.models[0] - merge.base
    importance = np.abs(delta) * divergence
    order = np.sort(importance, axis=None)
    low, middle, high = (order[int(s * (order.size - 1))] for s in (0.25, 0.5, 0.75))
    threshold = middle + 1.5 * (high - low)
    clear = np.abs(importance - threshold) > 1e-12 * threshold
    wanted = merge.base + delta * (importance >= threshold)
    found = merge.result("arcee-fusion")
    assert clear.mean() > 0.9 or not threshold
    np.testing.assert_allclose(found[clear], wanted[clear], rtol=1e-14)


@pytest.mark.parametrize("elements", [1, 16, 1 << 16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("from_base", [True, False])
@pytest.mark.parametrize("vectors", ["tensor", "rows", "columns"])
def test_nuslerp(
    shape: tuple[int, ...],
    from_base: bool,
    vectors: str,
    elements: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows_module, "BLOCK_ELEMENTS", elements)
    merge = Merge(tmp_path, shape, 2 if from_base else 1, seed=2)
    merge.models[0].reshape(shape[0], -1)[0] = merge.base.reshape(shape[0], -1)[0]  # collinear
    ends = [model - merge.base for model in merge.models]
    if not from_base:
        ends = [merge.base, merge.models[0]]
    axes = {"tensor": None, "rows": -1, "columns": 0}[vectors]

    def inner(a: Array, b: Array) -> Array:
        total: Array = (a * b).sum(axis=axes, keepdims=True)
        return total

    lengths = [np.sqrt(inner(each, each)).clip(min=1e-7) for each in ends]
    cos = (inner(*ends) / lengths[0] / lengths[1]).clip(-1, 1)
    theta = np.arccos(cos)
    with np.errstate(all="ignore"):
        factors = [np.sin(share * theta) / np.sin(theta) for share in (0.25, 0.75)]
    straight = 1 - cos**2 <= 1e-16
    first, second = (np.where(straight, s, f) for s, f in zip((0.25, 0.75), factors, strict=True))
    wanted = first * ends[0] + second * ends[1] + (merge.base if from_base else 0)
    scales = (0.5, 1.5) if from_base else (1.5,)
    found = merge.result("nuslerp", scales, from_base=from_base, base_weight=0.5, vectors=vectors)
    # Next to collinear, the angle's own error is divided by its sine.
    tolerance = 1e-9 if straight.any() or (1 - cos**2 < 1e-6).any() else 1e-12
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def test_of_equal_computed_values_those_that_are_drawn_are_the_largest() -> None:
    values = np.array([3.0, 1.0, 2.0, 2.0, 0.0, 2.0, 5.0])
    blocks = [values[:3], values[3:]]
    for wanted in range(1, 8):
        bounds = largest_of(lambda: iter(blocks), np.empty(0), wanted, 7, b"key")
        kept = ~dropped(values, bounds, 0)
        order = np.lexsort([draws_at(stream_of(0, b"key"), np.arange(7)), -values])[:wanted]
        assert set(np.flatnonzero(kept)) == set(order)
    assert largest_of(lambda: iter(blocks), values, 0, 7, b"") == TrimBounds(low=float("inf"))
