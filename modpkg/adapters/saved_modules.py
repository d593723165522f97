"""Whole tensors and rows beside what a method brings: biases, modules_to_save, trained tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modpkg.adapters.changes import Adapter, TensorChange
from modpkg.adapters.names import Names, Parsed
from modpkg.adapters.peft_config import strings

_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens|embed_in|wte|word_embeddings|tok_embeddings|shared)\.weight$"
)
_OUTPUT = re.compile(r"(?:^|\.)(?:lm_head|embed_out)\.(?:weight|bias)$")
_GENERATES = re.compile(
    r"(?:LMHeadModel|ForCausalLM|ForMaskedLM|ForConditionalGeneration|ForPreTraining"
    r"|ForQuestionAnsweringLM)$"
)
_LABELS = {"SEQ_CLS": "ForSequenceClassification", "TOKEN_CLS": "ForTokenClassification"}


def bind_saved(
    adapter: Adapter, parsed: Parsed, names: Names, changes: list[TensorChange]
) -> tuple[list[TensorChange], dict[str, str]]:
    """Return all changes, and the tensors that the base has nothing for by their name there.

    A whole tensor becomes ``value − base``, beside what the method itself does there.

    Raises:
        ComposeError, ReleaseError: it cannot be applied, or not exactly.
    """
    by_target = {change.target: change for change in changes}
    saved = strings(adapter, "modules_to_save")
    added: dict[str, str] = {}
    for name, tensor in sorted(parsed.plain.items()):
        target = names.find(name)
        kept = any(part in saved for part in name.split(".")) or any(
            f".{name}".startswith(f".{module}.") or f".{module}." in f".{name}" for module in saved
        )
        if target is None:
            if _copies_embedding(adapter, name, tensor, parsed.plain):
                parsed.unused.append(tensor)
                continue
            if not kept:
                raise adapter.unbound(tensor, f"there is no {names.expected(name)!r} to act on")
            added[names.expected(name) if _OUTPUT.search(name) else name] = tensor
            continue
        adapter.expect(tensor, target, adapter.target_shape(target))
        if kept:
            _refuse_tied(adapter, target, tensor)
        _put(adapter, by_target, target, tensor)
    indices = _token_indices(adapter)
    if indices and not parsed.tokens:
        raise adapter.refuse("its adapter_config.json has token indices, but there is no row")
    for path, tensor in sorted(parsed.tokens.items()):
        target = names.find(f"{path}.weight")
        if target is None and _copies_embedding(adapter, f"{path}.weight", tensor, parsed.tokens):
            parsed.unused.append(tensor)
            continue
        if target is None:
            raise adapter.unbound(tensor, f"there is no {names.expected(path + '.weight')!r}")
        rows = _rows(adapter, indices, path, tensor)
        shape = adapter.target_shape(target)
        if len(shape) != 2:
            raise adapter.refuse(f"{tensor!r} has rows for {target!r}, which is no matrix")
        adapter.expect(tensor, target, (len(rows), shape[1]))
        if rows and max(rows) >= shape[0]:
            raise adapter.unbound(tensor, f"{target!r} has no row {max(rows)}")
        if target in by_target:
            raise adapter.refuse(f"{tensor!r} and another of its tensors act on {target!r}")
        by_target[target] = TensorChange(
            target=target, op="rows", inputs={"rows": tensor}, parameters={"rows": rows}
        )
    return sorted(by_target.values(), key=lambda change: change.target), added


def refuse_tied(adapter: Adapter, change: TensorChange) -> None:
    """Refuse a change to an embedding that the output layer shares: PEFT changes only one of them.

    Raises:
        ComposeError
    """
    _refuse_tied(adapter, change.target, next(iter(change.inputs.values())))


def _refuse_tied(adapter: Adapter, target: str, tensor: str) -> None:
    if _EMBEDDING.search(target) and tied(adapter):
        raise adapter.refuse(
            f"tensor {tensor!r} changes the embedding {target!r} alone, but the base's output "
            "layer is the same tensor"
        )


def _copies_embedding(adapter: Adapter, name: str, tensor: str, others: Mapping[str, str]) -> bool:
    """Say whether a tensor of the output layer is that of the embedding, which it shares."""
    return shares_output(adapter, name) and any(
        other != tensor and adapter.equal(tensor, other) for other in others.values()
    )


def shares_output(adapter: Adapter, name: str) -> bool:
    """Say whether ``name`` is one of an output layer that the base has no tensor for."""
    return _OUTPUT.search(name) is not None and not any(map(_OUTPUT.search, adapter.base))


def tied(adapter: Adapter) -> bool:
    """Say whether the base's output layer is its embedding, so that both are one tensor."""
    config = adapter.model_config
    if not config or any(_OUTPUT.search(name) for name in adapter.base):
        return False
    classes = config.get("architectures") or [""]
    return bool(config.get("tie_word_embeddings", True)) and (
        _GENERATES.search(str(classes[0])) is not None
    )


def labels_of(adapter: Adapter, added: Mapping[str, str]) -> dict[str, Any]:
    """Return the keys of ``config.json`` that a classifier among ``added`` needs.

    Raises:
        ComposeError: what the added tensors are for cannot be told.
    """
    if not added:
        return {}
    task = str(adapter.config.get("task_type"))
    example = added[min(added)]
    if task not in _LABELS:
        raise adapter.refuse(
            f"tensor {example!r} is a whole module that {adapter.base_name} does not have, and "
            f"task_type {task} does not say what it is; make it a module of kind 'head'"
        )
    last = [name for name in sorted(added) if name.endswith(".weight")]
    rows = adapter.shape(added[last[-1]])[0] if last else 0
    labels = {str(number): f"LABEL_{number}" for number in range(rows)}
    return {
        "architectures": [_LABELS[task]],
        "id2label": labels,
        "label2id": {label: int(number) for number, label in labels.items()},
    }


def _put(adapter: Adapter, by_target: dict[str, TensorChange], target: str, tensor: str) -> None:
    """Add a whole value for a tensor that a plain LoRA may act on too."""
    other = by_target.get(target)
    if other is None:
        by_target[target] = TensorChange(target=target, op="dense", inputs={"values": tensor})
    elif other.op == "lora" and "values" not in other.inputs:
        by_target[target] = TensorChange(
            target=target,
            op="lora",
            inputs={**other.inputs, "values": tensor},
            parameters={**other.parameters, "scaling": other.weight},
        )
    else:
        raise adapter.refuse(
            f"{tensor!r} replaces {target!r}, which {next(iter(other.inputs.values()))!r} changes"
        )


def _token_indices(adapter: Adapter) -> dict[str, list[int]]:
    """Return the trained rows by the end of a module's path; "" is any."""
    config = adapter.config
    value = config.get("trainable_token_indices") or config.get("token_indices") or {}
    table = value if isinstance(value, dict) else {"": value}
    for key, rows in table.items():
        if (
            not isinstance(rows, list)
            or not all(isinstance(row, int) and row >= 0 for row in rows)
            or len(set(rows)) != len(rows)
        ):
            raise adapter.refuse(f"its token indices {rows!r} for {key!r} are no list of rows")
    return table


def _rows(adapter: Adapter, indices: Mapping[str, list[int]], path: str, tensor: str) -> list[int]:
    fits = [rows for key, rows in indices.items() if not key or f".{path}".endswith(f".{key}")]
    if len(fits) != 1:
        raise adapter.unbound(tensor, "its adapter_config.json does not say which rows it has")
    return fits[0]
