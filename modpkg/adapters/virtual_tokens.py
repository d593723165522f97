"""Virtual tokens: what prompt tuning, P-tuning and prefix tuning put before a text.

They change no weight. A model reads them while it runs; see `modpkg.runtime.virtual`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modpkg.adapters.changes import Adapter, AdapterChanges, VirtualTokens
from modpkg.adapters.names import Names, Parsed, names_of, parse
from modpkg.adapters.peft_config import check_keys, positive
from modpkg.adapters.saved_modules import bind_saved, labels_of
from modpkg.core.interface import ports_of
from modpkg.core.records import Port

OPERATOR = "prompt"
"""The operator that a recipe names for them."""
PROMPTS = ("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING")
"""The ``peft_type`` of those that are done."""
TASKS = {
    "CAUSAL_LM": ("ForCausalLM", "LMHeadModel"),
    "SEQ_CLS": ("ForSequenceClassification",),
    "SEQ_2_SEQ_LM": ("ForConditionalGeneration",),
}
"""By ``task_type``, how the classes end that it is for."""

_PARTS = {
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
# How the tokens were begun with and trained; what came of it is in the file.
_HARMLESS = (
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


def bind_prompt(adapter: Adapter) -> AdapterChanges:
    """Return the virtual tokens of an adapter, and the whole modules that lie beside them.

    Raises:
        ComposeError, ReleaseError: it cannot be applied, or not exactly.
    """
    check_keys(adapter, reads=_READ, harmless=_HARMLESS)
    kind, task = adapter.config["peft_type"], adapter.config.get("task_type")
    if task not in TASKS:
        raise adapter.refuse(
            f"its task_type is {task!r}; virtual tokens are done for {', '.join(TASKS)}"
        )
    parsed = parse(adapter, _PARTS)
    for tensor in (
        *parsed.tokens.values(),
        *(t for r in parsed.sites.values() for t in r.values()),
    ):
        raise adapter.refuse(f"tensor {tensor!r} is not a part that its method is known to have")
    multitask = kind == "MULTITASK_PROMPT_TUNING"
    wanted = {*_PARTS.values()} if multitask else {"embeddings"}
    if parsed.shared.keys() != wanted:
        odd = sorted(parsed.shared.keys() ^ wanted)[0]
        raise adapter.refuse(f"its file and {kind} do not agree about {odd!r}")
    count, width = positive(adapter, "num_virtual_tokens", 0), positive(adapter, "token_dim", 0)
    layers = positive(adapter, "num_layers", 0)
    parts = positive(adapter, "num_transformer_submodules", 2 if task == "SEQ_2_SEQ_LM" else 1)
    if multitask and parts != 1:
        raise adapter.refuse(
            "it has tokens for encoder and decoder, which PEFT reads in another way when it "
            "generates than when it does not"
        )
    if parts != (2 if task == "SEQ_2_SEQ_LM" else 1):
        raise adapter.refuse(f"its num_transformer_submodules is {parts}, which {task} has not")
    heads = None
    what = "num_virtual_tokens of adapter_config.json"
    if kind == "PREFIX_TUNING":
        heads = positive(adapter, "num_attention_heads", 0)
        if width % heads:
            raise adapter.refuse(f"token_dim {width} is no multiple of its {heads} heads")
        adapter.expect(parsed.shared["embeddings"], what, (count, layers * 2 * width))
    else:
        adapter.expect(parsed.shared["embeddings"], what, (count * parts, width))
    if multitask:
        tasks, total, rank = (*adapter.shape(parsed.shared["columns"]), 0, 0, 0)[:3]
        if tasks != positive(adapter, "num_tasks", 1) or total != count:
            raise adapter.misfit(parsed.shared["columns"], what, [count])
        adapter.expect(parsed.shared["rows"], what, (tasks, rank, width))
    prompt = VirtualTokens(
        count=count,
        width=width,
        layers=layers,
        heads=heads,
        task=str(task),
        tensors=dict(parsed.shared),
    )
    _check_config(adapter, prompt)
    changes, added = bind_saved(adapter, parsed, _names(adapter, parsed), [])
    return AdapterChanges(
        changes=tuple(changes),
        unused=tuple(parsed.unused),
        added=added,
        config=labels_of(adapter, added),
        prompt=prompt,
    )


def _names(adapter: Adapter, parsed: Parsed) -> Names:
    """Return how names of whole modules are spelled in the base, if it has any of them."""
    there = [name for name in parsed.plain if name in adapter.base]
    return names_of(adapter, parsed.plain) if there else Names(adapter)


def check_ports(adapter: Adapter, prompt: VirtualTokens, ports: Mapping[str, Port]) -> None:
    """Check that a base is as wide, and has as many layers, as the virtual tokens were made for.

    Raises:
        ComposeError
    """
    wanted: dict[str, int] = {"layers": prompt.layers}
    if prompt.heads is None:
        wanted["hidden"] = prompt.width
    for port, value in wanted.items():
        if port in ports and ports[port] != value:
            raise adapter.refuse(
                f"its virtual tokens are for a base whose port {port!r} is {value}, and that of "
                f"{adapter.base_name} is {ports[port]}"
            )


def _check_config(adapter: Adapter, prompt: VirtualTokens) -> None:
    config = adapter.model_config
    check_ports(adapter, prompt, ports_of(dict(config), None))
    if prompt.heads is None or not config:
        return
    every = _first(config, "num_attention_heads", "n_head", "num_heads", "decoder_attention_heads")
    hidden = _first(config, "hidden_size", "n_embd", "d_model")
    heads = _first(config, "num_key_value_heads") or every
    size = _first(config, "head_dim", "d_kv") or (hidden // every if hidden and every else None)
    if heads and size and (heads, size) != (prompt.heads, prompt.width // prompt.heads):
        raise adapter.refuse(
            f"its virtual tokens are for {prompt.heads} heads of {prompt.width // prompt.heads}, "
            f"and {adapter.base_name} has {heads} of {size}"
        )


def _first(config: Mapping[str, Any], *keys: str) -> int | None:
    return next((v for key in keys if isinstance(v := config.get(key), int) and v > 0), None)
