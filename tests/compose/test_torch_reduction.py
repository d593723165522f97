"""Reducing with torch gives the exact results, rounded: on the CPU here, on a GPU where there is
one (``python -m benchmarks.same_bytes``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modpkg.compose import torch_reduction
from modpkg.compose.blocks import TensorBlocks
from modpkg.compose.composition import ComputedTensor, Term
from modpkg.compose.exact import ExactTensor
from modpkg.compose.reducers import find_reducer
from modpkg.compose.rounding import rounded
from modpkg.compose.tensor import Job, Reduction
from modpkg.core.packs import PackTensor
from tests.compose.hard_tensors import METHODS, Inputs, low_rank_tensors, merged_tensors
from tests.raising import raises


def results(name: str, computed: ComputedTensor, device: str = "cpu") -> tuple[Any, Any, str]:
    """Return a tensor as torch computes it and as it is exactly, and what reduced it."""
    place = PackTensor(computed.dtype, computed.shape, 0, computed.length)
    job = Job(model="m", name=name, computed=computed, file="", place=place, device=device)
    with np.errstate(all="ignore"), TensorBlocks("m", name, computed) as blocks:
        reduction = Reduction(job, blocks)
        assert reduction.exact is not None
        exact = reduction.exact.at(np.arange(blocks.count))
        own = reduction._torch_reduction()
        found = np.concatenate([block.reshape(-1).copy() for block in own or reduction])
        blocks.check()
    return found, exact, type(own).__name__


def test_loras_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_reduction, "elements_of", lambda _: 100)
    for name, computed in low_rank_tensors(Inputs(tmp_path)):
        found, exact, kind = results(name, computed)
        assert kind == "TorchReduction", name
        assert found.tobytes() == exact.tobytes(), name


SUMS = ("sum", "mean", "linear", "task-arithmetic")


@pytest.mark.parametrize("method", SUMS)
def test_weighted_sums_are_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(torch_reduction, "elements_of", lambda _: 90)
    for number, parameters in enumerate(METHODS[method]):
        tensors = merged_tensors(Inputs(tmp_path), method, parameters, number, count=120)
        for name, computed in tensors:
            found, exact, kind = results(name, computed)
            scaled = parameters.get("normalize") is False  # the base as well
            assert kind == ("NoneType" if scaled else "TorchSum"), name
            assert found.tobytes() == exact.tobytes(), name


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.3, 0.7), (0.37, 0.23)])
@pytest.mark.parametrize("method", ["mean", "linear"])
def test_ties_are_decided_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, weights: tuple[float, float]
) -> None:
    rng = np.random.default_rng(0)
    inputs, left = Inputs(tmp_path), 0
    exactly = ExactTensor.at

    def counted(self: ExactTensor, places: Any) -> Any:
        nonlocal left
        left += len(places)
        return exactly(self, places)

    values = rng.standard_normal((40, 100))
    source, *tunes = (
        inputs.tensor(values + rng.standard_normal(values.shape) * 0.02, "BF16") for _ in range(3)
    )
    computed = ComputedTensor(
        source=source,
        dtype="BF16",
        terms=tuple(
            Term(op="dense", weight=1.0, scale=weight, inputs={"values": tune})
            for tune, weight in zip(tunes, weights if method == "linear" else (1, 1), strict=True)
        ),
        reducer=method,
        settings=find_reducer(method, "m").defaults,
    )
    monkeypatch.setattr(ExactTensor, "at", counted)
    found, exact, _ = results("w", computed)
    assert found.tobytes() == exact.tobytes()
    assert left - 4000 < 10


def test_few_elements_are_in_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    inputs, left = Inputs(tmp_path), 0
    exactly = ExactTensor.at

    def counted(self: ExactTensor, places: Any) -> Any:
        nonlocal left
        left += len(places)
        return exactly(self, places)

    source = inputs.tensor(rng.standard_normal((300, 200)) * 0.02, "BF16")
    pair: Mapping[str, Any] = {
        "a": inputs.tensor(rng.standard_normal((8, 200)), "F32"),
        "b": inputs.tensor(rng.standard_normal((300, 8)) * 0.01, "F32"),
    }
    term = Term(op="lora", weight=2.0, inputs=dict(pair))
    monkeypatch.setattr(ExactTensor, "at", counted)
    results("w", ComputedTensor(source=source, dtype="BF16", terms=(term,)))
    assert 60_000 <= left < 60_100  # all of them were asked for once, as the exact results


@pytest.mark.parametrize("dtype", torch_reduction.DTYPES)
@pytest.mark.parametrize("broken", [float("inf"), float("nan"), 3.395e38, 7e4])
def test_what_is_not_finite_is_refused(tmp_path: Path, dtype: str, broken: float) -> None:
    if broken < {"BF16": 3.395e38, "F32": float("inf"), "F16": 7e4}[dtype]:
        return
    inputs, ones = Inputs(tmp_path), np.ones((4, 4))
    b = ones.copy()
    b[2] = broken
    term = Term(
        op="lora",
        weight=1.0,
        inputs={"a": inputs.tensor(ones, "F32"), "b": inputs.tensor(b, "F32")},
    )
    computed = ComputedTensor(source=inputs.tensor(ones, dtype), dtype=dtype, terms=(term,))
    with raises("M605"):
        results("w", computed)


def test_the_bound_is_met_by_what_is_certain() -> None:
    """Whatever a value is within its bound, it rounds as `rounded_within` says, or is in doubt."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200, 300, generator=generator, dtype=torch.float64)
    values *= 2.0 ** torch.randint(-30, 12, (200, 1), generator=generator)
    for dtype in torch_reduction.DTYPES:
        bound = values.abs().amin(1) * 2.0**-30
        low, doubt = torch_reduction.rounded_within(values.clone(), bound, dtype)
        assert doubt.float().mean() < 0.2
        for share in (-0.5, 0.5):
            moved = values + share * bound.unsqueeze(1)
            exact = rounded(moved.numpy(), dtype)
            same = low.view(torch.int16 if low.itemsize == 2 else torch.int32).numpy()
            assert ((same == exact.view(same.dtype)) | doubt.numpy()).all()


@pytest.mark.parametrize(("weight", "expected"), [(0.1, 1.0078125), (0.25, 1.0), (0.375, 1.0)])
def test_a_factor_that_was_rounded_decides_no_tie(
    tmp_path: Path, weight: float, expected: float
) -> None:
    """0.1 · 10 is 1 in float64, and more than 1 exactly."""
    inputs = Inputs(tmp_path)
    b = {0.1: 10.0, 0.25: 4.0, 0.375: 2.6666666}[weight]
    pair = {"a": inputs.tensor(np.ones((1, 3)), "F32"), "b": inputs.tensor([[b / 256]], "F32")}
    term = Term(op="lora", weight=weight, inputs=pair)
    source = inputs.tensor(np.ones((1, 3)), "BF16")
    found, exact, _ = results("w", ComputedTensor(source=source, dtype="BF16", terms=(term,)))
    assert found.tobytes() == exact.tobytes()
    assert float((found.astype(np.uint32) << 16).view(np.float32)[0]) == expected
