"""The table of dtypes agrees with numpy, torch and safetensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modpkg.core.dtypes import CONFIG_DTYPES, DTYPES, FLOATS


@pytest.mark.parametrize("name", DTYPES)
def test_widths_are_those_of_numpy_and_torch(name: str) -> None:
    dtype = DTYPES[name]
    assert getattr(torch, dtype.torch).itemsize == dtype.width
    if dtype.numpy is not None:
        assert np.dtype(dtype.numpy).itemsize == dtype.width


@pytest.mark.parametrize("name", [name for name in DTYPES if DTYPES[name].least_nonfinite])
def test_the_least_nonfinite_bits_are_where_finite_values_end(name: str) -> None:
    dtype = DTYPES[name]
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.width]
    assert dtype.least_nonfinite is not None
    least = torch.tensor([dtype.least_nonfinite - 1, dtype.least_nonfinite], dtype=bits)
    values = least.view(getattr(torch, dtype.torch)).to(torch.float64)
    assert torch.isfinite(values).tolist() == [True, False]


def test_floats_are_those_that_torch_computes_with() -> None:
    assert sorted(FLOATS) == ["BF16", "F16", "F32", "F64"]
    assert CONFIG_DTYPES == {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
