"""GPTQ and AWQ: integers of a few bits in 32, with a scale and a zero for each group of inputs.

weight = scale · (code - zero), in the scales' dtype, as the quantisers' own ``dequantize_weight``
and ``dequantize_gemm`` compute it; then in the model's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from modpkg.adapters.orientation import CONV1D
from modpkg.interop.dequantise.weight import QuantisedModel, Weight, torch_dtype

_SCALES = ("F16", "BF16", "F32")
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""The place of each output among the eight of a word."""


def gptq_weights(model: QuantisedModel) -> list[Weight]:
    """Return the weights of GPTQ's layers, as (out, in).

    Raises:
        ValueError: A tensor does not follow the format, or a setting is not defined here.
    """
    form = model.settings.get("checkpoint_format") or "gptq"
    if form not in ("gptq", "gptq_v2"):
        raise ValueError(f"there is no exact definition of GPTQ's {form!r} here")
    bits = _bits(model, 2, 4, 8)
    made = []
    for layer in _layers(model):
        rows, outer = model.shape(f"{layer}.qweight", "I32")
        inner = rows * (32 // bits)
        groups = model.shape(f"{layer}.scales", *_SCALES)[0]
        order = model.present(f"{layer}.g_idx")
        if order and model.shape(order[0], "I32") != (inner,):
            raise ValueError(f"the groups of {layer!r} are not of its {inner} inputs")
        if not order and (groups == 0 or inner % groups):
            raise ValueError(f"the groups of {layer!r} do not divide its {inner} inputs")
        compute = partial(_gptq_computed, model, layer, bits, 0 if form == "gptq_v2" else 1)
        made.append(_weight(model, layer, bits, inner, outer, groups, order, compute))
    return made


def awq_weights(model: QuantisedModel) -> list[Weight]:
    """Return the weights of AWQ's layers, as (out, in).

    Raises:
        ValueError: A tensor does not follow the format, or a setting is not defined here.
    """
    form = str(model.settings.get("version", model.settings.get("format", "gemm"))).lower()
    if form != "gemm" or model.settings.get("zero_point", True) is not True:
        raise ValueError(f"there is no exact definition of AWQ's {form!r} here")
    bits = _bits(model, 4)
    made = []
    for layer in _layers(model):
        inner, words = model.shape(f"{layer}.qweight", "I32")
        groups = model.shape(f"{layer}.scales", *_SCALES)[0]
        if groups == 0 or inner % groups:
            raise ValueError(f"the groups of {layer!r} do not divide its {inner} inputs")
        compute = partial(_awq_computed, model, layer, inner // groups)
        outer = words * (32 // bits)
        made.append(_weight(model, layer, bits, inner, outer, groups, (), compute))
    return made


def _layers(model: QuantisedModel) -> list[str]:
    if model.config.get("model_type") in CONV1D:
        raise ValueError("its layers are stored as (in, out), which these codes do not tell")
    layers = [name.removesuffix(".qweight") for name in model.types if name.endswith(".qweight")]
    for layer in layers:
        for part in ("qweight", "qzeros", "scales"):
            if len(model.shape(f"{layer}.{part}")) != 2:
                raise ValueError(f"{layer}.{part} is not a matrix")
    return layers


def _bits(model: QuantisedModel, *known: int) -> int:
    bits = model.settings.get("bits", model.settings.get("w_bit"))
    if type(bits) is not int or bits not in known:
        raise ValueError(f"there is no exact definition of {bits!r} bits here")
    return bits


def _weight(
    model: QuantisedModel,
    layer: str,
    bits: int,
    inner: int,
    outer: int,
    groups: int,
    order: tuple[str, ...],
    compute: Any,
) -> Weight:
    if (
        model.shape(f"{layer}.scales") != (groups, outer)
        or model.shape(f"{layer}.qzeros", "I32") != (groups, -(-outer * bits // 32))
        or f"{layer}.weight" in model.types
    ):
        raise ValueError(f"the zeros or scales of {layer!r} are not of its {outer} outputs")
    parts = (f"{layer}.qweight", f"{layer}.qzeros", f"{layer}.scales", *order)
    return Weight(f"{layer}.weight", model.dtype, (outer, inner), parts, compute)


def _unpacked(words: Any, bits: int, axis: int) -> Any:
    """Return the integers in 32-bit words, the lowest bits first, along an axis."""
    import torch

    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    shape = (-1, 1) if axis == 0 else (-1,)
    codes = (words.unsqueeze(axis + 1) >> shifts.reshape(shape)) & ((1 << bits) - 1)
    return codes.flatten(axis, axis + 1)


def _gptq_computed(model: QuantisedModel, layer: str, bits: int, less: int) -> Any:
    import torch

    codes = _unpacked(model.read(f"{layer}.qweight"), bits, 0)
    scales = model.read(f"{layer}.scales")
    zeros = _unpacked(model.read(f"{layer}.qzeros"), bits, 1)[:, : scales.shape[1]]
    if less and bool((zeros == (1 << bits) - 1).any()):
        raise ValueError(f"a zero of {layer!r} is one more than its bits hold")
    if f"{layer}.g_idx" in model.types:
        group = model.read(f"{layer}.g_idx").long()
    else:
        group = torch.arange(len(codes)) // (len(codes) // len(scales))
    if len(group) and not 0 <= int(group.min()) <= int(group.max()) < len(scales):
        raise ValueError(f"an input of {layer!r} is of a group that has no scale")
    dtype = torch_dtype(model.types[f"{layer}.scales"][0])
    dense = scales[group] * (codes - (zeros + less)[group]).to(dtype)
    return dense.to(model.torch_dtype).t().contiguous()


def _awq_computed(model: QuantisedModel, layer: str, size: int) -> Any:
    scales = model.read(f"{layer}.scales")
    codes, zeros = (
        _unpacked(model.read(f"{layer}.{part}"), 4, 1)
        .unflatten(1, (-1, 8))[..., list(_AWQ_ORDER)]
        .flatten(1)
        for part in ("qweight", "qzeros")
    )
    dtype = torch_dtype(model.types[f"{layer}.scales"][0])
    centred = codes - zeros.repeat_interleave(size, 0)
    dense = centred.to(dtype) * scales.repeat_interleave(size, 0)
    return dense.to(model.torch_dtype).t().contiguous()
