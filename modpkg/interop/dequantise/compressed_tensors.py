"""compressed-tensors: FP8 or integers with a scale for each tensor, row, group or block.

weight = (code - zero) · scale in the scale's dtype, then in the model's; as the library's
``dequantize`` and transformers compute it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from modpkg.interop.dequantise.weight import QuantisedModel, Weight, torch_dtype

_FORMATS = ("float-quantized", "int-quantized", "naive-quantized", "pack-quantized")
_SCALES = ("F32", "BF16", "F16")


def weights(model: QuantisedModel) -> list[Weight]:
    """Return the weights of compressed layers.

    Raises:
        ValueError: A tensor does not follow the format, or a setting is not defined here.
    """
    scheme = _scheme(model)
    made = []
    for name in model.types:
        if not name.endswith(".weight_scale"):
            continue
        layer = name.removesuffix(".weight_scale")
        packed, codes = f"{layer}.weight_packed", f"{layer}.weight"
        if packed in model.types:
            made.append(_packed(model, layer, scheme))
            continue
        shape = model.shape(codes, "F8_E4M3", "I8")
        zero = model.present(f"{layer}.weight_zero_point")
        sources = (codes, name, *zero, *_activation(model, layer))
        sizes = _sizes(model, layer, shape, scheme)
        compute = partial(_computed, model, layer, model.read, sizes)
        made.append(Weight(codes, model.dtype, shape, sources, compute))
    return made


def _scheme(model: QuantisedModel) -> dict[str, Any]:
    """Return the settings of weights, which have to be the same in all groups."""
    settings = model.settings
    groups = settings.get("config_groups")
    schemes = [
        group.get("weights")
        for group in (groups.values() if isinstance(groups, dict) else ())
        if isinstance(group, dict)
    ]
    forms = {settings.get("format")} | {
        group.get("format") for group in (groups or {}).values() if isinstance(group, dict)
    }
    forms -= {None}
    if not forms <= set(_FORMATS):
        raise ValueError(f"there is no exact definition of the formats {sorted(map(str, forms))}")
    first = schemes[0] if schemes else None
    if not isinstance(first, dict) or any(other != first for other in schemes):
        raise ValueError("its layers are quantised in more than one way")
    for key in ("sparsity_config", "transform_config"):
        if settings.get(key):
            raise ValueError(f"it has a {key}")
    return first


def _activation(model: QuantisedModel, layer: str) -> tuple[str, ...]:
    """Return the scales of what a layer reads and writes; they do not change its weight."""
    return model.present(
        *(
            f"{layer}.{side}_{what}"
            for side in ("input", "output")
            for what in ("scale", "zero_point")
        )
    )


def _sizes(
    model: QuantisedModel, layer: str, shape: tuple[int, ...], scheme: dict[str, Any]
) -> tuple[int, int] | None:
    """Return rows and columns that share a scale; None where the whole tensor shares one."""
    grid = model.shape(f"{layer}.weight_scale", *_SCALES)
    strategy = scheme.get("strategy")
    rows, columns = (*shape, 1, 1)[:2]
    if strategy == "tensor" and math.prod(grid) == 1:
        return None
    if strategy == "channel" and grid in ((rows, 1), (rows,)):
        return 1, columns
    size = scheme.get("group_size")
    size = size if isinstance(size, int) and size > 0 and strategy == "group" else 0
    if size and not columns % size and grid == (rows, columns // size):
        return 1, size
    block = scheme.get("block_structure")
    if (
        strategy == "block"
        and isinstance(block, list)
        and len(block) == 2
        and all(type(n) is int and n > 0 for n in block)
        and grid == (-(-rows // block[0]), -(-columns // block[1]))
    ):
        return block[0], block[1]
    raise ValueError(f"the scales of {layer!r} are not those of the strategy {strategy!r}")


def _packed(model: QuantisedModel, layer: str, scheme: dict[str, Any]) -> Weight:
    bits = scheme.get("num_bits")
    if type(bits) is not int or not 1 <= bits <= 8 or scheme.get("type", "int") != "int":
        raise ValueError(f"there is no exact definition of {bits!r} bits here")
    extents = f"{layer}.weight_shape"
    if model.shape(extents, "I64", "I32") != (2,):
        raise ValueError(f"{layer}.weight_shape is not two numbers")
    rows, columns = shape = tuple(int(extent) for extent in model.read(extents).tolist())
    words = model.shape(f"{layer}.weight_packed", "I32")
    if min(shape) < 1 or words != (rows, -(-columns * bits // 32)):
        raise ValueError(f"the words of {layer!r} do not hold {list(shape)} codes of {bits} bits")
    sizes = _sizes(model, layer, shape, scheme)
    zero = model.present(f"{layer}.weight_zero_point")
    order = model.present(f"{layer}.weight_g_idx")
    if order:
        raise ValueError(f"the groups of {layer!r} are in an order of their own")
    if zero:
        groups = model.shape(f"{layer}.weight_scale")[-1]
        if model.shape(zero[0], "I32") != (-(-rows * bits // 32), groups):
            raise ValueError(f"the zeros of {layer!r} are not those of its scales")

    def read(name: str) -> Any:
        if name == f"{layer}.weight":
            return _unpacked(model.read(f"{layer}.weight_packed"), bits, columns)
        if zero and name == zero[0]:
            return _unpacked(model.read(name).t(), bits, rows).t()
        return model.read(name)

    parts = ("weight_packed", "weight_scale", "weight_shape")
    sources = (*(f"{layer}.{part}" for part in parts), *zero, *_activation(model, layer))
    compute = partial(_computed, model, layer, read, sizes)
    return Weight(f"{layer}.weight", model.dtype, shape, sources, compute)


def _unpacked(words: Any, bits: int, count: int) -> Any:
    """Return the signed integers of a few bits, which lie one after another in 32-bit words."""
    import torch

    places = torch.arange(32)
    flat = (words.unsqueeze(-1) >> places.to(torch.int32)) & 1
    lines = flat.flatten(-2)[..., : count * bits].unflatten(-1, (count, bits))
    values = (lines << torch.arange(bits, dtype=torch.int32)).sum(-1)
    return (values - (1 << (bits - 1))).to(torch.int8)


def _computed(model: QuantisedModel, layer: str, read: Any, sizes: tuple[int, int] | None) -> Any:
    scales = read(f"{layer}.weight_scale")
    dtype = torch_dtype(model.types[f"{layer}.weight_scale"][0])
    codes = read(f"{layer}.weight").to(dtype)
    zero = f"{layer}.weight_zero_point"
    zeros = read(zero).to(dtype) if zero in model.types else None
    if sizes is None:
        scales, zeros = scales.reshape(()), None if zeros is None else zeros.reshape(())
    else:
        scales = _spread(scales, sizes, codes.shape)
        zeros = None if zeros is None else _spread(zeros, sizes, codes.shape)
    if zeros is not None:
        codes = codes - zeros
    return (codes * scales).to(model.torch_dtype)


def _spread(grid: Any, sizes: tuple[int, int], shape: Any) -> Any:
    """Return a value for each element of a matrix from one for each block."""
    grid = grid.reshape(len(grid), -1)
    for axis, size in enumerate(sizes):
        grid = grid.repeat_interleave(size, axis).narrow(axis, 0, shape[axis])
    return grid
