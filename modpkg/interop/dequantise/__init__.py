"""Quantised weights in full precision: each format by its own library's definition.

A file per format says which tensors make a weight, and computes it; others are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modpkg.core.tensors import DTypeShape
from modpkg.interop.dequantise import (
    bitsandbytes,
    compressed_tensors,
    fp8,
    mxfp4,
    packed_integers,
)
from modpkg.interop.dequantise.weight import QuantisedModel, Weight

FORMATS: dict[str, Callable[[QuantisedModel], list[Weight]]] = {
    "bitsandbytes": bitsandbytes.weights,
    "compressed-tensors": compressed_tensors.weights,
    "fp8": fp8.weights,
    "mxfp4": mxfp4.weights,
    "gptq": packed_integers.gptq_weights,
    "awq": packed_integers.awq_weights,
}
"""By ``quant_method`` in ``quantization_config``."""


def dequantised(
    config: Mapping[str, Any], types: Mapping[str, DTypeShape], read: Callable[[str], Any]
) -> tuple[list[Weight], list[str]]:
    """Return the weights that a model's quantised tensors make, and the tensors that stay.

    Args:
        config: Its ``config.json``.
        types: Dtype and shape of every tensor.
        read: Returns a tensor by name, as torch's; called for small ones now, and for the others
            when a weight is computed.

    Raises:
        ValueError: The format, or one of its settings, has no exact definition here.
    """
    settings = config.get("quantization_config")
    if not isinstance(settings, dict):
        raise ValueError("config.json has no quantization_config, which says what its codes mean")
    method = settings.get("quant_method")
    if method is None and settings.keys() & {"load_in_4bit", "load_in_8bit"}:
        method = "bitsandbytes"
    if method is None:
        raise ValueError("quantization_config of config.json names no quant_method")
    if not isinstance(method, str) or method not in FORMATS:
        raise ValueError(f"there is no exact definition of the format {method!r} here")
    made = FORMATS[method](QuantisedModel(settings, config, types, read))
    used = _used_once(made)
    return made, [name for name in types if name not in used]


def _used_once(made: Sequence[Weight]) -> set[str]:
    used = [source for weight in made for source in weight.sources]
    if len(used) != len(set(used)):
        raise ValueError("two weights share a tensor of codes")
    if not made:
        raise ValueError("none of its tensors is quantised as config.json says")
    return set(used)
