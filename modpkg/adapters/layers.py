"""Layers: which tensors belong to which, and a base whose layers an adapter wants repeated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from modpkg.adapters.changes import Adapter
from modpkg.core.interface import ports_of
from modpkg.core.tensors import TypedTensor

REPLICATION = "layer_replication"


class LayerPath(Struct, frozen=True):
    """Where in its model's layers a tensor is."""

    stack: str
    """What stands before the number: ``model.layers``."""
    layer: int
    rest: str


def layer_path(name: str) -> LayerPath | None:
    """Return the layer that a tensor belongs to: the first number in its name, if there is one.

    >>> layer_path("model.layers.3.mlp.experts.7.w1")
    LayerPath(stack='model.layers', layer=3, rest='mlp.experts.7.w1')
    """
    parts = name.split(".")
    for position, part in enumerate(parts[:-1]):
        if part.isdecimal() and part.isascii() and len(part) <= 6:
            stack, rest = parts[:position], parts[position + 1 :]
            return LayerPath(".".join(stack), int(part), ".".join(rest))
    return None


def layers_left(adapter: Adapter, targets: Iterable[str]) -> tuple[int, int] | None:
    """Return how many layers an adapter changes, and how many the base has, if these are more.

    PEFT changes all modules of the names in ``target_modules``, so that an adapter that changes
    none in the upper layers was trained on a base that did not have them; unless its configuration
    says which layers it is for.
    """
    named = adapter.config.get("target_modules")
    chosen = any(adapter.config.get(key) for key in ("layers_to_transform", "exclude_modules"))
    whole = isinstance(named, list) and not any(re.search(r"\d|\*", str(name)) for name in named)
    nested = adapter.model_config.get("text_config")
    model = {**(nested if isinstance(nested, dict) else {}), **adapter.model_config}
    count = ports_of(model, None).get("layers")
    if chosen or not whole or not isinstance(count, int):
        return None
    touched: dict[tuple[str, str], set[int]] = {}
    for place in map(layer_path, targets):
        if place is not None:
            touched.setdefault((place.stack, place.rest), set()).add(place.layer)
    for (stack, rest), layers in sorted(touched.items()):
        above = len(layers)
        more = above < count and f"{stack}.{above}.{rest}" in adapter.base
        if more and layers == set(range(above)):
            return above, count
    return None


def repeated(adapter: Adapter) -> list[tuple[int, int]]:
    """Return the runs of layers that an adapter was trained on, each as its first and the one after
    its last; none where it was trained on the base's own.

    `REPLICATION` of PEFT: Kim et al. 2023, https://arxiv.org/abs/2312.15166.

    Raises:
        ComposeError: they are no such runs.
    """
    runs: Any = adapter.config.get(REPLICATION)
    if not runs:
        return []
    fine = isinstance(runs, list) and all(_is_run(run) for run in runs)
    if not fine or sum(stop - first for first, stop in runs) > _MOST:
        raise adapter.refuse(
            f"its adapter_config.json sets {REPLICATION} = {runs!r}, and not runs of layers"
        )
    return [(run[0], run[1]) for run in runs]


def _is_run(run: Any) -> bool:
    whole = isinstance(run, list) and len(run) == 2 and all(type(end) is int for end in run)
    return whole and 0 <= run[0] < run[1]


_MOST = 10_000
"""Layers that a model may have; more of them are a mistake, or an attack."""


def repeat(
    adapter: Adapter, runs: Sequence[tuple[int, int]]
) -> tuple[dict[str, TypedTensor], dict[str, str]]:
    """Return the base's tensors with its layers in ``runs``, numbered anew, and where each is from.

    Raises:
        ComposeError: the base has not these layers, or not one stack of them.
    """
    layers: dict[int, list[tuple[LayerPath, str]]] = {}
    found: dict[str, TypedTensor] = {}
    for name, entry in adapter.base.items():
        place = layer_path(name)
        if place is None:
            found[name] = entry
        else:
            layers.setdefault(place.layer, []).append((place, name))
    if len({place.stack for each in layers.values() for place, _ in each}) != 1:
        raise adapter.refuse(
            f"it repeats layers, and {adapter.base_name} has not one stack of them"
        )
    base_names = {name: name for name in found}
    number = 0
    for first, stop in runs:
        for layer in range(first, stop):
            if layer not in layers:
                raise adapter.refuse(
                    f"it repeats layer {layer}, which {adapter.base_name} does not have"
                )
            for place, name in layers[layer]:
                anew = f"{place.stack}.{number}.{place.rest}"
                found[anew], base_names[anew] = adapter.base[name], name
            number += 1
    return found, base_names
