"""The settings of a GGUF file as a transformers config: each is carried over, or refused by name.

transformers' reader takes over some keys, and leaves its own defaults for all others. Here every
key of an architecture is accounted for: it sets an attribute of the config, or it has to have the
one value that the architecture has in transformers. A key that is absent means what it means to
llama.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modpkg.core.bounds import GGUF_LAYERS
from modpkg.interop.gguf_header import GgufHeader, damaged
from modpkg.interop.gguf_rope import ROPE_KEYS, rope_parameters

_EPSILON = "attention.layer_norm_rms_epsilon"
_COMMON: dict[str, str] = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    _EPSILON: "rms_norm_eps",
    "vocab_size": "vocab_size",
}

_EXPERTS: dict[str, str] = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}

_TOKENS = {
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}

_SSM: dict[str, str] = {
    "ssm.conv_kernel": "linear_conv_kernel_dim",
    "ssm.state_size": "linear_key_head_dim",
    "ssm.group_count": "linear_num_key_heads",
    "ssm.time_step_rank": "linear_num_value_heads",
}


@dataclass(frozen=True)
class SettingRules:
    """What the keys of one architecture mean to its config in transformers."""

    settings: Mapping[str, str] = field(default_factory=dict)
    """Attribute of the config by key, added to the common ones."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """The only value that a key may have; a function computes it from the config."""
    read: frozenset[str] = frozenset()
    """Keys that transformers' reader carries over itself."""
    rope: bool = True
    partial_rope: bool = False
    """Whether the rotated part of a head is a setting of the config."""
    complete: Callable[[dict[str, Any], GgufHeader], None] = lambda config, header: None
    """Adds what only the architecture implies."""


def _qwen2moe(config: dict[str, Any], header: GgufHeader) -> None:
    inner = header.whole("qwen2moe.feed_forward_length") or 0
    used = header.whole("qwen2moe.expert_used_count") or 1
    config.setdefault("moe_intermediate_size", inner // used)
    config.setdefault("shared_expert_intermediate_size", inner)


def _gemma(layers_of_27b: int) -> Callable[[dict[str, Any], GgufHeader], None]:
    """Return what adds the scale of attention, which only the largest models have otherwise."""

    def complete(config: dict[str, Any], header: GgufHeader) -> None:
        largest = config["num_hidden_layers"] == layers_of_27b
        width = config["hidden_size"] // config["num_attention_heads"]
        config["query_pre_attn_scalar"] = width if largest else config["head_dim"]

    return complete


def _gemma3(config: dict[str, Any], header: GgufHeader) -> None:
    _gemma(62)(config, header)
    layers = config["num_hidden_layers"]
    pattern = header.metadata.get("gemma3.attention.sliding_window_pattern", 6)
    if not header.whole("gemma3.attention.sliding_window"):
        sliding = [False] * layers
    elif isinstance(pattern, list):
        sliding = [bool(item) for item in pattern[:layers]]
    else:
        every = header.whole("gemma3.attention.sliding_window_pattern") or 6
        sliding = [(layer + 1) % every != 0 for layer in range(layers)]
    if len(sliding) != layers:
        raise damaged(header.path, "its gemma3.attention.sliding_window_pattern has another length")
    config["layer_types"] = ["sliding_attention" if item else "full_attention" for item in sliding]
    config.setdefault("final_logit_softcapping", None)


def _gemma2(config: dict[str, Any], header: GgufHeader) -> None:
    _gemma(46)(config, header)


def _no_window(config: dict[str, Any], header: GgufHeader) -> None:
    """Set full attention where the file names no window; 0 means none, too."""
    if not config.get("sliding_window"):
        config["sliding_window"] = None


def _falcon(config: dict[str, Any], header: GgufHeader) -> None:
    if header.whole("falcon.attention.head_count_kv") != 1:
        raise damaged(
            header.path,
            "its falcon.attention.head_count_kv is not 1, and transformers does not undo the order "
            "of queries, keys and values that llama.cpp gives such a Falcon; import the model that "
            "it was made from",
        )
    config.pop("num_key_value_heads", None)
    config["multi_query"] = True


def _gpt2(config: dict[str, Any], header: GgufHeader) -> None:
    config.pop("feed_forward_length", None)
    config.pop("n_ctx", None)


_QWEN35 = SettingRules(
    settings={
        **_SSM,
        **_EXPERTS,
        "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    },
    fixed={"ssm.inner_size": lambda c: c.linear_value_head_dim * c.linear_num_value_heads},
    read=frozenset(
        {
            "rope.dimension_sections",
            "full_attention_interval",
            "nextn_predict_layers",
            "block_count",
        }
    ),
    partial_rope=True,
)

RULES: dict[str, SettingRules] = {
    "llama": SettingRules(),
    "qwen2": SettingRules(),
    "qwen2moe": SettingRules(
        settings={
            **_EXPERTS,
            "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
        },
        fixed={"expert_gating_func": 1, "expert_weights_norm": False},
        complete=_qwen2moe,
    ),
    "qwen3": SettingRules(),
    "qwen3moe": SettingRules(
        settings=_EXPERTS, fixed={"expert_gating_func": 1, "expert_weights_norm": True}
    ),
    "falcon": SettingRules(
        settings={
            "feed_forward_length": "ffn_hidden_size",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        fixed={"tensor_data_layout": "jploski", "attention.head_count_kv": 1},
        complete=_falcon,
    ),
    "phi3": SettingRules(
        settings={"attention.sliding_window": "sliding_window"},
        partial_rope=True,
        complete=_no_window,
    ),
    "bloom": SettingRules(
        settings={
            "block_count": "n_layer",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        fixed={
            "feed_forward_length": lambda c: 4 * c.hidden_size,
            "attention.head_count_kv": lambda c: c.n_head,
        },
        read=frozenset({"context_length"}),
        rope=False,
    ),
    "stablelm": SettingRules(
        settings={
            "attention.layer_norm_epsilon": "layer_norm_eps",
            "use_parallel_residual": "use_parallel_residual",
        },
        partial_rope=True,
    ),
    "gpt2": SettingRules(
        settings={
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "block_count": "n_layer",
            "feed_forward_length": "n_inner",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        fixed={"attention.head_count_kv": lambda c: c.n_head},
        rope=False,
        complete=_gpt2,
    ),
    "starcoder2": SettingRules(
        settings={
            "attention.layer_norm_epsilon": "norm_epsilon",
            "attention.sliding_window": "sliding_window",
        },
        complete=_no_window,
    ),
    "mamba": SettingRules(
        settings={
            "attention.layer_norm_rms_epsilon": "layer_norm_epsilon",
            "ssm.conv_kernel": "conv_kernel",
            "ssm.state_size": "state_size",
            "ssm.time_step_rank": "time_step_rank",
            "ssm.inner_size": "intermediate_size",
        },
        fixed={"feed_forward_length": 0, "attention.head_count": 0, "ssm.dt_b_c_rms": False},
        read=frozenset({"context_length"}),
        rope=False,
    ),
    "nemotron": SettingRules(
        settings={"attention.layer_norm_epsilon": "norm_eps"}, partial_rope=True
    ),
    "gemma2": SettingRules(
        settings={
            "attention.sliding_window": "sliding_window",
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        complete=_gemma2,
    ),
    "gemma3": SettingRules(
        settings={
            "attention.sliding_window": "sliding_window",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        read=frozenset({"attention.sliding_window_pattern"}),
        complete=_gemma3,
    ),
    "minimax-m2": SettingRules(
        settings={**_EXPERTS, "expert_feed_forward_length": "intermediate_size"},
        fixed={"expert_gating_func": 2},
        partial_rope=True,
    ),
    "lfm2": SettingRules(
        settings={
            "attention.layer_norm_rms_epsilon": "norm_eps",
            "shortconv.l_cache": "conv_L_cache",
        },
        read=frozenset({"attention.head_count_kv"}),
    ),
    "qwen35": _QWEN35,
    "qwen35moe": _QWEN35,
}
"""By ``general.architecture``: what transformers reads exactly with these rules, as tests show."""


def amended(config: dict[str, Any], header: GgufHeader, architecture: str) -> dict[str, Any]:
    """Return the config that transformers' reader made, with everything that the file says.

    Raises:
        ConversionError: A setting has no counterpart in the config.
    """
    rules = RULES[architecture]
    prefix = str(header.text("general.architecture")) + "."
    result = dict(config)
    for key, attribute in {**_COMMON, **rules.settings}.items():
        if key in rules.fixed or key in rules.read:
            continue
        value = _uniform(header, prefix + key)
        if isinstance(value, list):
            raise damaged(
                header.path,
                f"its {prefix}{key} differs from layer to layer, which transformers' reader does "
                "not take over; import the model that it was made from",
            )
        if value is not None:
            result[attribute] = value
    epsilon = next((key for key in rules.settings if key.endswith("epsilon")), _EPSILON)
    for key in ("context_length", "attention.head_count", epsilon):
        if key not in (*rules.fixed, *rules.read) and prefix + key not in header.metadata:
            raise damaged(header.path, f"it lacks the setting {prefix}{key}; download it again")
    layers = header.whole(prefix + "block_count")
    if layers is None or layers > GGUF_LAYERS:
        raise damaged(header.path, f"it has {layers} layers, according to {prefix}block_count")
    result["tie_word_embeddings"] = "output.weight" not in header.tensors
    embedding = header.tensors.get("token_embd.weight")
    if embedding is not None and header.whole(prefix + "vocab_size") is None:
        result["vocab_size"] = embedding.shape[0]
    for attribute, key in _TOKENS.items():  # else the defaults, of another vocabulary, would stay
        result[attribute] = header.whole(key)
    if "num_attention_heads" in result:
        result.setdefault("num_key_value_heads", result["num_attention_heads"])
    rules.complete(result, header)
    if rules.rope:
        for name in ("rope_theta", "rope_scaling", "partial_rotary_factor"):
            result.pop(name, None)
        result["rope_parameters"] = rope_parameters(
            header, prefix, result, partial=rules.partial_rope
        )
    return result


def check_settings(config: Any, header: GgufHeader, architecture: str) -> None:
    """Check that a config says what the file says.

    Raises:
        ConversionError: A key is not known, or the config has another value.
    """
    rules = RULES[architecture]
    prefix = str(header.text("general.architecture")) + "."
    settings = {**_COMMON, **rules.settings}
    for key in header.metadata:
        name = key.removeprefix(prefix)
        if name == key or name in rules.read or (rules.rope and name in ROPE_KEYS):
            continue
        value = _uniform(header, key)
        if name in rules.fixed:
            expected = rules.fixed[name]
            expected = expected(config) if callable(expected) else expected
        elif name in settings:
            expected = getattr(config, settings[name], None)
            if expected is None and settings[name] == "head_dim":
                expected = config.hidden_size // config.num_attention_heads
            elif expected is None and settings[name] == "sliding_window":
                expected = 0
        elif name == "attention.sliding_window":  # as wide as the context is as good as none
            expected = value if not value or value >= config.max_position_embeddings else None
        elif name == "attention.causal":
            expected = True
        elif name in ("expert_count", "expert_used_count"):
            expected = 0
        else:
            raise damaged(
                header.path,
                f"it has the setting {key[:80]!r}, which has no counterpart in transformers' "
                f"{type(config).__name__}; import the model that it was made from",
            )
        if not _same(expected, value):
            raise damaged(
                header.path,
                f"its {key[:80]} is {value!r:.60}, and transformers' {type(config).__name__} would "
                f"have {expected!r:.60}; import the model that it was made from",
            )


def _uniform(header: GgufHeader, key: str) -> Any:
    """Return a value; of a list that has one value for every layer, that value."""
    value = header.metadata.get(key)
    if isinstance(value, list) and value and all(item == value[0] for item in value):
        return value[0]
    return value


def _same(expected: Any, value: Any) -> bool:
    if isinstance(expected, bool) or isinstance(value, bool | str | list):
        return type(expected) is type(value) and bool(expected == value)
    if not isinstance(expected, int | float) or not isinstance(value, int | float):
        return False
    if isinstance(value, int) and isinstance(expected, int):
        return expected == value
    try:
        return single(float(expected)) == single(float(value))
    except OverflowError:
        return False


def single(value: float) -> float:
    """Return a number as float32 has it."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])
