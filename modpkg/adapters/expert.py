"""Which feed-forward blocks of a dense base an expert stands beside, and what a router holds.

A layer of a dense base has one feed-forward block, of three matrices. An expert is such a block for
every layer, with the names that the base has on disk; it may also have one vector per layer, its
row of the router.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from modpkg.core.errors import ComposeError, InvalidValue, RecordError, ReleaseError
from modpkg.core.filenames import ROUTER
from modpkg.core.jsonfile import read_json
from modpkg.core.names import module_name
from modpkg.core.tensors import DTypeShape, TypedTensor

PARTS = ("gate_proj", "up_proj", "down_proj")
_BLOCK = re.compile(r"^((?:\w+\.)*layers\.(\d{1,6})\.)mlp\.(gate_proj|up_proj|down_proj)\.weight$")
_GATE = re.compile(r"^((?:\w+\.)*layers\.(\d{1,6})\.)(?:block_sparse_moe|mlp)\.gate\.weight$")


class Layer(Struct, frozen=True):
    """A layer of a dense base that has a feed-forward block."""

    number: int
    prefix: str
    """Prefix of its tensors' names: ``model.layers.3.``."""
    width: int
    """Size of the block's inputs and outputs."""

    def block(self, part: str) -> str:
        """Return the name of one of the block's matrices."""
        return f"{self.prefix}mlp.{part}.weight"


class ExpertBinding(Struct, frozen=True):
    """What an expert's tensors are for."""

    layers: tuple[Layer, ...]
    vectors: dict[int, str]
    """The expert's row of the router, by layer; for every layer, or empty."""
    others: tuple[str, ...]
    """Tensors outside of any feed-forward block, whose names the base has too."""


def layers_of(base: Mapping[str, TypedTensor]) -> tuple[Layer, ...]:
    """Return the layers of a base that have a feed-forward block, in order."""
    layers = {}
    for name, entry in base.items():
        match = _BLOCK.match(name)
        if match is not None and match[3] == "gate_proj" and len(entry.shape) == 2:
            layers[int(match[2])] = Layer(int(match[2]), match[1], entry.shape[1])
    return tuple(layers[number] for number in sorted(layers))


def bind_expert(
    module: str,
    names: Mapping[str, DTypeShape],
    base: Mapping[str, TypedTensor],
    *,
    base_name: str = "the base",
) -> ExpertBinding:
    """Return what an expert's tensors are for; it has to have every block of the base once.

    Raises:
        ComposeError: A block or a vector is missing, or a tensor has the wrong shape.
        ReleaseError: The base has no such layer, or no such tensor.
    """
    layers = layers_of(base)
    numbers = {layer.prefix: layer for layer in layers}
    if not layers:
        raise ReleaseError("M208",
            tensor=min(names, default="mlp.gate_proj.weight"), module=module, base=base_name,
            reason="none of its layers has mlp.gate_proj, mlp.up_proj and mlp.down_proj",
        )  # fmt: skip
    vectors: dict[int, str] = {}
    others = []
    for name, (_, shape) in sorted(names.items()):
        if (gate := _GATE.match(name)) is not None and name not in base:
            layer = numbers.get(gate[1])
            if layer is None or layer.number in vectors:
                reason = "it has no such layer" if layer is None else "its layer has another one"
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
    names: Mapping[str, DTypeShape],
    experts: Sequence[str],
    base: Mapping[str, TypedTensor],
    *,
    base_name: str = "the base",
) -> dict[int, str]:
    """Return the router's tensors by layer; each has a row for every expert.

    Raises:
        ComposeError: A layer has no tensor, or a tensor has the wrong shape.
        ReleaseError: A tensor is not the only router of one of the base's layers.
    """
    numbers = {layer.prefix: layer for layer in layers_of(base)}
    routers: dict[int, str] = {}
    for name, (_, shape) in sorted(names.items()):
        gate = _GATE.match(name)
        layer = numbers.get(gate[1]) if gate is not None else None
        if layer is None or layer.number in routers:
            reason = "it is not the only router of one of its layers"
            raise ReleaseError("M208", tensor=name, module=module, base=base_name, reason=reason)
        expected = [len(experts), layer.width]
        _expect(module, name, shape, layer.block("gate_proj"), expected, base_name)
        routers[layer.number] = name
    for layer in numbers.values():
        if layer.number not in routers:
            missing = f"{layer.prefix}block_sparse_moe.gate.weight"
            raise ComposeError("M608", module=module, missing=missing, base=base_name)
    return routers


def experts_of(path: Path) -> tuple[str, ...]:
    """Return the names of the experts in a ``router.json``, in the order of the router's rows.

    Raises:
        RecordError: The file is not a router record.
    """
    record = read_json(path)
    try:
        experts = tuple(map(module_name, msgspec.convert(record.get("experts"), type=list[str])))
    except (InvalidValue, msgspec.ValidationError):
        experts = ()
    if record.keys() != {"experts"} or not experts or len(set(experts)) != len(experts):
        reason = 'expected {"experts": [names]}, each name once'
        raise RecordError("M209", what=path, kind=f"{ROUTER} file", reason=reason)
    return experts


def _expect(
    module: str, tensor: str, actual: Sequence[int], target: str, expected: Sequence[int], base: str
) -> None:
    if list(actual) != list(expected):
        raise ComposeError("M604",
            module=module, tensor=tensor, actual=list(actual), target=target, base=base,
            expected=list(expected),
        )  # fmt: skip
