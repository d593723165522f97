"""Tensors that one file of a model has and another leaves out, although the models are the same.

A tensor that is tied to another may be stored once or twice, and buffers that a model computes
itself (positions, masks) are stored by old versions of transformers and not by new ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from modpkg.core.tensors import HashedTensor, TensorIdentity, TypedTensor, identity_of
from modpkg.core.tied_by_default import EITHER, FORCED, TIED, UNTIED

_BUFFER = re.compile(r"(?:^|\.)(?:(?:original_)?inv_freq|position_ids|token_type_ids|masked_bias)$")
_OUTPUT = re.compile(r"(?:^|\.)(?:lm_head|embed_out)\.weight$")
_NESTED = ("text_config", "decoder", "thinker_config", "vlm_config")
"""Configurations inside of another, of the part that has the output layer."""
_MASK = re.compile(r"\.attn\.bias$")

Hashed = TypeVar("Hashed", bound=HashedTensor)


def is_computed(name: str, tensor: TypedTensor) -> bool:
    """Return whether a tensor is a buffer that a model computes itself.

    >>> from modpkg.core.records import TensorType
    >>> is_computed("model.layers.0.self_attn.rotary_emb.inv_freq", TensorType("F32", [4]))
    True
    """
    mask = _MASK.search(name) is not None and len(tensor.shape) == 4
    return mask or _BUFFER.search(name) is not None


def ties(config: Mapping[str, Any]) -> bool | None:
    """Return whether a ``config.json`` ties output layer and embedding; None if that is not known.

    What it does not say is what transformers assumes for its ``model_type``.

    >>> ties({"model_type": "llama"}), ties({"model_type": "gpt2"}), ties({})
    (False, True, None)
    """
    said, kind = _ties(config), config.get("model_type")
    nested = [config[key] for key in _NESTED if isinstance(config.get(key), dict)]
    if nested and (said is None or (kind in EITHER and not said)):
        inner = _ties(nested[0])
        return said if inner is None else inner
    return said


def _ties(config: Mapping[str, Any]) -> bool | None:
    own, kind = config.get("tie_word_embeddings"), config.get("model_type")
    if isinstance(kind, str) and (own is None or kind in FORCED):
        return True if kind in TIED else False if kind in UNTIED else None
    return None if own is None else bool(own)


def is_output(name: str) -> bool:
    """Return whether a tensor's name is that of an output layer, as tied ones are named."""
    return _OUTPUT.search(name) is not None


class Copies:
    """The matrices of a model, by their values: tied ones are copies of each other."""

    def __init__(self, tensors: Mapping[str, HashedTensor]) -> None:
        self._tensors = tensors
        self._names: dict[TensorIdentity, list[str]] = {}
        for name, tensor in sorted(tensors.items()):
            if len(tensor.shape) == 2:
                self._names.setdefault(identity_of(tensor), []).append(name)

    def of(self, name: str) -> str | None:
        """Return another matrix with a matrix's values, or None."""
        same = self._names.get(identity_of(self._tensors[name]), ())
        return next((other for other in same if other != name), None)


def tied_output(
    tensors: Mapping[str, HashedTensor], config: Mapping[str, Any]
) -> tuple[str, str] | None:
    """Return the copy that a tied output layer has of its embedding, and the embedding; or None.

    transformers ties the two when it loads such a model: they are one parameter. It ties no two
    whose values differ, so that two stay two where it is not known.
    """
    if not ties(config):
        return None
    copies = Copies(tensors)
    for name, tensor in tensors.items():
        if len(tensor.shape) == 2 and is_output(name):
            twin = copies.of(name)
            if twin is not None:
                return name, twin
    return None


def in_terms_of(
    tensors: Mapping[str, Hashed],
    other: Mapping[str, HashedTensor],
    config: Mapping[str, Any],
    other_config: Mapping[str, Any],
) -> dict[str, Hashed]:
    """Return a model's tensors, with those that make no difference to another model as it has them.

    A copy of a tied tensor that only this model has is left out; one that only the other has is
    added. A buffer that only this model has is left out.

    Args:
        tensors: The model's tensors.
        other: The other model's.
        config: The model's ``config.json``.
        other_config: The other's.
    """
    result = dict(tensors)
    copies, other_copies = Copies(tensors), Copies(other)
    for name, tensor in tensors.items():
        if name in other:
            continue
        twin = copies.of(name) if ties(other_config) is not False else None
        if is_computed(name, tensor) or (twin is not None and twin in other):
            del result[name]
    for name in other:
        if name not in tensors and ties(config) is not False:
            twin = other_copies.of(name)
            if twin is not None and twin in tensors:
                result[name] = tensors[twin]
    return result


def as_copied_from(
    tensors: Mapping[str, Hashed],
    base: Mapping[str, Hashed],
    config: Mapping[str, Any],
    base_config: Mapping[str, Any],
) -> dict[str, Hashed]:
    """Return a copy's tensors as its base has them: what makes no difference is not changed.

    Besides `in_terms_of`, buffers that only the base has are the base's.

    Args:
        tensors: The copy's tensors.
        base: The base's tensors.
        config: The copy's ``config.json``.
        base_config: The base's.
    """
    result = in_terms_of(tensors, base, config, base_config)
    differs = in_terms_of(base, result, base_config, config)
    return result | {name: tensor for name, tensor in base.items() if name not in differs}
