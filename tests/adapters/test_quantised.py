"""Quantised bases are recognised by their tensors, whatever their config says."""

from __future__ import annotations

import pytest

from modpkg.adapters.quantised import quantised
from modpkg.core.records import TensorType

LAYER = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("tensors", "form"),
    [
        ({"weight": "U8", "weight.quant_state.bitsandbytes__nf4": "U8"}, "bitsandbytes, 4 bits"),
        ({"weight": "I8", "SCB": "F32"}, "bitsandbytes, 8 bits"),
        ({"qweight": "I32", "qzeros": "I32", "scales": "F16", "g_idx": "I32"}, "GPTQ"),
        ({"qweight": "I32", "qzeros": "I32", "scales": "F16"}, "AWQ or GPTQ"),
        ({"qweight": "I32", "scales": "F16"}, "AWQ or GPTQ"),
        ({"weight_packed": "I32", "weight_scale": "BF16"}, "compressed-tensors"),
        ({"weight": "F8_E4M3", "weight_scale_inv": "F32"}, "FP8 in blocks"),
        ({"weight": "F8_E4M3", "weight_scale": "F32"}, "weights with scales"),
        ({"weight": "I8", "weight_scale": "F32"}, "weights with scales"),
        ({"weight": "F8_E5M2"}, "F8_E5M2"),
        ({"weight": "F4"}, "F4"),
        ({"experts_blocks": "U8", "experts_scales": "U8"}, "MXFP4"),
        ({"weight": "BF16"}, None),
        ({"weight": "BF16", "weight_scale": "F32"}, None),
        ({"weight": "F32", "res_blocks": "F32"}, None),
    ],
)
def test_the_form_is_told_by_names_and_dtypes(tensors: dict[str, str], form: str | None) -> None:
    table = {f"{LAYER}.{name}": TensorType(dtype, [4]) for name, dtype in tensors.items()}
    found = quantised(table)
    assert (found.form if found is not None else None) == form
