"""Tensors saved beside a method's own: biases, ``modules_to_save``, and trained token rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modpkg.adapters.changes import EMBEDDING_WEIGHT, OUTPUT_WEIGHT, Adapter, TensorChange
from modpkg.adapters.lora_variants import MOVING_INITS
from modpkg.adapters.names import AdapterTensors, NameMapping
from modpkg.adapters.patterns import UnsafePattern, Work, matches_whole
from modpkg.adapters.peft_config import scaling_of, strings
from modpkg.adapters.ties import is_saved, refuse_half_of_module, values_for_ties
from modpkg.core.filenames import ADAPTER_CONFIG

_NUMBERED = re.compile(r"\.[0-9]+\.")
_OUTPUT = re.compile(r"(?:^|\.)(?:lm_head|embed_out)\.(?:weight|bias)$")
_SHARED = re.compile(r"((?:^|\.))shared\.weight$")
_HAS_OUTPUT_LAYER = re.compile(
    r"(?:LMHead|LMHeadModel|DoubleHeadsModel|GenerationDecoder|ForCausalLM|ForMaskedLM"
    r"|ForConditionalGeneration|ForPreTraining|ForQuestionAnsweringLM)$"
)
_TIED = ("embed_tokens", "lm_head")
"""Names by which PEFT knows an embedding and its output layer, for ``ensure_weight_tying``."""
OVER = "over"
"""The formula of a change to values that the adapter saved; see `modpkg.compose.operators.over`."""
OVER_VALUES = (
    *("boft", "c3a", "delora", "dora", "fourierft", "gralora", "hira", "hra", "ia3", "loha"),
    *("lokr", "miss", "oft", "pvera", "randlora", "road", "tinylora", "unilora", "vblora"),
    *("vera", "waveft"),
)
"""Formulas that depend on the weight they are applied to only as they are applied, or not at all:
none that PEFT sets up from the base's weight."""
CLASSIFIERS = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
}
"""Ends of transformers' class names, by PEFT's ``task_type``."""
_CLASSIFIER = re.compile(
    r"For(?:Sequence|Token|Image|Audio|Video)Classification$|ForQuestionAnswering$"
)
_LABELS = ("classifier", "score", "qa_outputs")
"""Modules that have a row for each label."""


def bind_saved(
    adapter: Adapter, tensors: AdapterTensors, mapping: NameMapping, changes: list[TensorChange]
) -> tuple[list[TensorChange], dict[str, str]]:
    """Return all changes, and the tensors that the base lacks, by their name in the result.

    A whole tensor becomes the change ``value − base``, beside the method's own change to it.

    Raises:
        ComposeError: A tensor cannot be applied exactly, or has the wrong shape.
        ReleaseError: A tensor has no counterpart in the base.
    """
    by_target = {change.target: change for change in changes}
    modules = strings(adapter, "modules_to_save")
    outputs = {n: tensor for n, tensor in tensors.plain.items() if shares_output(adapter, n)}
    added: dict[str, str] = {}
    for name, tensor in sorted(tensors.plain.items()):
        target = mapping.find(name)
        saved = is_saved(name, modules)
        if saved and _is_nested(name, modules):
            raise adapter.refuse(
                f"tensor {tensor!r} is in a module of modules_to_save that is inside another, of "
                "which PEFT trains one and saves the other"
            )
        if ".modules_to_save." in tensor and not saved:
            raise adapter.refuse(
                f"tensor {tensor!r} is a module's that was saved whole, and its {ADAPTER_CONFIG} "
                "does not name it in modules_to_save: PEFT leaves it out"
            )
        if target is not None and saved and _has_other_labels(adapter, target, tensor):
            added[target] = tensor
        elif target is not None:
            adapter.expect(tensor, target, adapter.target_shape(target))
            if saved and not _replaces_both(adapter, tensor, outputs):
                _refuse_tied(adapter, target, tensor)
            _add_values(adapter, by_target, target, tensor)
        elif _copies_embedding(adapter, name, tensor, tensors.plain):
            tensors.unused.append(tensor)
        elif saved and OUTPUT_WEIGHT.search(name) and _is_tied(adapter):
            raise adapter.refuse_half(
                f"tensor {tensor!r} replaces the output layer only, but the base's embedding "
                "shares that tensor"
            )
        elif saved:
            own = adapter.own_name(name)
            added[mapping.expected(name) if _OUTPUT.search(name) else own] = tensor
        else:
            raise adapter.unbound(tensor, f"the base has no {mapping.expected(name)!r}")
    indices = token_indices(adapter)
    if indices and not tensors.tokens:
        raise adapter.refuse(f"its {ADAPTER_CONFIG} has token indices, but it has no rows for them")
    for path, tensor in sorted(tensors.tokens.items()):
        name = f"{path}.weight"
        target = mapping.find(name)
        if target is not None:
            rows = rows_of(adapter, indices, path, tensor)
            _add_rows(adapter, by_target, target, tensor, rows)
        elif _copies_embedding(adapter, name, tensor, tensors.tokens):
            tensors.unused.append(tensor)
        else:
            raise adapter.unbound(tensor, f"the base has no {mapping.expected(name)!r}")
    refuse_half_of_module(adapter, tensors, mapping)
    for target, tensor in values_for_ties(adapter, tensors, mapping):
        _add_values(adapter, by_target, target, tensor)
    return sorted(by_target.values(), key=lambda change: change.target), added


def _matching(name: str, modules: list[str]) -> int:
    """Return how many modules around a tensor ``modules_to_save`` matches: by the path's end."""
    parts, ends = name.split("."), tuple(modules)
    return sum(".".join(parts[:end]).endswith(ends) for end in range(1, len(parts)))


def _is_nested(name: str, modules: list[str]) -> bool:
    """Return whether two modules around a tensor match ``modules_to_save``, as PEFT matches it.

    >>> _is_nested("head.head.0.weight", ["head"]), _is_nested("head.0.weight", ["head"])
    (True, False)
    """
    return _matching(name, modules) > 1


def drop_tied_copies(adapter: Adapter, tensors: AdapterTensors) -> None:
    """Remove the output layer's copy of an embedding's LoRA, which ``ensure_weight_tying`` makes.

    It is transposed, so that both change the one tensor that they share by the same.

    Raises:
        ComposeError: It is not such a copy.
    """
    if not _ties(adapter, "target_modules"):
        return
    for path in [path for path in tensors.sites if shares_output(adapter, f"{path}.weight")]:
        roles = tensors.sites.pop(path)
        scaling = scaling_of(adapter, alpha="lora_alpha")
        if roles.keys() != {"a", "b"} or not any(
            other.keys() == {"embedding_a", "embedding_b"}
            and adapter.shape(other["embedding_b"]) == adapter.shape(roles["a"])[::-1]
            and adapter.shape(other["embedding_a"]) == adapter.shape(roles["b"])[::-1]
            and scaling.at(embedding) == scaling.at(path)
            for embedding, other in tensors.sites.items()
        ):
            raise adapter.refuse(
                f"it has ensure_weight_tying, and {min(roles.values())!r} does not agree with the "
                "embedding's tensors"
            )
        tensors.unused.extend(sorted(roles.values()))


def _ties(adapter: Adapter, key: str) -> bool:
    """Return whether PEFT applies to the output layer what it applies to the embedding.

    It does so for LoRA, if ``modules_to_save`` has one of two names, or else ``target_modules``.
    """
    config = adapter.config
    if not config.get("ensure_weight_tying") or config.get("peft_type") != "LORA":
        return False
    keys = [each for each in ("modules_to_save", "target_modules") if _names_tied(adapter, each)]
    return keys[:1] == [key]


def _names_tied(adapter: Adapter, key: str) -> bool:
    value = adapter.config.get(key) or []
    if isinstance(value, str):
        try:
            return any(matches_whole(value, name, Work()) for name in _TIED)
        except UnsafePattern:
            return False
    return any(name.rpartition(".")[2] in _TIED for name in strings(adapter, key))


def _replaces_both(adapter: Adapter, tensor: str, outputs: Mapping[str, str]) -> bool:
    """Return whether a saved embedding is the saved weight of an output layer that shares it."""
    return _ties(adapter, "modules_to_save") or any(
        adapter.equal(tensor, other) for other in outputs.values()
    )


def refuse_tied(adapter: Adapter, change: TensorChange) -> None:
    """Check that a change is not to an embedding that is also the output layer's weight.

    PEFT changes only one of the two, and there is only one tensor.

    Raises:
        ComposeError: The target is such an embedding.
    """
    of_embedding = "lora_embedding_A" in change.inputs.get("a", "")
    if not (of_embedding and _ties(adapter, "target_modules")):
        _refuse_tied(adapter, change.target, next(iter(change.inputs.values())))


def refuse_shared_output(adapter: Adapter, name: str, tensor: str) -> None:
    """Check that a method's tensor is not for an output layer that shares the embedding's weight.

    Raises:
        ComposeError: It is.
    """
    if shares_output(adapter, name) and _is_tied(adapter):
        raise adapter.refuse_half(
            f"tensor {tensor!r} changes the output layer only, but the base's embedding shares "
            "its tensor"
        )


def _refuse_tied(adapter: Adapter, target: str, tensor: str) -> None:
    if _is_embedding(adapter, target) and _is_tied(adapter):
        raise adapter.refuse_half(
            f"tensor {tensor!r} changes the embedding {target!r} only, but the base's output "
            "layer shares that tensor"
        )
    copied = _SHARED.sub(r"\1encoder.embed_tokens.weight", target)
    if copied != target and copied not in adapter.base:
        raise adapter.refuse_half(
            f"tensor {tensor!r} changes {target!r} only, but the base's encoder and decoder share "
            "that tensor"
        )


def _is_embedding(adapter: Adapter, target: str) -> bool:
    """Return whether a tensor is the base's embedding of tokens.

    Its name tells. Where no tensor of the base has a usual one, the shape does: a row for each
    token, outside of the numbered layers, whose weights may be as high by chance.
    """
    if adapter.has_named_embedding:
        return EMBEDDING_WEIGHT.search(target) is not None
    shape = adapter.target_shape(target)
    nested = adapter.model_config.get("text_config")
    tables = (adapter.model_config, nested if isinstance(nested, dict) else {})
    sizes = [table["vocab_size"] for table in tables if isinstance(table.get("vocab_size"), int)]
    return len(shape) == 2 and shape[0] in sizes and not _NUMBERED.search(target)


def _copies_embedding(adapter: Adapter, name: str, tensor: str, others: Mapping[str, str]) -> bool:
    """Return whether a tensor is the output layer's copy of the embedding that it shares."""
    return shares_output(adapter, name) and any(
        other != tensor and adapter.equal(tensor, other) for other in others.values()
    )


def shares_output(adapter: Adapter, name: str) -> bool:
    """Return whether ``name`` is of an output layer for which the base has no tensor."""
    return _OUTPUT.search(name) is not None and not adapter.has_output


def _is_tied(adapter: Adapter) -> bool:
    """Return whether the base's output layer and its embedding are one tensor."""
    config = adapter.model_config
    if not config or adapter.ties or adapter.has_output:
        return False
    classes = config.get("architectures") or [""]
    nested = config.get("text_config")
    tables = [config, nested] if isinstance(nested, dict) else [config]
    return _HAS_OUTPUT_LAYER.search(str(classes[0])) is not None and any(
        table.get("tie_word_embeddings", True) for table in tables
    )


def labels_of(adapter: Adapter, added: Mapping[str, str]) -> dict[str, Any]:
    """Return the keys of ``config.json`` that a classifier among ``added`` needs.

    Raises:
        ComposeError: The adapter's ``task_type`` does not say what the added tensors are for.
    """
    if not added:
        return {}
    task = adapter.config.get("task_type")
    example = added[min(added)]
    kind = CLASSIFIERS.get(str(task)) or (_kind_of_class(adapter) if task is None else None)
    if kind is None:
        raise adapter.refuse(
            f"tensor {example!r} is of a module that {adapter.base_name} does not have, and "
            f"task_type {task} does not say what it is for; publish it as a module of kind 'head'"
        )
    weights = [name for name in sorted(added) if name.endswith(".weight")]
    weights = [name for name in weights if name.partition(".")[0] in _LABELS] or weights
    count = adapter.shape(added[weights[-1]])[0] if weights else 0
    labels = {str(number): f"LABEL_{number}" for number in range(count)}
    return {
        "architectures": [kind],
        "id2label": labels,
        "label2id": {label: int(number) for number, label in labels.items()},
    }


def _kind_of_class(adapter: Adapter) -> str | None:
    """Return the end of the name of the class that was trained, or else of the base's class.

    PEFT writes the class into ``auto_mapping`` if the configuration has no ``task_type``.
    """
    trained = adapter.config.get("auto_mapping")
    own = trained.get("base_model_class") if isinstance(trained, dict) else None
    classes = adapter.model_config.get("architectures")
    named = (own, classes[0] if isinstance(classes, list) and classes else None)
    found = [_CLASSIFIER.search(name) for name in named if isinstance(name, str)]
    return next((match[0] for match in found if match is not None), None)


def _has_other_labels(adapter: Adapter, target: str, tensor: str) -> bool:
    """Return whether a saved tensor of a classifier is for another number of labels."""
    old, new = adapter.target_shape(target), adapter.shape(tensor)
    return (
        any(part in _LABELS for part in target.split("."))
        and _kind_of_class(adapter) is not None
        and len(old) == len(new) > 0
        and old[1:] == new[1:]
        and old != new
    )


def _add_values(
    adapter: Adapter, by_target: dict[str, TensorChange], target: str, tensor: str
) -> None:
    """Add a whole value for a tensor of the base, which a plain LoRA may change too."""
    other = by_target.get(target)
    if other is None:
        by_target[target] = TensorChange(target=target, op="dense", inputs={"values": tensor})
    elif "values" in other.inputs:
        raise adapter.unbound(tensor, f"{other.inputs['values']!r} is for {target!r} too")
    elif other.op in ("lora", *MOVING_INITS):  # what these moved is not in the saved values
        by_target[target] = TensorChange(
            target=target,
            op="lora",
            inputs={**other.inputs, "values": tensor},
            parameters={"scaling": other.weight, **other.parameters},
        )
    elif other.op in OVER_VALUES and not other.reads:
        by_target[target] = TensorChange(
            target=target,
            op=OVER,
            inputs={**other.inputs, "values": tensor},
            parameters={
                "op": other.op,
                "weight": other.weight,
                "parameters": {k: v for k, v in other.parameters.items() if k != "init"},
            },
        )
    else:
        raise adapter.refuse(
            f"{tensor!r} replaces {target!r}, which {next(iter(other.inputs.values()))!r} changes"
        )


def _add_rows(
    adapter: Adapter,
    by_target: dict[str, TensorChange],
    target: str,
    tensor: str,
    rows: list[int],
) -> None:
    """Add trained rows of an embedding, beside a whole value at most."""
    shape = adapter.target_shape(target)
    if len(shape) != 2:
        raise adapter.refuse(f"{tensor!r} has rows for {target!r}, which is not a matrix")
    adapter.expect(tensor, target, (len(rows), shape[1]))
    if rows and max(rows) >= shape[0]:
        raise adapter.unbound(tensor, f"{target!r} has no row {max(rows)}")
    inputs = {"rows": tensor}
    other = by_target.get(target)
    if other is not None and other.op == "dense":
        inputs |= other.inputs
    elif other is not None:
        raise adapter.refuse(f"{tensor!r} and another of its tensors act on {target!r}")
    by_target[target] = TensorChange(
        target=target, op="rows", inputs=inputs, parameters={"rows": rows}
    )


def token_indices(adapter: Adapter) -> dict[str, list[int]]:
    """Return the trained rows by suffix of a module's path; "" matches any."""
    config = adapter.config
    value = config.get("trainable_token_indices") or config.get("token_indices") or {}
    table = value if isinstance(value, dict) else {"": value}
    for key, rows in table.items():
        if (
            not isinstance(rows, list)
            or not all(isinstance(row, int) and row >= 0 for row in rows)
            or len(set(rows)) != len(rows)
        ):
            raise adapter.refuse(f"its token indices {rows!r} for {key!r} are not a list of rows")
    return table


def rows_of(
    adapter: Adapter, indices: Mapping[str, list[int]], path: str, tensor: str
) -> list[int]:
    """Return the indices of the rows that a tensor has values for."""
    matches = [rows for key, rows in indices.items() if not key or f".{path}".endswith(f".{key}")]
    if len(matches) != 1:
        raise adapter.unbound(tensor, f"its {ADAPTER_CONFIG} does not say which rows it has")
    return matches[0]
