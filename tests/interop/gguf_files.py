"""Tiny models of transformers as GGUF files, laid out as llama.cpp's converters lay them out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType, GGUFWriter

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD, INNER, CONTEXT = 32, 2, 4, 2, 8, 64, 64
EPSILON = 1e-5

Change = Callable[[str, torch.Tensor], torch.Tensor]


def tokens() -> list[str]:
    """Return a vocabulary of bytes as GPT-2 spells them, two merges and two control tokens."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return ["<|begin|>", "<|end|>", *bytes_to_unicode().values(), "th", "the"]


VOCAB = len(tokens())


def config_of(architecture: str, **changes: Any) -> transformers.PreTrainedConfig:
    """Return the config of a tiny model of an architecture, named as GGUF names it."""
    common: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
        "rms_norm_eps": EPSILON,
        "tie_word_embeddings": False,
    }
    kind, own = _CONFIGS[architecture]
    return kind(**{**common, **own, **changes})


_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

_CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (transformers.LlamaConfig, {}),
    "qwen2": (transformers.Qwen2Config, {}),
    "qwen2moe": (
        transformers.Qwen2MoeConfig,
        {**_EXPERTS, "shared_expert_intermediate_size": 24},
    ),
    "qwen3": (transformers.Qwen3Config, {"head_dim": 16}),
    "qwen3moe": (transformers.Qwen3MoeConfig, {**_EXPERTS, "head_dim": 16, "norm_topk_prob": True}),
    "falcon": (
        transformers.FalconConfig,
        {"multi_query": True, "new_decoder_architecture": False, "num_key_value_heads": 1},
    ),
    "phi3": (
        transformers.Phi3Config,
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
    "bloom": (transformers.BloomConfig, {"n_layer": LAYERS, "n_head": HEADS}),
    "stablelm": (transformers.StableLmConfig, {"use_qkv_bias": True, "layer_norm_eps": EPSILON}),
    "gpt2": (
        transformers.GPT2Config,
        {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": CONTEXT},
    ),
    "starcoder2": (
        transformers.Starcoder2Config,
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}, "sliding_window": 16},
    ),
    "mamba": (transformers.MambaConfig, {"state_size": 4, "time_step_rank": 2}),
    "nemotron": (transformers.NemotronConfig, {"norm_eps": EPSILON}),
    "gemma2": (
        transformers.Gemma2Config,
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16,
         "tie_word_embeddings": True,
         "final_logit_softcapping": 20.0, "attn_logit_softcapping": 40.0},
    ),
    "gemma3": (
        transformers.Gemma3TextConfig,
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16, "num_hidden_layers": 6},
    ),
    "minimax-m2": (
        transformers.MiniMaxM2Config,
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "rotary_dim": 8,
         "intermediate_size": 16},
    ),
    "lfm2": (
        transformers.Lfm2Config,
        {"block_auto_adjust_ff_dim": False, "norm_eps": EPSILON,
         "layer_types": ["conv", "full_attention"]},
    ),
    "qwen35moe": (
        transformers.Qwen3_5MoeTextConfig,
        {**_EXPERTS, "shared_expert_intermediate_size": 24,
         "head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
         "linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_hidden_layers": 4,
         "layer_types": ["linear_attention"] * 3 + ["full_attention"],
         "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5,
                             "mrope_section": [2, 1, 1], "mrope_interleaved": True}},
    ),
    "qwen35": (
        transformers.Qwen3_5TextConfig,
        {"head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
         "linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_hidden_layers": 4,
         "layer_types": ["linear_attention"] * 3 + ["full_attention"],
         "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5,
                             "mrope_section": [2, 1, 1], "mrope_interleaved": True}},
    ),
}  # fmt: skip


def model_of(architecture: str, seed: int = 0, **changes: Any) -> Any:
    """Return a tiny model; every weight is random, norms and biases too."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config_of(architecture, **changes))
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape) * 0.05
        centre = 0.0 if tensor.ndim > 1 or "bias" in name or "dt" in name else tensor
        tensor.copy_(torch.log(1.5 + noise) if "A_log" in name else centre + noise)
    model.eval()
    return model


def metadata_of(config: Any, architecture: str) -> dict[str, Any]:
    """Return what llama.cpp's converters write for a config; integers are uint32."""
    own: dict[str, Any] = {
        "context_length": getattr(config, "max_position_embeddings", CONTEXT),
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
    }
    if architecture == "mamba":
        return own | {
            "feed_forward_length": 0,
            "attention.head_count": 0,
            "attention.layer_norm_rms_epsilon": config.layer_norm_epsilon,
            "ssm.conv_kernel": config.conv_kernel,
            "ssm.inner_size": config.intermediate_size,
            "ssm.state_size": config.state_size,
            "ssm.time_step_rank": config.time_step_rank,
            "ssm.dt_b_c_rms": False,
        }
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    own["attention.head_count"] = heads
    own["feed_forward_length"] = config.intermediate_size
    if architecture in ("gpt2", "bloom", "falcon"):
        own["feed_forward_length"] = 4 * config.hidden_size
    if architecture == "gpt2":
        return own | {"attention.layer_norm_epsilon": config.layer_norm_epsilon}
    if architecture == "bloom":
        return own | {
            "attention.head_count_kv": heads,
            "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        }
    own["attention.head_count_kv"] = config.num_key_value_heads
    for attribute in ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon"):
        if hasattr(config, attribute):
            own["attention.layer_norm_epsilon"] = getattr(config, attribute)
    if architecture == "nemotron":
        own["attention.layer_norm_epsilon"] = config.norm_eps
    if architecture == "lfm2":
        own["attention.layer_norm_rms_epsilon"] = config.norm_eps
        own["shortconv.l_cache"] = config.conv_L_cache
        own["attention.head_count_kv"] = [
            0 if kind == "conv" else config.num_key_value_heads for kind in config.layer_types
        ]
    if "attention.layer_norm_epsilon" not in own and architecture != "lfm2":
        own["attention.layer_norm_rms_epsilon"] = config.rms_norm_eps
    if architecture == "falcon":
        return own | {
            "attention.head_count_kv": 1,
            "tensor_data_layout": "jploski",
        }
    rope = config.rope_parameters
    if architecture == "gemma3":
        rope = rope["full_attention"]
    own["rope.freq_base"] = rope["rope_theta"]
    if getattr(config, "head_dim", None):
        own |= {"attention.key_length": head, "attention.value_length": head}
    if architecture in (
        "llama",
        "phi3",
        "stablelm",
        "nemotron",
        "minimax-m2",
        "qwen35",
        "qwen35moe",
    ):
        own["rope.dimension_count"] = int(head * rope.get("partial_rotary_factor", 1.0))
    if architecture in ("phi3", "starcoder2", "gemma2", "gemma3"):
        own["attention.sliding_window"] = config.sliding_window or 0
    if architecture == "phi3":
        own["rope.scaling.original_context_length"] = config.original_max_position_embeddings
    if architecture == "stablelm":
        own["use_parallel_residual"] = config.use_parallel_residual
    if architecture == "gemma2":
        own["attn_logit_softcapping"] = config.attn_logit_softcapping
        own["final_logit_softcapping"] = config.final_logit_softcapping
    if architecture in ("qwen2moe", "qwen3moe", "minimax-m2", "qwen35moe"):
        own["expert_count"] = config.num_experts
        own["expert_used_count"] = config.num_experts_per_tok
        own["expert_feed_forward_length"] = getattr(
            config, "moe_intermediate_size", config.intermediate_size
        )
    if architecture in ("qwen2moe", "qwen35moe"):
        own["expert_shared_feed_forward_length"] = config.shared_expert_intermediate_size
    if architecture == "minimax-m2":
        own["expert_gating_func"] = 2
    if architecture in ("qwen35", "qwen35moe"):
        own |= {
            "ssm.conv_kernel": config.linear_conv_kernel_dim,
            "ssm.state_size": config.linear_key_head_dim,
            "ssm.group_count": config.linear_num_key_heads,
            "ssm.time_step_rank": config.linear_num_value_heads,
            "ssm.inner_size": config.linear_value_head_dim * config.linear_num_value_heads,
            "full_attention_interval": 4,
            "rope.dimension_sections": [2, 1, 1, 0],
        }
    return own


def tensors_of(model: Any, architecture: str) -> dict[str, torch.Tensor]:
    """Return a model's tensors with the names and layouts of llama.cpp."""
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    tied = getattr(model.config, "tie_word_embeddings", False)
    found: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        for part, value in _split(name, tensor):
            stem, dot, suffix = part.rpartition(".")
            if suffix not in ("weight", "bias"):
                stem, dot, suffix = part, "", ""
            short = names.get_name(stem) or names.get_name(stem.removeprefix("transformer."))
            if part.endswith("e_score_correction_bias"):
                short, dot, suffix = f"blk.{part.split('.')[2]}.exp_probs_b", ".", "bias"
            assert short is not None, part
            found[short + dot + suffix] = _laid_out(architecture, model.config, part, value)
    return found


def _split(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    if name.endswith("experts.gate_up_proj"):
        gate, up = tensor.chunk(2, dim=1)
        yield name.replace("gate_up_proj", "gate_proj.weight"), gate
        yield name.replace("gate_up_proj", "up_proj.weight"), up
    elif name.endswith("experts.down_proj"):
        yield name + ".weight", tensor
    elif name.endswith("dt_bias"):
        yield name.replace("dt_bias", "dt_proj.bias"), tensor
    else:
        yield name, tensor


def _laid_out(architecture: str, config: Any, name: str, tensor: torch.Tensor) -> torch.Tensor:
    if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        pairs = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return pairs.swapaxes(1, 2).reshape(tensor.shape)
    if architecture == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return tensor.T.contiguous()
    if architecture == "bloom" and "query_key_value" in name:
        head = config.hidden_size // config.n_head
        grouped = tensor.reshape(config.n_head, 3, head, *tensor.shape[1:])
        return grouped.swapaxes(0, 1).reshape(tensor.shape)
    if architecture in ("nemotron", "gemma2", "gemma3") and name.endswith("norm.weight"):
        return tensor + 1
    if architecture == "nemotron" and "layernorm.weight" in name:
        return tensor + 1
    if name.endswith("A_log"):
        tensor = -torch.exp(tensor)
    if "shared_expert_gate" in name:
        return tensor.squeeze(0)
    if "conv1d.weight" in name or "conv.conv.weight" in name:
        tensor = tensor.squeeze(1)
    if architecture in ("qwen35", "qwen35moe"):
        return _qwen35(config, name, tensor)
    return tensor


def _qwen35(config: Any, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Put value heads next to each other by their number within a key head."""
    if name.endswith("norm.weight") and "linear_attn" not in name:
        return tensor + 1
    if "linear_attn" not in name or name.endswith("norm.weight"):
        return tensor
    keys, values = config.linear_num_key_heads, config.linear_num_value_heads // 2

    def tiled(part: torch.Tensor, width: int) -> torch.Tensor:
        shape = part.shape
        return part.reshape(keys, values, width, -1).swapaxes(0, 1).reshape(shape)

    width = config.linear_value_head_dim
    rows = 2 * config.linear_key_head_dim * keys
    if "in_proj_qkv" in name or "conv1d" in name:
        return torch.cat([tensor[:rows], tiled(tensor[rows:], width)])
    if "in_proj_z" in name:
        return tiled(tensor, width)
    if "out_proj" in name:
        return tiled(tensor.T, width).T.contiguous()
    return tiled(tensor, 1)


def write_gguf(
    path: Path,
    tensors: dict[str, torch.Tensor | np.ndarray],
    metadata: dict[str, Any],
    *,
    architecture: str = "llama",
    general: dict[str, Any] | None = None,
    pre: str | None = "llama-bpe",
    types: dict[str, GGMLQuantizationType] | None = None,
) -> Path:
    """Write a file with gguf's own writer; ``types`` are those of raw blocks, by name."""
    writer = GGUFWriter(path, architecture)
    for key, value in {**metadata}.items():
        _add(writer, f"{architecture}.{key}", value)
    for key, text in (general or {}).items():
        _add(writer, key, text)
    if pre is not None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens())
        writer.add_token_types([3, 3, *[1] * (VOCAB - 2)])
        writer.add_token_merges(["t h", "th e"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
    for name, tensor in tensors.items():
        array = tensor.detach().contiguous().numpy() if isinstance(tensor, torch.Tensor) else tensor
        writer.add_tensor(name, array, raw_dtype=(types or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def write_model(path: Path, model: Any, architecture: str, **options: Any) -> Path:
    """Write a tiny model as llama.cpp's converter would."""
    metadata = metadata_of(model.config, architecture)
    return write_gguf(
        path, tensors_of(model, architecture), metadata, architecture=architecture, **options
    )
