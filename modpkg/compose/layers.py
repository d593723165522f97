"""A model assembled from layers of several models.

    composed[layer k] = module_i[layer j]

mergekit calls this passthrough. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

from msgspec import Struct, structs

from modpkg.adapters.layers import LayerPath, layer_path
from modpkg.core.errors import ComposeError
from modpkg.core.filenames import CONFIG
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.interface import LAYERS
from modpkg.core.jsonfile import read_json
from modpkg.core.same_values import is_output, tied_output, ties
from modpkg.core.text_config import edit_text, text_part
from modpkg.core.untied import TIES
from modpkg.manifest.schema import Layers, Setting


def positions(names: Sequence[str]) -> dict[str, float]:
    """Return each tensor's relative position in its stack of layers, from 0 to 1.

    Tensors outside of layers are at 0, and a single layer is at 1, as in mergekit.
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


class AssembledRun(Struct, frozen=True):
    """A run of layers, and what it is in the result."""

    layers: Layers
    stack: str
    first: int
    """The number of its first layer in the result."""
    tensors: dict[str, TensorRef]
    """Its tensors, by their names in the result."""


class AssembledBase(Struct, frozen=True):
    """A base whose layers come from several modules."""

    base: InstalledModule
    config: dict[str, Any]
    scales: dict[str, tuple[Setting, str, float]]
    """For each tensor of a run with a scale: the scale, the tensor's name in the module, and its
    relative position in the run, from 0 to 1."""
    runs: tuple[AssembledRun, ...]


def height_in(tensor: str, stack: str, first: int, count: int) -> float:
    """Return a tensor's relative position among layers, from 0 to 1; 0 outside of them."""
    place = path_in(stack, tensor)
    if place is None:
        return 0.0
    return (place.layer - first) / (count - 1) if count > 1 else 1.0


NO_STACK = "-"
"""A stack that no tensor is in."""


def path_in(stack: str, tensor: str) -> LayerPath | None:
    """Return where a tensor is in a stack of layers, or None if it is outside of that."""
    place = layer_path(tensor)
    return place if place is not None and place.stack == stack else None


def assemble(
    name: str, runs: Sequence[Layers], base: InstalledModule, config: Mapping[str, Any],
    modules: Mapping[str, InstalledModule],
) -> AssembledBase:  # fmt: skip
    """Return the base with the layers of ``runs`` in place of its own, renumbered.

    Raises:
        ComposeError: A run names layers or tensors that its module does not have, or that have
            other shapes than the base's; the layers are in several stacks, or the config has no
            number of layers.
    """
    # Runs that are only of tensors leave the layers where they are, and may have some in them.
    takes = [run for run in runs if run.range is not None]
    stack = _stack(name, base) if takes else NO_STACK
    tensors = {t: ref for t, ref in base.tensors.items() if path_in(stack, t) is None}
    scales: dict[str, tuple[Setting, str, float]] = {}
    sources: list[tuple[InstalledModule, int]] = []
    assembled: list[AssembledRun] = []
    by_layer = {run.module: _by_layer(stack, modules[run.module]) for run in runs}
    shapes: dict[str, list[list[int]]] = {}
    for layer_tensors in _by_layer(stack, base).values():
        for tensor, rest in layer_tensors:
            shapes.setdefault(rest, []).append(list(base.tensors[tensor].shape))
    for run in runs:
        module = modules[run.module]
        if run.range is not None and _stack(name, module) != stack:
            raise ComposeError(
                "M601",
                model=name,
                reason=f"the layers of {module.name} are named {_stack(name, module)!r}, but "
                f"those of {base.name} {stack!r}",
            )
        part: dict[str, TensorRef] = {}
        for wanted in run.tensors:
            _take(name, wanted, base, stack, module, part)
        for earlier in assembled:  # of two runs that take a tensor, the later one has it
            for tensor in part.keys() & earlier.tensors.keys():
                del earlier.tensors[tensor]
        extent = run.range or (0, 0)
        first, count = len(sources), extent[1] - extent[0]
        for layer in range(*extent):
            own = by_layer[run.module].get(layer, ())
            for tensor, rest in own:
                _check_shape(base, module, tensor, shapes.get(rest, ()))
                renamed = f"{stack}.{len(sources)}.{rest}"
                part[renamed] = module.tensors[tensor]
                if run.scale is not None:
                    scales[renamed] = run.scale, tensor, height_in(renamed, stack, first, count)
            if not own:
                raise ComposeError(
                    "M601",
                    model=name,
                    reason=f"{module.name} has no layer {layer}, which [compose] names",
                )
            sources.append((module, layer))
        tensors |= part
        assembled.append(AssembledRun(run, stack, first, part))
    taken = {tensor for run in assembled for tensor in run.tensors}
    edited = _renumbered(name, config, sources) if takes else dict(config)
    edited = _with_output(name, base, edited, tensors, taken)
    return AssembledBase(
        structs.replace(base, tensors=dict(sorted(tensors.items()))),
        edited,
        scales,
        tuple(assembled),
    )


def _by_layer(stack: str, module: InstalledModule) -> dict[int, list[tuple[str, str]]]:
    """Return the tensors of each layer, each with its name in the layer."""
    layers: dict[int, list[tuple[str, str]]] = {}
    for tensor in module.tensors:
        if (place := path_in(stack, tensor)) is not None:
            layers.setdefault(place.layer, []).append((tensor, place.rest))
    return layers


def _stack(name: str, module: InstalledModule) -> str:
    """Return the stack that a module's layers are taken from.

    Of a model with several, as of text and images, it is the text part's: by the names of the
    others, or because it has as many layers as that part's config says.
    """
    stacks: dict[str, set[int]] = {}
    for tensor in module.tensors:
        if (place := layer_path(tensor)) is not None:
            stacks.setdefault(place.stack, set()).add(place.layer)
    found = [each for each in sorted(stacks) if not _OTHER_TOWER.search(each)] or sorted(stacks)
    key, text = text_part(read_json(module.files[CONFIG]) if CONFIG in module.files else {})
    if len(found) > 1 and key is not None:
        counts = [text[each] for each in LAYERS if each in text]
        found = [stack for stack in found if [len(stacks[stack])] == counts[:1]]
    if len(found) != 1:
        shown = ", ".join(repr(stack) for stack in found or sorted(stacks)) or "none"
        raise ComposeError(
            "M601",
            model=name,
            reason=f"{module.name} must have exactly one stack of layers to take layers from; it "
            f"has {shown}",
        )
    return found[0]


_OTHER_TOWER = re.compile(r"vision|visual|image|audio|speech|video")


def _check_shape(
    base: InstalledModule, module: InstalledModule, tensor: str, shapes: Sequence[list[int]]
) -> None:
    """Check that a tensor has a shape that the base's config describes: one of its own."""
    own = list(module.tensors[tensor].shape)
    if shapes and own not in shapes:
        raise ComposeError("M604",
            module=module.name, tensor=tensor, actual=own, target=tensor, base=base.name,
            expected=shapes[0],
        )  # fmt: skip


def matches(tensor: str, wanted: str) -> bool:
    """Return whether a tensor is one that is wanted: a name, or a prefix that ends with a dot."""
    return tensor.startswith(wanted) if wanted.endswith(".") else tensor == wanted


def _take(
    name: str,
    wanted: str,
    base: InstalledModule,
    stack: str,
    module: InstalledModule,
    tensors: dict[str, TensorRef],
) -> None:
    """Add those of a module's tensors that ``wanted``, a name or a dotted prefix, matches."""
    names = [
        tensor
        for tensor in module.tensors
        if path_in(stack, tensor) is None and matches(tensor, wanted)
    ]
    if not names:
        raise ComposeError(
            "M601",
            model=name,
            reason=f"{module.name} has no tensor {wanted!r} outside of its layers",
        )
    for tensor in names:
        if tensor in base.tensors:
            _check_shape(base, module, tensor, [list(base.tensors[tensor].shape)])
        tensors[tensor] = module.tensors[tensor]


def _with_output(
    name: str,
    base: InstalledModule,
    config: dict[str, Any],
    tensors: dict[str, TensorRef],
    taken: Set[str],
) -> dict[str, Any]:
    """Return the config, which no longer ties an output layer that is not the embedding's.

    If the base has a copy of its tied embedding, and only that one was ``taken`` from a run, the
    copy is removed.
    """
    if not ties(config):
        return config
    pair = tied_output(base.tensors, config)
    if pair is not None and pair[1] in taken and pair[0] not in taken:
        del tensors[pair[0]]
    outputs = [tensor for tensor in sorted(taken) if is_output(tensor)]
    if not outputs or tied_output(tensors, config) is not None:
        return config
    edited = {**config, TIES: False}
    if ties(edited) is not False:
        raise ComposeError(
            "M601",
            model=name,
            reason=f"the {CONFIG} of {base.name} ties its output layer to its embedding, so "
            f"{outputs[0]!r} cannot be taken from another model",
        )
    return edited


def _renumbered(
    name: str, config: Mapping[str, Any], sources: Sequence[tuple[InstalledModule, int]]
) -> dict[str, Any]:
    """Return the config with the new number of layers, its per-layer lists rearranged."""
    _, part = text_part(config)
    keys = [key for key in LAYERS if isinstance(part.get(key), int)]
    if not keys:
        raise ComposeError(
            "M601",
            model=name,
            reason=f"its base's {CONFIG} does not state the number of layers",
        )
    before = int(part[keys[0]])
    edited: dict[str, Any] = dict.fromkeys(keys, len(sources))
    own = {
        module.name: text_part(read_json(module.files[CONFIG]))[1]
        for module, _ in sources
        if CONFIG in module.files
    }
    for key, value in part.items():
        if isinstance(value, list) and len(value) == before and before > 1:
            values = [(own.get(module.name, {}).get(key), layer) for module, layer in sources]
            lists = [(items, layer) for items, layer in values if isinstance(items, list)]
            if len(lists) == len(values) and all(layer < len(items) for items, layer in lists):
                edited[key] = [items[layer] for items, layer in lists]
    return {**config, **edit_text(config, edited)}
