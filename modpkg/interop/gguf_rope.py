"""Rotary position embeddings of a GGUF file: keys and tensors of factors as ``rope_parameters``."""

from __future__ import annotations

import math
import struct
from typing import Any

from modpkg.core.regular_file import open_file
from modpkg.interop.gguf_header import GgufHeader, GgufTensor, damaged

LLAMA3, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
FACTOR_TENSORS = (LLAMA3, LONG, SHORT)
"""Tensors that are settings of a config in transformers, and not weights."""

ROPE_KEYS = frozenset(
    {
        "rope.freq_base",
        "rope.freq_base_swa",
        "rope.dimension_count",
        "rope.scale_linear",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.attn_factor",
        "rope.scaling.original_context_length",
        "rope.scaling.finetuned",
        "rope.scaling.yarn_ext_factor",
        "rope.scaling.yarn_attn_factor",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
    }
)
"""The keys that `rope_parameters` accounts for."""

_THETA = 10000.0
"""The base of frequencies where a file does not name it."""

_LLAMA3_CONTEXTS = (8192, *(1 << power for power in range(9, 18)))
_TOLERANCE = 1e-6
"""How far a factor may be from the one that transformers computes: a few roundings of float32."""


def rope_parameters(
    header: GgufHeader, prefix: str, config: dict[str, Any], *, partial: bool
) -> dict[str, Any]:
    """Return ``rope_parameters`` of a config for what the file says.

    Raises:
        ConversionError: The frequencies cannot be expressed in transformers.
    """
    head = config.get("head_dim") or config["hidden_size"] // max(config["num_attention_heads"], 1)
    parameters: dict[str, Any] = {"rope_type": "default"}
    parameters["rope_theta"] = _number(header, prefix + "rope.freq_base") or _THETA
    sections = (config.get("rope_parameters") or {}).get("mrope_section")
    if sections is not None:
        parameters |= {"mrope_section": sections, "mrope_interleaved": True}
    turned = header.whole(prefix + "rope.dimension_count") or head
    if partial:
        if turned > head:
            raise damaged(header.path, f"its {prefix}rope.dimension_count is more than a head has")
        parameters["partial_rotary_factor"] = turned / head
    elif turned != head:
        raise damaged(
            header.path,
            f"its {prefix}rope.dimension_count is {turned}, and transformers rotates all {head} of "
            "a head; import the model that it was made from",
        )
    _scale(header, prefix, config, parameters)
    if prefix != "gemma3.":
        return parameters
    near = _number(header, prefix + "rope.freq_base_swa") or _THETA
    return {
        "full_attention": parameters,
        "sliding_attention": {"rope_type": "default", "rope_theta": near},
    }


def _scale(
    header: GgufHeader, prefix: str, config: dict[str, Any], parameters: dict[str, Any]
) -> None:
    kind = header.text(prefix + "rope.scaling.type")
    factor = _number(header, prefix + "rope.scaling.factor")
    old = _number(header, prefix + "rope.scale_linear")
    if kind is None and old not in (None, 1.0):
        kind, factor = "linear", old
    attention = _number(header, prefix + "rope.scaling.attn_factor")
    original = header.whole(prefix + "rope.scaling.original_context_length")
    tensors = {name for name in FACTOR_TENSORS if name in header.tensors}
    if tensors == {LONG, SHORT} and prefix == "phi3.":
        _longrope(header, config, parameters, attention, original)
        return
    if tensors == {LLAMA3} and kind in (None, "none"):
        _llama3(header, config, parameters, header.tensors[LLAMA3])
        return
    if tensors:
        raise _inexpressible(header, f"its tensor {min(tensors)!r}")
    if attention not in (None, 1.0):
        raise _inexpressible(header, f"its {prefix}rope.scaling.attn_factor")
    if kind in (None, "none") or (kind == "linear" and factor in (None, 0.0, 1.0)):
        if prefix == "phi3." and original is not None:
            config["original_max_position_embeddings"] = original
        return
    if kind == "linear":
        parameters |= {"rope_type": "linear", "factor": factor}
    elif kind == "yarn" and factor and original:
        _yarn(header, prefix, parameters, factor, original)
    else:
        raise _inexpressible(header, f"its {prefix}rope.scaling.type {kind[:40]!r}")


def _yarn(
    header: GgufHeader, prefix: str, parameters: dict[str, Any], factor: float, original: int
) -> None:
    if _number(header, prefix + "rope.scaling.yarn_ext_factor") not in (None, 1.0, -1.0):
        raise _inexpressible(header, f"its {prefix}rope.scaling.yarn_ext_factor")
    parameters |= {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
    }
    for key in ("beta_fast", "beta_slow"):
        value = _number(header, f"{prefix}rope.scaling.yarn_{key}")
        if value not in (None, -1.0):
            parameters[key] = value
    attention = _number(header, prefix + "rope.scaling.yarn_attn_factor")
    if attention not in (None, -1.0, 1.0):
        parameters["attention_factor"] = attention * (0.1 * math.log(factor) + 1.0)


def _longrope(
    header: GgufHeader,
    config: dict[str, Any],
    parameters: dict[str, Any],
    attention: float | None,
    original: int | None,
) -> None:
    if original is None:
        raise _inexpressible(header, "its long and short factors without an original context")
    parameters |= {
        "rope_type": "longrope",
        "long_factor": _values(header, header.tensors[LONG]),
        "short_factor": _values(header, header.tensors[SHORT]),
        "original_max_position_embeddings": original,
    }
    if attention is not None:
        parameters["attention_factor"] = attention
    config["original_max_position_embeddings"] = original


def _llama3(
    header: GgufHeader, config: dict[str, Any], parameters: dict[str, Any], tensor: GgufTensor
) -> None:
    """Find the parameters of Llama 3's scaling whose factors are those of the file.

    A converter writes the factors, and transformers computes them again from four parameters.
    """
    found = _values(header, tensor)
    head = config.get("head_dim") or config["hidden_size"] // max(config["num_attention_heads"], 1)
    if len(found) == head // 2:
        if all(value == 1.0 for value in found):
            return
        for context in _LLAMA3_CONTEXTS:
            wanted = [
                _llama3_factor(parameters["rope_theta"] ** (2 * index / head), max(found), context)
                for index in range(len(found))
            ]
            pairs = zip(found, wanted, strict=True)
            if all(math.isclose(one, two, rel_tol=_TOLERANCE) for one, two in pairs):
                parameters |= {
                    "rope_type": "llama3",
                    "factor": max(found),
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": context,
                }
                return
    raise _inexpressible(header, f"its tensor {tensor.name!r}")


def _llama3_factor(period: float, factor: float, context: int) -> float:
    """Return by how much Llama 3.1 (low 1, high 4) slows down one frequency."""
    wavelength = 2 * math.pi * period
    if wavelength < context / 4:
        return 1.0
    if wavelength > context:
        return factor
    smooth = (context / wavelength - 1) / 3
    return 1 / ((1 - smooth) / factor + smooth)


def _values(header: GgufHeader, tensor: GgufTensor) -> list[float]:
    if tensor.type != "F32" or len(tensor.shape) != 1:
        raise _inexpressible(header, f"its tensor {tensor.name!r}, which is not a list of F32")
    with open_file(header.file) as file:
        file.seek(tensor.start)
        values = struct.unpack(f"<{tensor.count}f", file.read(tensor.length))
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise damaged(header.path, f"its tensor {tensor.name!r} has factors that are not positive")
    return list(values)


def _number(header: GgufHeader, key: str) -> float | None:
    value = header.metadata.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise damaged(header.path, f"its {key[:80]} is not a number")
    return float(value)


def _inexpressible(header: GgufHeader, what: str) -> Any:
    return damaged(
        header.path,
        f"{what} scales rotary positions in a way that cannot be carried over exactly; import the "
        "model that it was made from",
    )
