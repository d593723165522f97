"""Products of two matrices, added in float32 first: every element is the exact one, rounded."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from modpkg.compose import low_rank
from modpkg.compose.composition import Composition
from modpkg.compose.exact import ExactTensor
from modpkg.compose.exact_numbers import Exact
from modpkg.compose.in_memory import tensor_in_memory
from modpkg.compose.low_rank import LowRankReduction
from modpkg.compose.reducers import REDUCERS
from modpkg.core import system_blas
from tests.compose.helpers import adapter, base, planned
from tests.raising import raises

Q = "model.layers.0.q"
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}
LIMITS = {"BF16": (2.0**120, 2.0**-133), "F16": (2.0**15, 2.0**-24)}
ROWS, COLUMNS, RANK = 12, 20, 3


def factors(kind: str, dtype: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a base, A and B whose sums are of a kind that is hard to round."""
    draws = torch.Generator().manual_seed(5)

    def whole(reach: int, *shape: int) -> torch.Tensor:
        return torch.randint(-reach, reach + 1, shape, generator=draws).float()

    w, a, b = whole(2000, ROWS, COLUMNS), whole(9, RANK, COLUMNS), whole(9, ROWS, RANK)
    large, small = LIMITS[dtype]
    if kind == "ties":  # the sums are halves of the last place, and some are a hair beside them
        w = w.to(DTYPES[dtype]).float()
        a, b = a / 2, b + whole(1, ROWS, RANK) * 2.0**-21
    elif kind == "cancels":
        w = -(b @ a)
        b += whole(1, ROWS, RANK) * 2.0**-14
    elif kind == "small":
        w, a, b = w * (small / 16), a * small**0.5 / 16, b * small**0.5 / 16
    elif kind == "large":
        w, a, b = w * (large / 4096), a * large**0.5 / 64, b * large**0.5 / 64
    elif kind == "far":
        w, a, b = w * 2.0**-13, a, b * 2.0 ** whole(12, ROWS, 1)
    return w.to(DTYPES[dtype]), a, b


def fractions_of(tensor: torch.Tensor) -> list[list[Fraction]]:
    return [[Fraction(value) for value in row] for row in tensor.double().tolist()]


def rounded_exactly(w: torch.Tensor, pairs: Any, dtype: str) -> list[int]:
    """Return the bits of base + Σ scale · B @ A, computed with fractions."""
    sums = fractions_of(w)
    for a, b, scale in pairs:
        left, right = fractions_of(b), fractions_of(a)
        for i, j in np.ndindex(w.shape):
            products = (left[i][k] * right[k][j] for k in range(len(right)))
            sums[i][j] += Fraction(scale) * sum(products)
    found = []
    for number in (each for row in sums for each in row):
        # A float64 that is on the number's side of every tie.
        near = float(number)
        if Fraction(near) != number and not np.array(near).view(np.uint64) & 1:
            near = float(np.nextafter(near, np.inf if number > Fraction(near) else -np.inf))
        found.append(near)
    made = Exact.of(np.array(found)).rounded(dtype)
    return [int(bits) for bits in made.view(np.uint16)]


def plan_of(folder: Path, w: torch.Tensor, pairs: Any) -> Composition:
    names = [f"adapter-{number}" for number in range(len(pairs))]
    adapters = [
        adapter(folder, name, {Q: (a, b)}, r=len(a), lora_alpha=2 * len(a))
        for name, (a, b, _) in zip(names, pairs, strict=True)
    ]
    scales = [scale / 2 for _, _, scale in pairs]
    return planned(base(folder, {f"{Q}.weight": w}), *adapters, scales=scales)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["plain", "ties", "cancels", "small", "large", "far"])
def test_each_element_is_the_exact_sum_rounded(tmp_path: Path, kind: str, dtype: str) -> None:
    w, a, b = factors(kind, dtype)
    pairs = [(a, b, 0.5), (a[:2] * 0.3, b[:, :2], 0.1)]
    made = plan_of(tmp_path, w, pairs).computed[f"{Q}.weight"]
    with (
        mock.patch.object(low_rank, "PRODUCT_ELEMENTS", 5 * COLUMNS),
        mock.patch.object(low_rank, "_STEP_ELEMENTS", 3 * COLUMNS),
        mock.patch.object(low_rank, "_WIDTH", COLUMNS - 3),
        mock.patch.object(low_rank, "_TILE", 2 * COLUMNS),
        mock.patch.object(low_rank, "_GATHERED", 7 * RANK),
    ):
        found = tensor_in_memory("model", "w", made)
    wanted = rounded_exactly(w, pairs, dtype)
    got = [each & 0xFFFF for each in found.view(torch.int16).flatten().tolist()]
    if kind == "cancels":  # zeros of either sign are equal
        got, wanted = ([each * (each != 0x8000) for each in bits] for bits in (got, wanted))
    assert got == wanted


def test_the_last_stage_is_asked_for_few_elements(tmp_path: Path) -> None:
    draws = torch.Generator().manual_seed(1)
    w = (0.02 * torch.randn(256, 512, generator=draws)).bfloat16()
    a, b = torch.randn(4, 512, generator=draws), 0.002 * torch.randn(256, 4, generator=draws)
    made = plan_of(tmp_path, w, [(a, b, 1.0)]).computed[f"{Q}.weight"]
    settled, last = [], []
    settle, at = LowRankReduction._settle, ExactTensor.at

    def counted(self: LowRankReduction, *given: Any) -> None:
        settled.append(len(given[3]))
        settle(self, *given)

    def asked(self: ExactTensor, places: Any) -> Any:
        last.append(len(places))
        return at(self, places)

    with (
        mock.patch.object(LowRankReduction, "_settle", counted),
        mock.patch.object(ExactTensor, "at", asked),
    ):
        found = tensor_in_memory("model", "w", made)
    assert sum(settled) < 0.06 * w.numel()
    assert sum(last) < 1e-4 * w.numel()
    wide = w.double() + 2.0 * 0.5 * (b.double() @ a.double())
    assert (found.float() - wide).abs().max() <= 2.0**-8 * wide.abs().max()


def test_a_result_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    w, a, b = factors("large", "BF16")
    for number, change in enumerate((torch.inf, 3e38)):
        worse = b.clone()
        worse[3, 1] = change
        made = plan_of(tmp_path / str(number), w, [(a, worse, 1.0)]).computed[f"{Q}.weight"]
        with raises("M605"):
            tensor_in_memory("model", "w", made)


def test_rows_of_the_base_that_nothing_changes_stay(tmp_path: Path) -> None:
    w, a, b = factors("small", "BF16")
    b[2:5] = 0.0
    made = plan_of(tmp_path, w, [(a, b, 1.0)]).computed[f"{Q}.weight"]
    found = tensor_in_memory("model", "w", made)
    assert torch.equal(found[2:5], w[2:5])


def test_only_sums_in_a_narrow_dtype_are_computed_in_float32(tmp_path: Path) -> None:
    w, a, b = factors("plain", "BF16")
    assert "sum" in REDUCERS
    wide = plan_of(tmp_path, w.float(), [(a, b, 1.0)]).computed[f"{Q}.weight"]
    with mock.patch.object(LowRankReduction, "within", side_effect=AssertionError):
        tensor_in_memory("model", "w", wide)


def test_products_use_one_thread_and_the_number_is_restored() -> None:
    functions = system_blas._functions()
    if functions is None:  # another library than OpenBLAS
        return
    get, change = functions
    before = get()
    change(2)
    try:
        with system_blas.one_blas_thread(), system_blas.one_blas_thread():
            assert get() == 1
        assert get() == 2
    finally:
        change(before)
