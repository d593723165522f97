"""Recognising bases whose weights are quantised: their tensors are codes and scales."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from modpkg.core.tensors import TypedTensor

_MARKS = (
    (re.compile(r"\.quant_state\.bitsandbytes__(?:nf4|fp4)$"), "bitsandbytes, 4 bits"),
    (re.compile(r"\.SCB$"), "bitsandbytes, 8 bits"),
    (re.compile(r"\.g_idx$"), "GPTQ"),
    (re.compile(r"\.(?:qzeros|qweight)$"), "AWQ or GPTQ"),
    (re.compile(r"\.weight_packed$"), "compressed-tensors"),
    (re.compile(r"_scale_inv$"), "FP8 in blocks"),
    (re.compile(r"_blocks$"), "MXFP4"),
    (re.compile(r"\.W_q$"), "HQQ"),
    (re.compile(r"\.codebooks$"), "AQLM"),
    (re.compile(r"\.weight\._data$"), "quanto"),
    (re.compile(r"\.weight_scales?$"), "weights with scales"),
)
"""Names that only quantised models have, the surest first, and what writes them."""
_NARROW = ("F8_", "F6_", "F4")
"""Dtypes of codes: what multiplies them to weights is elsewhere."""


class Quantised(Struct, frozen=True):
    """How the weights of a base are stored."""

    form: str
    """The format, in words."""
    tensor: str
    """A tensor that shows it."""


def quantised(tensors: Mapping[str, TypedTensor]) -> Quantised | None:
    """Return how a base's weights are quantised; None if they are plain weights."""
    for mark, form in _MARKS:
        if (name := next((name for name in sorted(tensors) if mark.search(name)), None)) is None:
            continue
        if form in ("MXFP4", "weights with scales") and not _codes(tensors, name):
            continue
        return Quantised(form, name)
    for name, tensor in sorted(tensors.items()):
        if tensor.dtype.startswith(_NARROW):
            return Quantised(tensor.dtype, name)
    return None


def _codes(tensors: Mapping[str, TypedTensor], mark: str) -> bool:
    """Return whether the tensor that a scale or a block belongs to holds codes."""
    own = re.sub(r"_scales?$", "", mark)
    held = tensors.get(own, tensors[mark])
    return held.dtype.startswith((*_NARROW, "U8", "I8"))
