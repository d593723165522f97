"""What is not finite is counted from the bits, in every dtype that can hold it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

from modpkg.release.finite import count_nonfinite
from tests import tiny
from tests.raising import raises


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("F64", torch.float64),
        ("F32", torch.float32),
        ("F16", torch.float16),
        ("BF16", torch.bfloat16),
        ("F8_E5M2", torch.float8_e5m2),
        ("F8_E4M3", torch.float8_e4m3fn),
        ("I32", torch.int32),
    ],
)
def test_counts_agree_with_torch(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    if dtype == torch.int32:
        tensor = torch.full((5,), -1, dtype=dtype)
    else:
        values = [0.0, -0.0, 1e-3, -448.0, float("nan"), -float("nan"), float("inf"), -float("inf")]
        tensor = torch.tensor(values * 9).to(dtype)
    wide = tensor.double() if dtype.itemsize > 1 else tensor.float()
    path = tmp_path / "t"
    raw = tensor.view(torch.uint8).numpy().tobytes()
    path.write_bytes(b"before" + raw)
    wanted = int((~torch.isfinite(wide)).sum())
    assert count_nonfinite(path, 6, len(raw), name) == wanted


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_an_adapter_that_is_not_finite_is_told_when_it_is_built(tmp_path: Path, value: str) -> None:
    tiny.publish(tiny.write_base(tmp_path / "tiny"), tmp_path / "registry")
    folder = tiny.write_adapter(tmp_path / "lora")
    weights = bytearray((folder / "adapter_model.safetensors").read_bytes())
    weights[-4:] = struct.pack("<f", float(value))
    (folder / "adapter_model.safetensors").write_bytes(weights)
    with raises("M217", match="1 non-finite"):
        tiny.publish(folder, tmp_path / "registry")
