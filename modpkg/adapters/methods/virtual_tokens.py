"""Virtual tokens: prompt tuning, P-tuning and prefix tuning.

    composed[t] = base[t]

They change no weight: the model reads them before its input, see `runtime.virtual_tokens`. Prompt
tuning: Lester, Al-Rfou & Constant 2021, https://arxiv.org/abs/2104.08691; P-tuning: Liu et al.
2021, https://arxiv.org/abs/2103.10385; prefix tuning: Li & Liang 2021,
https://arxiv.org/abs/2101.00190; for several tasks: Wang et al. 2023,
https://arxiv.org/abs/2303.02861.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modpkg.adapters.changes import Adapter, Site, TensorChange, VirtualTokens
from modpkg.adapters.method import PeftMethod
from modpkg.adapters.names import AdapterTensors
from modpkg.adapters.peft_config import check_keys, positive
from modpkg.core.filenames import ADAPTER_CONFIG
from modpkg.core.interface import ports_of

OPERATOR = "prompt"
TASKS = {
    "CAUSAL_LM": ("ForCausalLM", "LMHeadModel"),
    "SEQ_CLS": ("ForSequenceClassification",),
    "SEQ_2_SEQ_LM": ("ForConditionalGeneration",),
}
"""By ``task_type``, the suffixes of the model classes that it is for."""

_KEYS = {
    "prompt_embeddings": "embeddings",
    "prefix_task_cols": "columns",
    "prefix_task_rows": "rows",
}
_READ = (
    "num_attention_heads",
    "num_layers",
    "num_tasks",
    "num_transformer_submodules",
    "num_virtual_tokens",
    "token_dim",
)
# How the tokens were initialised and trained; the file has the result.
_IGNORED = (
    "encoder_dropout",
    "encoder_hidden_size",
    "encoder_num_layers",
    "encoder_reparameterization_type",
    "num_ranks",
    "prefix_projection",
    "prompt_tuning_init",
    "prompt_tuning_init_state_dict_path",
    "prompt_tuning_init_task",
    "prompt_tuning_init_text",
    "tokenizer_kwargs",
    "tokenizer_name_or_path",
)


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return nothing: virtual tokens change no weight."""
    return []


def virtual_tokens(adapter: Adapter, tensors: AdapterTensors) -> VirtualTokens:
    """Return the virtual tokens of an adapter.

    Raises:
        ComposeError: The tokens cannot be read exactly as PEFT does, or do not fit the base.
    """
    check_keys(adapter, reads=_READ, ignores=_IGNORED)
    kind, task = adapter.config["peft_type"], adapter.config.get("task_type")
    if not isinstance(task, str) or task not in TASKS:
        raise adapter.refuse(
            f"its task_type is {task!r}; virtual tokens are supported for {', '.join(TASKS)}"
        )
    in_sites = (tensor for roles in tensors.sites.values() for tensor in roles.values())
    if (foreign := min((*tensors.tokens.values(), *in_sites), default=None)) is not None:
        raise adapter.refuse(f"tensor {foreign!r} is not one that its method writes")
    shared = tensors.shared
    multitask = kind == "MULTITASK_PROMPT_TUNING"
    required = {*_KEYS.values()} if multitask else {"embeddings"}
    if shared.keys() != required:
        role = min(shared.keys() ^ required)
        raise adapter.refuse(f"its file and {kind} do not agree about {role!r}")
    count, width = positive(adapter, "num_virtual_tokens", 0), positive(adapter, "token_dim", 0)
    layers = positive(adapter, "num_layers", 0)
    submodules = 2 if task == "SEQ_2_SEQ_LM" else 1
    configured = positive(adapter, "num_transformer_submodules", submodules)
    if multitask and configured != 1:
        raise adapter.refuse(
            "it has tokens for encoder and decoder, which PEFT reads differently when generating"
        )
    if configured != submodules:
        raise adapter.refuse(
            f"its num_transformer_submodules is {configured}, but {task} has {submodules}"
        )
    heads = None
    target = f"num_virtual_tokens of {ADAPTER_CONFIG}"
    if kind == "PREFIX_TUNING":
        heads = positive(adapter, "num_attention_heads", 0)
        if width % heads:
            raise adapter.refuse(f"token_dim {width} is not a multiple of its {heads} heads")
        adapter.expect(shared["embeddings"], target, (count, layers * 2 * width))
    else:
        adapter.expect(shared["embeddings"], target, (count * submodules, width))
    if multitask:
        tasks, total, rank = (*adapter.shape(shared["columns"]), 0, 0, 0)[:3]
        if tasks != positive(adapter, "num_tasks", 1) or total != count:
            raise adapter.misfit(shared["columns"], target, [count])
        adapter.expect(shared["rows"], target, (tasks, rank, width))
    tokens = VirtualTokens(
        count=count, width=width, layers=layers, heads=heads, task=str(task), tensors=dict(shared)
    )
    _check_base(adapter, tokens)
    return tokens


def _check_base(adapter: Adapter, tokens: VirtualTokens) -> None:
    """Check that the base has the width, layers and heads that the tokens were trained for."""
    config = adapter.model_config
    ports = ports_of(dict(config), None)
    for port, value in tokens.ports().items():
        if ports.get(port, value) != value:
            raise adapter.refuse(
                f"its virtual tokens are for a base whose port {port!r} is {value}, and that of "
                f"{adapter.base_name} is {ports[port]}"
            )
    if tokens.heads is None or not config:
        return
    every = _first(config, "num_attention_heads", "n_head", "num_heads", "decoder_attention_heads")
    hidden = _first(config, "hidden_size", "n_embd", "d_model")
    heads = _first(config, "num_key_value_heads") or every
    size = _first(config, "head_dim", "d_kv") or (hidden // every if hidden and every else None)
    if heads and size and (heads, size) != (tokens.heads, tokens.width // tokens.heads):
        raise adapter.refuse(
            f"its virtual tokens are for {tokens.heads} heads of {tokens.width // tokens.heads}, "
            f"and {adapter.base_name} has {heads} of {size}"
        )


def _first(config: Mapping[str, Any], *keys: str) -> int | None:
    return next((v for key in keys if isinstance(v := config.get(key), int) and v > 0), None)


VIRTUAL_TOKENS = tuple(
    PeftMethod(
        peft_type=peft_type,
        operator=OPERATOR,
        keys=_KEYS,
        bind=bind,
        virtual_tokens=virtual_tokens,
    )
    for peft_type in ("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING")
)
