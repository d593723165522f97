"""Quantised bases are recognised by their tensors, whatever their config says."""

from __future__ import annotations

import pytest
from transformers.utils.quantization_config import QuantizationMethod

from modpkg.adapters.quantised import Quantised, quantised
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


PLAIN = {f"{LAYER}.weight": TensorType("BF16", [4, 4])}


@pytest.mark.parametrize("method", [method.value for method in QuantizationMethod])
def test_every_method_of_transformers_is_recognised_by_the_config_alone(method: str) -> None:
    table = {"quant_method": method}
    for config in ({"quantization_config": table}, {"text_config": {"quantization_config": table}}):
        found = quantised(PLAIN, config)
        assert found == Quantised(method)
        assert "take quantization_config out" in found.remedy
    assert quantised(PLAIN, {"quantization_config": None}) is None


def test_the_config_tells_alike_tensors_apart() -> None:
    table = {f"{LAYER}.qweight": TensorType("U8", [4, 4])}
    config = {"quantization_config": {"quant_method": "fp_quant"}}
    assert quantised(table, config) == Quantised("fp_quant", f"{LAYER}.qweight")


def test_dequantising_is_offered_only_where_the_format_is_known() -> None:
    table = {f"{LAYER}.qweight": TensorType("I32", [4, 4])}
    known = quantised(table, {"quantization_config": {"quant_method": "gptq"}})
    for found, offered in ((known, True), (quantised(table, {}), False)):
        assert found is not None
        assert ("--dequantize" in found.remedy) == offered
