"""MXFP4, as gpt-oss stores its experts: transformers' own function makes the weights."""

from __future__ import annotations

from functools import partial
from typing import Any

from modpkg.interop.dequantise.weight import QuantisedModel, Weight


def weights(model: QuantisedModel) -> list[Weight]:
    """Return the weights of experts: (experts, in, out).

    Raises:
        ValueError: A tensor does not follow the format.
    """
    made = []
    for blocks in model.types:
        if not blocks.endswith("_blocks"):
            continue
        name = blocks.removesuffix("_blocks")
        scales, shape = f"{name}_scales", model.shape(blocks, "U8")
        if len(shape) != 4 or shape[3] != 16 or model.shape(scales, "U8") != shape[:3]:
            raise ValueError(f"the blocks of {name!r} do not follow the format")
        dense = (shape[0], shape[2] * 32, shape[1])
        compute = partial(_computed, model, blocks, scales)
        made.append(Weight(name, "BF16", dense, (blocks, scales), compute))
    return made


def _computed(model: QuantisedModel, blocks: str, scales: str) -> Any:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    return convert_moe_packed_tensors(model.read(blocks), model.read(scales)).contiguous()
