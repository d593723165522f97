"""The Dense and LayerNorm modules of sentence-transformers, after pooling.

Dense:      y = activation(W x + b)  [+ x, or + R x]
LayerNorm:  y = (x − mean) / √(variance + 1e-5) · w + b
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modpkg.core.errors import RunError
from modpkg.core.tensors import TypedTensor

if TYPE_CHECKING:
    import torch

_ACTIVATIONS = (
    *("CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh"),
    *(
        "Identity",
        "LeakyReLU",
        "LogSigmoid",
        "LogSoftmax",
        "Mish",
        "RReLU",
        "ReLU",
        "ReLU6",
        "SELU",
    ),
    *("SiLU", "Sigmoid", "Softmax", "Softmin", "Softplus", "Softshrink", "Softsign", "Tanh"),
    *("Tanhshrink",),
)
_PLACES = ("torch.nn.modules.activation", "torch.nn.modules.linear", "torch.nn")
ACTIVATIONS = {f"{place}.{name}": name for place in _PLACES for name in _ACTIVATIONS}
"""torch.nn class by the name that sentence-transformers writes: classes without arguments or
weights. Only these are allowed: a config must not name code to import."""
_OVER_WIDTH = ("LogSoftmax", "Softmax", "Softmin")
_DEFAULT = "torch.nn.modules.activation.Tanh"
_KEYS = {"in_features", "out_features", "bias", "activation_function", "use_residual"}
_KEYS |= {"module_input_name", "module_output_name"}


def project(
    name: str,
    folder: str,
    config: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor],
    x: torch.Tensor,
) -> torch.Tensor:
    """Apply a Dense module to embeddings ``x``, [batch, in_features] -> [batch, out_features].

    Raises:
        RunError: Its activation is not supported, or its weights do not match its config.
    """

    def refuse(reason: str) -> RunError:
        return RunError("M704", name=name, reason=f"{folder} {reason}")

    if unknown := sorted(config.keys() - _KEYS):
        raise refuse(f"has {unknown[0]!r} in its config.json, which is not supported")
    activation = config.get("activation_function", _DEFAULT)
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise refuse(f"has the activation function {activation!r}, which is not supported")
    width, wide = config.get("out_features"), config.get("in_features")
    residual = bool(config.get("use_residual", False))
    check_weights(name, folder, "Dense", config, weights)
    if x.shape[-1] != wide:
        raise refuse(f"takes embeddings of width {wide}, but gets {x.shape[-1]}")
    import torch

    kind = torch.promote_types(x.dtype, weights["linear.weight"].dtype)
    cast = {key: tensor.to(x.device, kind) for key, tensor in weights.items()}
    x = x.to(kind)
    linear = torch.nn.functional.linear
    y: torch.Tensor = _activation(ACTIVATIONS[activation])(
        linear(x, cast["linear.weight"], cast.get("linear.bias"))
    )
    if residual:
        y = y + (linear(x, cast["residual.weight"]) if width != wide else x)
    return y


def normalize_layer(
    name: str,
    folder: str,
    config: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor],
    x: torch.Tensor,
) -> torch.Tensor:
    """Apply a LayerNorm module to embeddings ``x``, [batch, width].

    Raises:
        RunError: Its weights do not match its config, or the embeddings' width.
    """
    width = config.get("dimension")
    check_weights(name, folder, "LayerNorm", config, weights)
    if x.shape[-1] != width:
        reason = f"{folder} takes embeddings of width {width}, but gets {x.shape[-1]}"
        raise RunError("M704", name=name, reason=reason)
    import torch

    kind = torch.promote_types(x.dtype, weights["norm.weight"].dtype)
    scale, shift = (weights[f"norm.{key}"].to(x.device, kind) for key in ("weight", "bias"))
    return torch.nn.functional.layer_norm(x.to(kind), (x.shape[-1],), scale, shift)


def check_weights(
    name: str,
    folder: str,
    kind: str,
    config: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor] | Mapping[str, TypedTensor],
) -> None:
    """Check that the tensors of a Dense or LayerNorm have the shapes that its config gives them.

    Raises:
        RunError: One has another, is missing, or is over.
    """
    wanted: dict[str, tuple[Any, ...]]
    if kind == "LayerNorm":
        width = config.get("dimension")
        wanted = {"norm.weight": (width,), "norm.bias": (width,)}
    else:
        width, wide = config.get("out_features"), config.get("in_features")
        wanted = {"linear.weight": (width, wide)}
        if config.get("bias", True):
            wanted["linear.bias"] = (width,)
        if config.get("use_residual", False) and width != wide:
            wanted["residual.weight"] = (width, wide)
    actual = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    if actual != wanted:
        key = min(key for key in {*actual, *wanted} if actual.get(key) != wanted.get(key))
        reason = f"{folder} needs {key!r} of shape {wanted.get(key)}, but has {actual.get(key)}"
        raise RunError("M704", name=name, reason=reason)


def _activation(name: str) -> torch.nn.Module:
    arguments = {"dim": -1} if name in _OVER_WIDTH else {}
    import torch

    module: torch.nn.Module = getattr(torch.nn, name)(**arguments)
    return module.eval()  # RReLU draws random slopes in training mode
