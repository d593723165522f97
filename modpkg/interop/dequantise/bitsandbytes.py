"""bitsandbytes: NF4 and FP4 in blocks with a scale each, and LLM.int8 with one for each row.

weight = table[code] · absmax, in float32, rounded once to the dtype that it had; as in
``bitsandbytes.functional.dequantize_4bit`` and ``int8_vectorwise_dequant``.
"""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Any

import msgspec

from modpkg.adapters.orientation import CONV1D
from modpkg.core.decoding import decoding_reason
from modpkg.core.dtypes import CONFIG_DTYPES
from modpkg.interop.dequantise.weight import QuantisedModel, Weight, torch_dtype

_STATE = re.compile(r"(?P<weight>.+)\.quant_state\.bitsandbytes__(?P<kind>nf4|fp4)")
_LONGEST = 4096
"""Bytes of a state, at most."""
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_FP4_STEPS = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
_INT8 = 7.874015718698502e-3
"""1 / 127, as bitsandbytes writes it."""


class BlockState(msgspec.Struct, frozen=True):
    """What bitsandbytes keeps of a weight beside its tensors."""

    quant_type: str
    blocksize: int
    dtype: str
    shape: list[int]
    nested_blocksize: int = 0
    nested_dtype: str = "float32"
    nested_offset: float = 0.0


def weights(model: QuantisedModel) -> list[Weight]:
    """Return the weights of layers in four and in eight bits.

    Raises:
        ValueError: A tensor does not follow the format.
    """
    if model.config.get("model_type") in CONV1D:
        raise ValueError("its layers are stored as (in, out), and their codes as (out, in)")
    made = []
    for name, (dtype, _) in model.types.items():
        if (match := _STATE.fullmatch(name)) is not None:
            made.append(_four_bits(model, match["weight"], name, match["kind"]))
        elif name.endswith(".SCB"):
            made.append(_eight_bits(model, name))
        elif dtype == "I8" and name.removesuffix("weight") + "SCB" not in model.types:
            raise ValueError(f"{name!r} has no scales")
    return made


def _four_bits(model: QuantisedModel, name: str, key: str, kind: str) -> Weight:
    if math.prod(model.shape(key, "U8")) > _LONGEST:
        raise ValueError(f"{key!r} is too long")
    try:
        state = msgspec.json.decode(bytes(model.read(key).tolist()), type=BlockState)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"{key!r} cannot be read ({decoding_reason(error)})") from None
    count, nested = math.prod(state.shape), state.nested_blocksize > 0
    absmax, table = f"{name}.absmax", f"{name}.quant_map"
    outer, steps = f"{name}.nested_absmax", f"{name}.nested_quant_map"
    codes, codes_shape = model.types.get(name, ("", ()))
    width = {"U8": 1, "BF16": 2, "F16": 2, "F32": 4}.get(codes, 0)
    if (
        state.quant_type != kind
        or state.dtype not in CONFIG_DTYPES
        or state.blocksize < 1
        or not state.shape
        or min(state.shape) < 1
        or codes_shape[:1] == (1,)
        or math.prod(codes_shape) * width != -(-count // 2)
        or math.prod(model.shape(absmax, "U8" if nested else "F32")) != -(-count // state.blocksize)
        or model.shape(table, "F32") != (16,)
        or (nested and state.nested_dtype != "float32")
        or (nested and model.shape(steps, "F32") != (256,))
    ):
        raise ValueError(f"the codes of {name!r} do not follow bitsandbytes' format")
    blocks = -(-count // state.blocksize)
    if nested and model.shape(outer, "F32") != (-(-blocks // state.nested_blocksize),):
        raise ValueError(f"the scales of {name!r} do not follow bitsandbytes' format")
    sources = (name, key, absmax, table, *((outer, steps) if nested else ()))
    dtype = CONFIG_DTYPES[state.dtype]
    compute = partial(_four_bits_computed, model, name, state)
    return Weight(name, dtype, tuple(state.shape), sources, compute)


def _four_bits_computed(model: QuantisedModel, name: str, state: BlockState) -> Any:
    import torch

    table = model.read(f"{name}.quant_map")
    steps = torch.tensor([*_FP4_STEPS, *(-step for step in _FP4_STEPS)])
    own = torch.tensor(_NF4) if state.quant_type == "nf4" else steps / steps.abs().max()
    if not torch.allclose(table, own, rtol=0, atol=1e-6):
        raise ValueError(f"the table of {name!r} is not that of {state.quant_type}")
    absmax = model.read(f"{name}.absmax")
    if state.nested_blocksize:
        outer = model.read(f"{name}.nested_absmax").repeat_interleave(state.nested_blocksize)
        absmax = model.read(f"{name}.nested_quant_map")[absmax.long()] * outer[: len(absmax)]
        absmax = absmax + torch.tensor(state.nested_offset, dtype=torch.float32)
    packed = model.read(name).contiguous().view(torch.uint8).reshape(-1)
    codes = torch.stack((packed >> 4, packed & 0xF), dim=-1).reshape(-1)
    count = math.prod(state.shape)
    values = own[codes[:count].int()]
    scales = absmax.repeat_interleave(state.blocksize)[:count]
    dtype = torch_dtype(CONFIG_DTYPES[state.dtype])
    return values.mul_(scales).to(dtype).reshape(state.shape)


def _eight_bits(model: QuantisedModel, scales: str) -> Weight:
    name = scales.removesuffix("SCB") + "weight"
    shape = model.shape(name, "I8")
    form = name + "_format"
    if len(shape) != 2 or math.prod(model.shape(scales, "F32")) != shape[0]:
        raise ValueError(f"the codes of {name!r} do not follow bitsandbytes' format")
    if model.present(form) and (math.prod(model.shape(form)) != 1 or model.read(form).item() != 0):
        raise ValueError(f"the codes of {name!r} are not in the order of rows")

    def compute() -> Any:
        codes = model.read(name) * model.read(scales).reshape(-1, 1) * _INT8
        return codes.to(model.torch_dtype)

    return Weight(name, model.dtype, shape, (name, scales, *model.present(form)), compute)
