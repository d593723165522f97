"""Mixture-of-experts architectures, and the dense ones that can be converted to them exactly.

A mixture whose experts are all equal computes the same as the dense model, whatever its router
does, if the architectures differ only in their feed-forward blocks. Keys that a dense config leaves
to its architecture's defaults are therefore written out, because the mixture's defaults differ.
Tensor names are those that transformers writes. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct

from modpkg.adapters.expert import Layer

_ROPE_THETA = 10000.0
"""Default of all four dense architectures."""
_CLASS = re.compile(r"^(?P<stem>[A-Za-z0-9]+?)(?P<task>Model|For[A-Z]\w*)$")
_OUTSIDE = re.compile(r"^(?:model\.)?(?:embed_tokens|norm)\.weight$|^(?:lm_head|score)\.weight$")
_NORMS = r"(?:input_layernorm|post_attention_layernorm)\.weight"


class MixtureArchitecture(Struct, frozen=True, kw_only=True):
    """An architecture with experts."""

    kind: str
    """Its ``model_type``."""
    stem: str
    """Prefix of its class names."""
    gate: str
    """Name of the router's weight within a layer."""
    expert: str
    """Name of an expert's weight, with the fields ``{number}`` and ``{part}``."""
    parts: dict[str, str]
    """Name in an expert of each matrix of the dense block."""
    count: str
    """The config key with the number of experts."""
    config: dict[str, Any]
    """Config keys that are always set."""
    shared: str = ""
    """Name of the shared expert, if the architecture has one; it is given one neuron of zeros."""


class DenseArchitecture(Struct, frozen=True, kw_only=True):
    """A dense architecture, and the mixture it can be converted to."""

    stem: str
    """Prefix of its class names."""
    into: MixtureArchitecture
    layer: re.Pattern[str]
    """Matches the tensors of a layer, besides the block, that both architectures share."""
    defaults: dict[str, Any]
    """Its config defaults, where the mixture's differ."""
    only: dict[str, Any]
    """Config keys that must have this value or be absent: the mixture supports no other."""
    fixed: dict[str, Any] = {}
    """Config keys that only the mixture reads, with the value that matches the dense model."""


_MIXTRAL = MixtureArchitecture(
    kind="mixtral",
    stem="Mixtral",
    gate="block_sparse_moe.gate.weight",
    expert="block_sparse_moe.experts.{number}.{part}.weight",
    parts={"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"},
    count="num_local_experts",
    config={"output_router_logits": False, "router_jitter_noise": 0.0},
)
_QWEN = MixtureArchitecture(
    kind="qwen3_moe",
    stem="Qwen3Moe",
    gate="mlp.gate.weight",
    expert="mlp.experts.{number}.{part}.weight",
    parts={"gate_proj": "gate_proj", "up_proj": "up_proj", "down_proj": "down_proj"},
    count="num_experts",
    config={
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        "output_router_logits": False,
    },
)
_QWEN2 = MixtureArchitecture(
    kind="qwen2_moe",
    stem="Qwen2Moe",
    gate=_QWEN.gate,
    expert=_QWEN.expert,
    parts=_QWEN.parts,
    count=_QWEN.count,
    config={**_QWEN.config, "qkv_bias": True, "shared_expert_intermediate_size": 1},
    shared="mlp.shared_expert",
)
_QWEN_DEFAULTS = {
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
}

DENSE: dict[str, DenseArchitecture] = {
    "llama": DenseArchitecture(
        stem="Llama",
        into=_MIXTRAL,
        layer=re.compile(rf"^(?:{_NORMS}|self_attn\.[qkvo]_proj\.weight)$"),
        defaults={
            "intermediate_size": 11008,
            "max_position_embeddings": 2048,
            "num_key_value_heads": None,
            "rms_norm_eps": 1e-6,
        },
        only={"attention_bias": False, "mlp_bias": False},
        fixed={"sliding_window": None},
    ),
    "mistral": DenseArchitecture(
        stem="Mistral",
        into=_MIXTRAL,
        layer=re.compile(rf"^(?:{_NORMS}|self_attn\.[qkvo]_proj\.weight)$"),
        defaults={"rms_norm_eps": 1e-6, "sliding_window": 4096},
        only={},
    ),
    "qwen2": DenseArchitecture(
        stem="Qwen2",
        into=_QWEN2,
        layer=re.compile(rf"^(?:{_NORMS}|self_attn\.(?:[qkvo]_proj\.weight|[qkv]_proj\.bias))$"),
        defaults=_QWEN_DEFAULTS,
        only={"use_sliding_window": False},
    ),
    "qwen3": DenseArchitecture(
        stem="Qwen3",
        into=_QWEN,
        layer=re.compile(
            rf"^(?:{_NORMS}|self_attn\.(?:[qkvo]_proj\.(?:weight|bias)|[qk]_norm\.weight))$"
        ),
        defaults={**_QWEN_DEFAULTS, "head_dim": 128},
        only={"use_sliding_window": False},
    ),
}
"""By ``model_type``."""


def dense_of(
    config: Mapping[str, Any],
    tensors: Iterable[str],
    layers: Iterable[Layer],
    refuse: Callable[[str], Exception],
) -> DenseArchitecture:
    """Return the base's architecture, after checking that the mixture supports all of it.

    Raises:
        ComposeError: Its architecture is not supported, or its config or a tensor has no equivalent
            in the mixture; ``refuse`` makes the error from the reason.
    """
    kind = config.get("model_type")
    dense = DENSE.get(kind) if isinstance(kind, str) else None
    if dense is None:
        raise refuse(f"its base's architecture is {kind!r}; supported are {', '.join(DENSE)}")
    for key, value in dense.only.items():
        if config.get(key, value) not in (value, None):
            raise refuse(
                f"the base's config.json has {key} = {config[key]!r}, which {dense.into.stem} "
                "does not support"
            )
    kinds = config.get("layer_types")
    if kinds is not None and not (
        isinstance(kinds, list) and all(kind == "full_attention" for kind in kinds)
    ):
        raise refuse("the layer_types of the base's config.json are not all 'full_attention'")
    prefixes = frozenset(layer.prefix for layer in layers)
    if len(prefixes) != config.get("num_hidden_layers", dense.defaults.get("num_hidden_layers")):
        raise refuse(
            f"{len(prefixes)} layers have a feed-forward block, but config.json states another "
            "number of layers"
        )
    blocks = {layer.block(part) for layer in layers for part in dense.into.parts}
    for name in sorted(tensors):
        prefix, rest = _split(name, prefixes)
        if name not in blocks and not (dense.layer if prefix else _OUTSIDE).match(rest):
            raise refuse(f"the base's {name!r} has no place in {dense.into.stem}")
    return dense


def _split(name: str, prefixes: frozenset[str]) -> tuple[str, str]:
    """Return which of the prefixes a name begins with, "" if with none, and the rest of it."""
    at = name.find(".") + 1
    while at and name[:at] not in prefixes:
        at = name.find(".", at) + 1
    return name[:at], name[at:]


def mixture_config(
    config: Mapping[str, Any],
    dense: DenseArchitecture,
    experts: int,
    per_token: int,
    refuse: Callable[[str], Exception],
) -> dict[str, Any]:
    """Return the keys of ``config.json`` to set for a mixture of this base.

    Raises:
        ComposeError: The config does not name a class of the base's architecture; ``refuse`` makes
            the error from the reason.
    """
    named = config.get("architectures")
    match = _CLASS.match(str(named[0])) if isinstance(named, list) and named else None
    if match is None or match["stem"] != dense.stem:
        raise refuse(f"the base's config.json names the architectures {named!r}")
    into = dense.into
    edits = {key: value for key, value in dense.defaults.items() if key not in config}
    heads = config.get("num_attention_heads", edits.get("num_attention_heads", 32))
    if edits.get("num_key_value_heads", config.get("num_key_value_heads")) is None:
        edits["num_key_value_heads"] = heads
    edits |= _rope(config)
    edits |= {**dense.fixed, **into.config}
    if "norm_topk_prob" in into.config:
        edits["moe_intermediate_size"] = {**edits, **config}["intermediate_size"]
    return {
        **edits,
        "architectures": [into.stem + match["task"]],
        "model_type": into.kind,
        into.count: experts,
        "num_experts_per_tok": per_token,
    }


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the RoPE base, if the config leaves it to its architecture's default."""
    parameters = config.get("rope_parameters")
    if config.get("rope_theta") is not None:
        return {}
    if isinstance(parameters, dict):
        if "rope_theta" in parameters:
            return {}
        return {"rope_parameters": {**parameters, "rope_theta": _ROPE_THETA}}
    return {"rope_theta": _ROPE_THETA}
