"""FP8 with a scale for each block or tensor, as DeepSeek writes it (``quant_method`` "fp8").

weight = code · scale, computed in float32 and rounded once; as in transformers' ``Fp8Dequantize``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from modpkg.interop.dequantise.weight import QuantisedModel, Weight

_SCALE = "_scale_inv"
_CODES = ("F8_E4M3", "F8_E5M2")
_SCALES = ("F32", "BF16", "F16", "F8_E8M0", "U8")


def weights(model: QuantisedModel) -> list[Weight]:
    """Return the weights that codes and their scales make.

    Raises:
        ValueError: A tensor does not follow the format.
    """
    block = model.settings.get("weight_block_size", [128, 128])
    if block is not None and not (
        isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block)
    ):
        raise ValueError(f"its weight_block_size is {block!r}")
    made = []
    for name, (dtype, shape) in model.types.items():
        if not dtype.startswith("F8_") or name.endswith(_SCALE):
            continue
        scale = name + _SCALE
        grid = model.shape(scale, *_SCALES)
        model.shape(name, *_CODES)
        sizes = _blocks(name, shape, grid, block)
        beside = name.removesuffix("weight") + "activation_scale"
        made.append(
            Weight(
                name,
                model.dtype,
                shape,
                (name, scale, *model.present(beside)),
                partial(_computed, model, name, scale, sizes),
            )
        )
    return made


def _blocks(
    name: str, shape: tuple[int, ...], grid: tuple[int, ...], block: list[int] | None
) -> tuple[int, int] | None:
    """Return rows and columns of a block; None where the whole tensor has one scale."""
    if all(extent == 1 for extent in grid) and (block is None or len(grid) < 2):
        return None
    if block is None or len(shape) < 2 or len(grid) != len(shape) or grid[:-2] != shape[:-2]:
        raise ValueError(f"the scales of {name!r} have shape {list(grid)}, which is no grid of it")
    rows, columns = block
    if grid[-2:] != (-(-shape[-2] // rows), -(-shape[-1] // columns)):
        raise ValueError(f"the scales of {name!r} are not of blocks of {rows} x {columns}")
    return rows, columns


def _computed(model: QuantisedModel, name: str, scale: str, sizes: tuple[int, int] | None) -> Any:
    import torch

    codes, scales = model.read(name).to(torch.float32), model.read(scale)
    if scales.dtype == torch.uint8:  # the exponent of a power of two
        scales = (scales.to(torch.float32) - 127.0).exp2()
    scales = scales.to(torch.float32)
    if sizes is None:
        return (codes * scales.reshape(())).to(model.torch_dtype)
    for axis, size in ((-2, sizes[0]), (-1, sizes[1])):
        scales = scales.repeat_interleave(size, axis).narrow(axis, 0, codes.shape[axis])
    return codes.mul_(scales).to(model.torch_dtype)
