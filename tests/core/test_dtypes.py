"""The table of dtypes agrees with numpy, torch and safetensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modpkg.compose.mapping import map_tensors
from modpkg.core.dtypes import CONFIG_DTYPES, DTYPES, FLOATS, bits_of
from modpkg.core.installed import TensorRef
from modpkg.core.packs import pack_header, read_pack_header
from tests.conftest import safetensors_bytes
from tests.raising import raises


@pytest.mark.parametrize("name", DTYPES)
def test_widths_are_those_of_numpy_and_torch(name: str) -> None:
    dtype = DTYPES[name]
    if dtype.narrow != 6:  # torch has none
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


@pytest.mark.parametrize(
    ("dtype", "shape", "bits"),
    [("F4", (3, 2), 24), ("F6_E2M3", (4,), 24), ("F6_E3M2", (2, 4), 48), ("F16", (3,), 48)],
)
def test_bits_of_a_tensor(dtype: str, shape: tuple[int, ...], bits: int, tmp_path: Path) -> None:
    """As safetensors counts them: a file of narrow elements is read, and one too short is not."""
    assert bits_of(dtype, shape) == bits
    path = tmp_path / "narrow.safetensors"
    path.write_bytes(safetensors_bytes({"w": (dtype, list(shape), bytes(bits // 8))}))
    with safe_open(path, "np") as file:
        assert file.get_slice("w").get_dtype() == dtype
    held = read_pack_header(path)
    assert held["w"].length == bits // 8
    assert pack_header({"w": (dtype, shape)})[1]["w"].length == bits // 8
    path.write_bytes(safetensors_bytes({"w": (dtype, list(shape), bytes(bits // 8 + 1))}))
    with raises("M201", match="does not match its shape"):
        read_pack_header(path)


def test_four_bits_are_mapped_as_safetensors_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "narrow.safetensors"
    save_file(
        {"w": torch.arange(6, dtype=torch.uint8).view(2, 3).view(torch.float4_e2m1fn_x2)}, path
    )
    place = read_pack_header(path)["w"]
    ref = TensorRef(str(path), place.offset, place.length, place.dtype, list(place.shape), "")
    assert (place.dtype, place.shape) == ("F4", (2, 6))
    mapped = map_tensors([("w", ref)])["w"]
    assert torch.equal(mapped.view(torch.uint8), load_file(path)["w"].view(torch.uint8))
