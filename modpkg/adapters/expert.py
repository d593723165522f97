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

from modpkg.adapters.changes import ModuleOnBase
from modpkg.core.errors import ComposeError, InvalidValue, RecordError
from modpkg.core.filenames import ROUTER
from modpkg.core.jsonfile import read_json
from modpkg.core.names import module_name
from modpkg.core.records import CORRECT
from modpkg.core.tensors import DTypeShape, TypedTensor

PARTS = ("gate_proj", "up_proj", "down_proj")
_BLOCK = re.compile(r"^((?:\w+\.)*layers\.(\d{1,6})\.)mlp\.(gate_proj|up_proj|down_proj)\.weight$")
_ROUTER = re.compile(r"^((?:\w+\.)*layers\.(\d{1,6})\.)(?:block_sparse_moe|mlp)\.gate\.weight$")


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

    @property
    def router(self) -> str:
        """The name of the layer's router in a mixture."""
        return f"{self.prefix}block_sparse_moe.gate.weight"


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
    expert = ModuleOnBase(module=module, names=names, base=base, base_name=base_name)
    layers = layers_of(base)
    by_prefix = {layer.prefix: layer for layer in layers}
    if not layers:
        raise expert.unbound(
            min(names, default="mlp.gate_proj.weight"),
            "none of its layers has mlp.gate_proj, mlp.up_proj and mlp.down_proj",
        )
    vectors: dict[int, str] = {}
    others = []
    for name in sorted(names):
        if (router := _ROUTER.match(name)) is not None and name not in base:
            layer = by_prefix.get(router[1])
            if layer is None:
                raise expert.unbound(name, "it has no such layer")
            if layer.number in vectors:
                raise expert.unbound(name, f"{vectors[layer.number]!r} is for the same layer")
            expert.expect(name, layer.block("gate_proj"), [1, layer.width])
            vectors[layer.number] = name
        elif name not in base:
            raise expert.unbound(name, "it has no tensor of that name")
        elif _BLOCK.match(name):
            expert.expect(name, name, base[name].shape)
        else:
            others.append(name)
    for layer in layers:
        for part in PARTS:
            if layer.block(part) not in names:
                raise _missing(expert, layer.block(part))
        if vectors and layer.number not in vectors:
            raise _missing(expert, layer.router)
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
    router = ModuleOnBase(module=module, names=names, base=base, base_name=base_name)
    by_prefix = {layer.prefix: layer for layer in layers_of(base)}
    tensors: dict[int, str] = {}
    for name in sorted(names):
        match = _ROUTER.match(name)
        layer = by_prefix.get(match[1]) if match is not None else None
        if layer is None or layer.number in tensors:
            raise router.unbound(name, "it is not the only router of one of its layers")
        router.expect(name, layer.block("gate_proj"), [len(experts), layer.width])
        tensors[layer.number] = name
    for layer in by_prefix.values():
        if layer.number not in tensors:
            raise _missing(router, layer.router)
    return tensors


def _missing(module: ModuleOnBase, name: str) -> ComposeError:
    return ComposeError("M608", module=module.module, missing=name, base=module.base_name)


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
        kind = f"{ROUTER} file"
        raise RecordError("M209", what=path, kind=kind, reason=reason, remedy=CORRECT)
    return experts
