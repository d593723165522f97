"""A ``config.json`` whose tensors are not tied, and which tensors are one before that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modpkg.core.records import UntiedRecord

TIES = "tie_word_embeddings"
"""transformers' key for it, and that of a recipe."""


def untied_config(config: Mapping[str, Any], places: Iterable[Sequence[str]]) -> dict[str, Any]:
    """Return a config in which ``tie_word_embeddings`` is false in some of its objects.

    >>> untied_config({"text_config": {"vocab_size": 9}}, [["text_config"]])
    {'text_config': {'vocab_size': 9, 'tie_word_embeddings': False}}

    Raises:
        KeyError: A place is not an object of the config.
    """
    result = dict(config)
    for place in places:
        table = result
        for key in place:
            inner = table[key]
            if not isinstance(inner, dict):
                raise KeyError(key)
            table[key] = dict(inner)
            table = table[key]
        table[TIES] = False
    return result


def groups_of(untied: UntiedRecord) -> list[frozenset[str]]:
    """Return the names of the tensors that are one as long as they are tied."""
    groups: dict[str, set[str]] = {}
    for name, source in untied.tensors.items():
        groups.setdefault(source, {source}).add(name)
    return [frozenset(group) for group in groups.values()]
