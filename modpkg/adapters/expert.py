"""Which tensors of a dense base an expert takes the place of, and whose rows a router holds.

A dense layer has one feed-forward block, three matrices; an expert is such a block for every
layer, by the names that the base has for them on disk. Beside them it may bring one vector for each
layer, its row of the router.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from modpkg.adapters.changes import TypePair
from modpkg.core.errors import ComposeError, InvalidValue, RecordError, ReleaseError
from modpkg.core.filenames import ROUTER
from modpkg.core.jsonfile import read_json
from modpkg.core.names import module_name
from modpkg.core.tensors import TypedTensor

PARTS = ("gate_proj", "up_proj", "down_proj")
_BLOCK = re.compile(r"^((?:\w+\.)*layers\.(\d{1,6})\.)mlp\.(gate_proj|up_proj|down_proj)\.weight$")
_GATE = re.compile(r"^((?:\w+\.)*layers\.(\d{1,6})\.)(?:block_sparse_moe|mlp)\.gate\.weight$")


class Layer(Struct, frozen=True):
    """One layer of a dense base that has a feed-forward block."""

    number: int
    prefix: str
    """What its tensors' names begin with: ``model.layers.3.``."""
    width: int
    """Of what the block reads and writes."""

    def block(self, part: str) -> str:
        """Return the name of one of the block's matrices."""
        return f"{self.prefix}mlp.{part}.weight"


class ExpertBinding(Struct, frozen=True):
    """What the tensors of an expert are."""

    layers: tuple[Layer, ...]
    vectors: dict[int, str]
    """By layer, the expert's row of the router; none, or one for every layer."""
    others: tuple[str, ...]
    """Tensors that the base has by that name too, and that are in no feed-forward block."""


def layers_of(base: Mapping[str, TypedTensor]) -> tuple[Layer, ...]:
    """Return the layers of a base that have a feed-forward block, in order."""
    found = {}
    for name, entry in base.items():
        match = _BLOCK.match(name)
        if match is not None and match[3] == "gate_proj" and len(entry.shape) == 2:
            found[int(match[2])] = Layer(int(match[2]), match[1], entry.shape[1])
    return tuple(found[number] for number in sorted(found))


def bind_expert(
    module: str,
    names: Mapping[str, TypePair],
    base: Mapping[str, TypedTensor],
    *,
    base_name: str = "the base",
) -> ExpertBinding:
    """Return what an expert's tensors are: every block of the base once, and nothing unknown.

    Raises:
        ComposeError: it lacks a block, or a vector where it has others.
        ReleaseError: the base has no such layer, or no such tensor.
        ComposeError: it was made for a base of another shape.
    """
    layers = layers_of(base)
    numbers = {layer.prefix: layer for layer in layers}
    if not layers:
        raise ReleaseError("M208",
            tensor=min(names, default="mlp.gate_proj.weight"), module=module, base=base_name,
            reason="no layer of it has mlp.gate_proj, mlp.up_proj and mlp.down_proj",
        )  # fmt: skip
    vectors: dict[int, str] = {}
    others = []
    for name, (_, shape) in sorted(names.items()):
        if (gate := _GATE.match(name)) is not None and name not in base:
            layer = numbers.get(gate[1])
            if layer is None or layer.number in vectors:
                reason = "there is no such layer" if layer is None else "a layer has one already"
                raise ReleaseError(
                    "M208", tensor=name, module=module, base=base_name, reason=reason
                )
            _expect(module, name, shape, layer.block("gate_proj"), [1, layer.width], base_name)
            vectors[layer.number] = name
        elif name not in base:
            reason = "it has no tensor of that name"
            raise ReleaseError("M208", tensor=name, module=module, base=base_name, reason=reason)
        elif _BLOCK.match(name):
            _expect(module, name, shape, name, base[name].shape, base_name)
        else:
            others.append(name)
    for layer in layers:
        for part in PARTS:
            if layer.block(part) not in names:
                raise ComposeError("M608", module=module, missing=layer.block(part), base=base_name)
        if vectors and layer.number not in vectors:
            missing = f"{layer.prefix}block_sparse_moe.gate.weight"
            raise ComposeError("M608", module=module, missing=missing, base=base_name)
    return ExpertBinding(layers, vectors, tuple(others))


def bind_router(
    module: str,
    names: Mapping[str, TypePair],
    experts: Sequence[str],
    base: Mapping[str, TypedTensor],
    *,
    base_name: str = "the base",
) -> dict[int, str]:
    """Return, by layer, the router's tensor: a row for each of its experts.

    Raises:
        ComposeError: it has nothing for a layer. ReleaseError: it has something else.
        ComposeError: it was made for other experts, or for a base of another width.
    """
    numbers = {layer.prefix: layer for layer in layers_of(base)}
    found: dict[int, str] = {}
    for name, (_, shape) in sorted(names.items()):
        gate = _GATE.match(name)
        layer = numbers.get(gate[1]) if gate is not None else None
        if layer is None or layer.number in found:
            reason = "it is not the one router of one of its layers"
            raise ReleaseError("M208", tensor=name, module=module, base=base_name, reason=reason)
        wanted = [len(experts), layer.width]
        _expect(module, name, shape, layer.block("gate_proj"), wanted, base_name)
        found[layer.number] = name
    for layer in numbers.values():
        if layer.number not in found:
            missing = f"{layer.prefix}block_sparse_moe.gate.weight"
            raise ComposeError("M608", module=module, missing=missing, base=base_name)
    return found


def experts_of(path: Path) -> tuple[str, ...]:
    """Return the names in a ``router.json``.

    Raises:
        RecordError: it is no such file.
    """
    told = read_json(path)
    try:
        experts = tuple(map(module_name, msgspec.convert(told.get("experts"), type=list[str])))
    except (InvalidValue, msgspec.ValidationError):
        experts = ()
    if told.keys() != {"experts"} or not experts or len(set(experts)) != len(experts):
        reason = 'it has to be {"experts": [names]}, each name once'
        raise RecordError("M209", what=path, kind=f"{ROUTER} file", reason=reason)
    return experts


def _expect(
    module: str, tensor: str, actual: Sequence[int], target: str, wanted: Sequence[int], base: str
) -> None:
    if list(actual) != list(wanted):
        raise ComposeError("M604",
            module=module, tensor=tensor, actual=list(actual), target=target, base=base,
            expected=list(wanted),
        )  # fmt: skip
