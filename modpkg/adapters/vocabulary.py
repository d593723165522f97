"""Adapters of a base whose vocabulary was resized: the rows of its embedding and output layer.

PEFT does not record that ``resize_token_embeddings`` was called before training. It shows in the
adapter's file: an embedding saved whole has another number of rows than the base's, or trained rows
have numbers that the base lacks. Then every tensor with a row per token gets that number of rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from modpkg.adapters.changes import Adapter
from modpkg.adapters.layers import layer_path
from modpkg.adapters.names import AdapterTensors, NameMapping
from modpkg.adapters.saved_modules import CLASSIFIERS, rows_of, token_indices
from modpkg.core.records import TensorType
from modpkg.core.tensors import TypedTensor

_INPUT = re.compile(
    r"(?:^|\.)(?:embed_tokens|embed_in|wte|word_embeddings?|tok_embeddings|shared|embeddings"
    r"|embed_out)\.weight$"
)
_OUTPUT = re.compile(
    r"(?:^|\.)(?:(?:lm_head|embed_out|cls\.predictions\.decoder|generator_lm_head|lm_loss"
    r"|lm_head\.decoder|output)\.(?:weight|bias)|(?:cls\.predictions|lm_head)\.bias)$"
)
_LOGITS = re.compile(r"(?:^|\.)final_logits_bias$")
"""A bias that has the vocabulary as second extent."""


def has_token_rows(tensor: str) -> bool:
    """Return whether a tensor of this name has a row for each token.

    >>> has_token_rows("model.embed_tokens.weight"), has_token_rows("model.norm.weight")
    (True, False)
    """
    named = _INPUT.search(tensor) or _OUTPUT.search(tensor)
    return named is not None and layer_path(tensor) is None


def resized_rows(adapter: Adapter, tensors: AdapterTensors, mapping: NameMapping) -> dict[str, int]:
    """Return the base tensors that the adapter gives another number of rows, with that number.

    Raises:
        ComposeError: Rows that the base lacks are not all in the adapter's file.
    """
    found: dict[str, tuple[int, str]] = {}
    for name, tensor in sorted(tensors.plain.items()):
        target = mapping.find(name)
        if target is None or not (_INPUT.search(target) or _OUTPUT.search(target)):
            continue
        new, old = adapter.shape(tensor), adapter.target_shape(target)
        if len(new) == len(old) and new[1:] == old[1:] and new != old and new[0]:
            found[target] = new[0], tensor
    indices = token_indices(adapter)
    for path, tensor in sorted(tensors.tokens.items()):
        target = mapping.find(f"{path}.weight")
        if target is None or target in found or len(adapter.target_shape(target)) != 2:
            continue
        rows = rows_of(adapter, indices, path, tensor)
        old_rows = adapter.target_shape(target)[0]
        new_rows = max(rows, default=-1) + 1
        if new_rows <= old_rows:
            continue
        if absent := sorted({*range(old_rows, new_rows)} - {*rows}):
            raise adapter.refuse(
                f"{tensor!r} trains row {new_rows - 1} of {target!r}, which has {old_rows} in "
                f"{adapter.base_name}, and row {absent[0]} is not in the file; save it with "
                "save_embedding_layers=True"
            )
        found[target] = new_rows, tensor
    if not found:
        return {}
    rows_by_target = {target: count for target, (count, _) in found.items()}
    (count, tensor), *others = found.values()
    for other, name in others:
        if other != count:
            raise adapter.refuse(
                f"{tensor!r} and {name!r} are for vocabularies of {count} and {other} tokens"
            )
    return rows_by_target | _followers(adapter, rows_by_target, count, tensor)


def _followers(
    adapter: Adapter, found: Mapping[str, int], count: int, tensor: str
) -> dict[str, int]:
    """Return the other tensors of the base with a row per token, which are cut like the embedding.

    Raises:
        ComposeError: They would grow, by rows that the adapter's file does not have.
    """
    old = adapter.target_shape(next(iter(found)))[0]
    # A classifier's model has no output layer: a recipe that keeps the base's is refused elsewhere.
    classifies = str(adapter.config.get("task_type")) in CLASSIFIERS
    followers: dict[str, int] = {}
    for name in sorted(adapter.base.keys() - found.keys()):
        shape = adapter.target_shape(name)
        output = _OUTPUT.search(name) is not None
        if classifies and output:
            continue
        if (output or _INPUT.search(name)) and shape and shape[0] == old:
            followers[name] = count
        elif not (_LOGITS.search(name) and shape[-1:] == (old,)):
            continue
        if count > old or name not in followers:
            raise adapter.refuse(
                f"{tensor!r} is for a vocabulary of {count} tokens, and {adapter.base_name} has "
                f"{old}; {name!r} has a value per token too, and the file has none for the others, "
                "so PEFT would draw them at random. Save both layers: modules_to_save names them, "
                "or save_embedding_layers=True does"
            )
    return followers


def resized_base(
    base: Mapping[str, TypedTensor], rows: Mapping[str, int]
) -> dict[str, TypedTensor]:
    """Return a base's tensors, those in ``rows`` with that first extent."""
    resized: dict[str, TypedTensor] = dict(base)
    for name, count in rows.items():
        resized[name] = TensorType(base[name].dtype, [count, *base[name].shape[1:]])
    return resized
