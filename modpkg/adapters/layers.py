"""Layers: which tensors belong to which, and bases whose layers an adapter repeats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from modpkg.adapters.changes import Adapter
from modpkg.core.bounds import REPLICATED_LAYERS, REPLICATED_TENSORS
from modpkg.core.filenames import ADAPTER_CONFIG
from modpkg.core.tensors import TypedTensor

REPLICATION = "layer_replication"


class LayerPath(Struct, frozen=True):
    """A tensor's name, split at the number of its layer."""

    stack: str
    """The part before the number: ``model.layers``."""
    layer: int
    rest: str


def layer_path(name: str) -> LayerPath | None:
    """Return a tensor's name split at its first number, or None if it is in no layer.

    >>> layer_path("model.layers.3.mlp.experts.7.w1")
    LayerPath(stack='model.layers', layer=3, rest='mlp.experts.7.w1')
    """
    parts = name.split(".")
    for position, part in enumerate(parts[:-1]):
        if part.isdecimal() and part.isascii() and len(part) <= 6:
            stack, rest = parts[:position], parts[position + 1 :]
            return LayerPath(".".join(stack), int(part), ".".join(rest))
    return None


def replicated_ranges(adapter: Adapter) -> list[tuple[int, int]]:
    """Return the ranges [first, stop) of the base's layers that an adapter was trained on.

    Empty if it was trained on the base's own layers. PEFT's `REPLICATION`: Kim et al. 2023,
    https://arxiv.org/abs/2312.15166.

    Raises:
        ComposeError: The configuration has something else than ranges of layers.
    """
    ranges: Any = adapter.config.get(REPLICATION)
    if not ranges:
        return []
    valid = isinstance(ranges, list) and all(_is_range(each) for each in ranges)
    if not valid:
        raise adapter.refuse(
            f"its {ADAPTER_CONFIG} sets {REPLICATION} = {str(ranges)[:200]}, which are not ranges "
            "of layers"
        )
    if (count := sum(stop - first for first, stop in ranges)) > REPLICATED_LAYERS:
        raise adapter.refuse(
            f"its {ADAPTER_CONFIG} repeats {count} layers, more than {REPLICATED_LAYERS}"
        )
    return [(first, stop) for first, stop in ranges]


def _is_range(value: Any) -> bool:
    pair = isinstance(value, list) and len(value) == 2 and all(type(end) is int for end in value)
    return pair and 0 <= value[0] < value[1]


def replicate(
    adapter: Adapter, ranges: Sequence[tuple[int, int]]
) -> tuple[dict[str, TypedTensor], dict[str, str]]:
    """Return the base's tensors with the layers of ``ranges``, renumbered, and their base names.

    Raises:
        ComposeError: The base lacks one of the layers, or has several stacks of layers.
    """
    layers: dict[int, list[tuple[LayerPath, str]]] = {}
    tensors: dict[str, TypedTensor] = {}
    for name, entry in adapter.base.items():
        path = layer_path(name)
        if path is None:
            tensors[name] = entry
        else:
            layers.setdefault(path.layer, []).append((path, name))
    if len({path.stack for layer in layers.values() for path, _ in layer}) != 1:
        raise adapter.refuse(
            f"it repeats layers, and {adapter.base_name} does not have exactly one stack of them"
        )
    base_names = {name: name for name in tensors}
    number = 0
    for first, stop in ranges:
        for layer in range(first, stop):
            if layer not in layers:
                raise adapter.refuse(
                    f"it repeats layer {layer}, which {adapter.base_name} does not have"
                )
            for path, name in layers[layer]:
                renumbered = f"{path.stack}.{number}.{path.rest}"
                tensors[renumbered], base_names[renumbered] = adapter.base[name], name
            number += 1
            if len(tensors) > REPLICATED_TENSORS:
                raise adapter.refuse(f"it repeats layers of more than {REPLICATED_TENSORS} tensors")
    return tensors, base_names
