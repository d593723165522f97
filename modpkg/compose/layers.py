"""A model put together from the layers of several.

    composed[layer k] = module_i[layer j]

Passthrough, as mergekit calls it. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from modpkg.adapters.layers import layer_path
from modpkg.core.errors import ComposeError
from modpkg.core.filenames import CONFIG
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.interface import LAYERS
from modpkg.core.jsonfile import read_json
from modpkg.manifest.schema import Layers, Setting


def positions(names: Sequence[str]) -> dict[str, float]:
    """Return how far up in its stack of layers each tensor is, from 0 to 1.

    What is in no layer is at 0, and an only layer at 1, as mergekit has it.
    """
    places = {name: layer_path(name) for name in names}
    last: dict[str, int] = {}
    for place in places.values():
        if place is not None:
            last[place.stack] = max(last.get(place.stack, 0), place.layer)
    return {
        name: 0.0
        if place is None
        else place.layer / last[place.stack]
        if last[place.stack]
        else 1.0
        for name, place in places.items()
    }


class AssembledBase(Struct, frozen=True):
    """A base whose layers come from several modules."""

    base: InstalledModule
    config: dict[str, Any]
    scales: dict[str, tuple[Setting, str, float]]
    """By tensor of a run with a scale: it, the tensor's name in the module, and how far up in the
    run it is, from 0 to 1."""


def assemble(
    name: str, runs: Sequence[Layers], base: InstalledModule, config: Mapping[str, Any],
    modules: Mapping[str, InstalledModule],
) -> AssembledBase:  # fmt: skip
    """Return the base with the layers of ``runs`` in place of its own, numbered anew.

    Raises:
        ComposeError: a run names layers or tensors that its module does not have; the layers are
            in several stacks; or the config does not say how many there are.
    """
    stack = _stack(name, base)
    tensors = {t: ref for t, ref in base.tensors.items() if layer_path(t) is None}
    scales: dict[str, tuple[Setting, str, float]] = {}
    origin: list[tuple[InstalledModule, int]] = []
    for run in runs:
        module = modules[run.module]
        if _stack(name, module) != stack:
            raise ComposeError(
                "M601",
                model=name,
                reason=f"the layers of {module.name} are called {_stack(name, module)!r}, and "
                f"those of {base.name} {stack!r}",
            )
        for wanted in run.tensors:
            _take(name, wanted, module, tensors)
        for layer in range(*run.range):
            found = 0
            for tensor, ref in module.tensors.items():
                place = layer_path(tensor)
                if place is None or place.layer != layer:
                    continue
                found += 1
                renamed = f"{stack}.{len(origin)}.{place.rest}"
                tensors[renamed] = ref
                if run.scale is not None:
                    first, stop = run.range
                    height = (layer - first) / (stop - first - 1) if stop - first > 1 else 1.0
                    scales[renamed] = run.scale, tensor, height
            if not found:
                raise ComposeError(
                    "M601",
                    model=name,
                    reason=f"{module.name} has no layer {layer}, which [compose] takes",
                )
            origin.append((module, layer))
    return AssembledBase(
        structs.replace(base, tensors=dict(sorted(tensors.items()))),
        _renumbered(name, config, origin),
        scales,
    )


def _stack(name: str, module: InstalledModule) -> str:
    stacks = sorted({place.stack for t in module.tensors if (place := layer_path(t)) is not None})
    if len(stacks) != 1:
        shown = ", ".join(repr(stack) for stack in stacks) or "none"
        raise ComposeError(
            "M601",
            model=name,
            reason=f"{module.name} has not one stack of layers ({shown}), so that layers of it "
            "cannot be counted",
        )
    return stacks[0]


def _take(name: str, wanted: str, module: InstalledModule, tensors: dict[str, TensorRef]) -> None:
    """Put the tensors that ``wanted`` names in place of the base's."""
    names = [
        tensor
        for tensor in module.tensors
        if layer_path(tensor) is None
        and (tensor.startswith(wanted) if wanted.endswith(".") else tensor == wanted)
    ]
    if not names:
        raise ComposeError(
            "M601",
            model=name,
            reason=f"{module.name} has no tensor {wanted!r} outside of its layers",
        )
    for tensor in names:
        tensors[tensor] = module.tensors[tensor]


def _renumbered(
    name: str, config: Mapping[str, Any], origin: Sequence[tuple[InstalledModule, int]]
) -> dict[str, Any]:
    """Return the config with the new count of layers, and its lists by layer likewise."""
    keys = [key for key in LAYERS if isinstance(config.get(key), int)]
    if not keys:
        raise ComposeError(
            "M601",
            model=name,
            reason=f"its base's {CONFIG} does not say how many layers there are",
        )
    before = int(config[keys[0]])
    edited: dict[str, Any] = {**config, **dict.fromkeys(keys, len(origin))}
    own = {
        module.name: read_json(module.files[CONFIG])
        for module, _ in origin
        if CONFIG in module.files
    }
    for key, value in config.items():
        if isinstance(value, list) and len(value) == before and before > 1:
            found = [(own.get(module.name, {}).get(key), layer) for module, layer in origin]
            lists = [(items, layer) for items, layer in found if isinstance(items, list)]
            if len(lists) == len(found) and all(layer < len(items) for items, layer in lists):
                edited[key] = [items[layer] for items, layer in lists]
    return edited
