"""Recognising bases whose weights are quantised: by their tensors, codes and scales, or the config.

Some formats store full precision and quantise it when a model is loaded; only ``config.json`` says
so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
    (re.compile(r"\._?weight_qdata$"), "torchao"),
    (re.compile(r"\.(?:res_)?centroids(?:\.weight)?$"), "VPTQ"),
    (re.compile(r"\.dense_weights$"), "SpQR"),
    (re.compile(r"\.dqweight$"), "FP-Quant"),
    (re.compile(r"\.q_invperm$"), "EXL2"),
    (re.compile(r"\.weight_scales?$"), "weights with scales"),
)
"""Names that only quantised models have, the surest first, and what writes them."""
_PAIRS = (
    ("trellis", "suh", "EXL3"),
    ("workspace", "B", "Marlin"),
    ("compressed", "bitmask", "compressed-tensors, sparse"),
)
"""Names of two tensors of a layer that only quantised models have together."""
INTEGERS = "integers"
UNREAD = ("MLX", "EXL2", "EXL3", "Marlin", INTEGERS)
"""Forms that no quantiser of transformers reads."""
_INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64")
_NARROW = ("F8_", "F6_", "F4")
"""Dtypes of codes: what multiplies them to weights is elsewhere."""


UNNAMED = "in a format that config.json does not name"
DEQUANTISED = ("bitsandbytes", "compressed-tensors", "fp8", "mxfp4", "gptq", "awq")
"""Formats that ``modpkg import hf --dequantize`` knows, by ``quant_method``."""
_SETTINGS = ("quantization_config", "compression_config")


class Quantised(Struct, frozen=True):
    """How the weights of a base are stored."""

    form: str
    """The format, in words."""
    tensor: str = ""
    """A tensor that shows it; empty if only ``config.json`` says so."""
    known: bool = False
    """Whether ``--dequantize`` may write it in full precision."""

    @property
    def sign(self) -> str:
        """What shows it, for a sentence."""
        return repr(self.tensor) if self.tensor else "quantization_config of its config.json"

    @property
    def remedy(self) -> str:
        """What to do to have the base in full precision, as a sentence."""
        if not self.tensor:
            return (
                "If its tensors are in full precision, take quantization_config out of its "
                "config.json and import it again; otherwise import the model that was quantised."
            )
        other = ", or this one with 'modpkg import hf --dequantize'" if self.known else ""
        return (
            "Build it on the base in full precision: import the model that was quantised" + other
        ) + "."


def quantised(
    tensors: Mapping[str, TypedTensor], config: Mapping[str, Any] | None = None
) -> Quantised | None:
    """Return how a base's weights are quantised; None if they are plain weights.

    Args:
        tensors: Its tensors.
        config: Its ``config.json``, where known: it tells formats apart whose tensors are alike.
    """
    named = quantiser_of(config or {})
    found = _by_tensors(tensors)
    if found is None:
        return None if named is None else Quantised(named)
    tensor, form = found
    alike = re.sub(r"[-_]", "", form).lower()
    if named not in (None, UNNAMED) and re.sub(r"[-_]", "", str(named)).lower() not in alike:
        form = str(named)
    return Quantised(form, tensor, named in DEQUANTISED)


def quantiser_of(config: Mapping[str, Any]) -> str | None:
    """Return the format that a ``config.json`` names for its weights; None if it names none.

    >>> quantiser_of({"quantization_config": {"load_in_4bit": True}})
    'bitsandbytes'
    """
    nested = config.get("text_config")
    for table in (config, nested if isinstance(nested, dict) else {}):
        for key in _SETTINGS:
            if (settings := table.get(key)) is not None:
                return method_of(settings)
    return None


def method_of(settings: object) -> str:
    """Return the name of the format in a ``quantization_config``."""
    table = settings if isinstance(settings, dict) else {}
    if table.get("load_in_4bit") or table.get("load_in_8bit"):
        return "bitsandbytes"
    method = table.get("quant_method")
    return UNNAMED if method is None else str(method)


def _by_tensors(tensors: Mapping[str, TypedTensor]) -> tuple[str, str] | None:
    """Return a tensor that only quantised models have, and the format that has it."""
    for mark, form in _MARKS:
        if (name := next((name for name in sorted(tensors) if mark.search(name)), None)) is None:
            continue
        if form in ("MXFP4", "weights with scales") and not _codes(tensors, name):
            continue
        return name, form
    for name, tensor in sorted(tensors.items()):
        layer, _, own = name.rpartition(".")
        for first, second, form in _PAIRS:
            if own == first and f"{layer}.{second}" in tensors:
                return name, form
        if tensor.dtype.startswith(_NARROW):
            return name, tensor.dtype
        if own == "weight" and tensor.dtype in _INTEGERS and len(tensor.shape) > 1:
            mlx = tensor.dtype == "U32" and f"{layer}.scales" in tensors
            return name, "MLX" if mlx else INTEGERS
    return None


def _codes(tensors: Mapping[str, TypedTensor], mark: str) -> bool:
    """Return whether the tensor that a scale or a block belongs to holds codes."""
    own = re.sub(r"_scales?$", "", mark)
    held = tensors.get(own, tensors[mark])
    return held.dtype.startswith((*_NARROW, "U8", "I8"))
