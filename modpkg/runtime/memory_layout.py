"""Which tensors on disk transformers makes a model's parameters from, without reading any.

The model is built on torch's meta device, and its conversions are followed with types alone. What
they do to a tensor is described by the elements that it is made from, in order; one that changes
their order in another way than by transposing leaves nothing to describe.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from modpkg.core.records import MemoryPiece, MemoryTensor
from modpkg.core.tensors import TypedTensor
from modpkg.runtime.meta_model import meta_model


class MemoryLayout(Struct, frozen=True):
    """A model's parameters in memory."""

    tensors: dict[str, MemoryTensor]
    """By name in memory, those that have tensors on disk."""
    shapes: dict[str, tuple[int, ...]]
    """Of all parameters and saved buffers, by name in memory."""
    modules: frozenset[str]
    """The paths of all modules."""
    rename: Callable[[str], str]
    """Return the name in memory of a tensor with this name on disk, in any spelling that
    transformers reads; the name itself if it is one in memory, or is joined with others."""
    joined: Callable[[str], Mapping[str, MemoryTensor]]
    """Return the matrices of single experts that a name is one of, by name: where they lie in
    the tensors on disk that hold all experts. Empty if it is no such name."""

    def changed(self, disk: Mapping[str, TypedTensor]) -> dict[str, MemoryTensor]:
        """Return the parameters that differ from a tensor of the same name on disk."""
        return {
            name: parameter
            for name, parameter in self.tensors.items()
            if not (
                name in disk
                and parameter.pieces == [MemoryPiece(name)]
                and not parameter.transposed
                and list(disk[name].shape) == parameter.shape
            )
        }


class _Followed(Struct, frozen=True):
    """A tensor that conversions make: its shape, and the elements that it is made from."""

    shape: tuple[int, ...]
    pieces: tuple[tuple[str, int, int], ...] | None
    """(tensor, first, stop); None once they are rearranged."""
    transposed: bool = False

    @property
    def plain(self) -> bool:
        return self.pieces is not None and not self.transposed


def layout_of(
    name: str, config: Mapping[str, Any], disk: Mapping[str, TypedTensor]
) -> MemoryLayout | None:
    """Return how transformers reads a base, or None if it cannot tell.

    Args:
        name: The base's name, for errors.
        config: Its ``config.json``.
        disk: Its tensors.

    Raises:
        RunError: The architecture is unknown, or the config is invalid.
        MissingExtra: Transformers is not installed.
    """
    model = meta_model(name, config, len(disk))
    return None if model is None else layout_of_model(model, disk)


def layout_of_model(model: Any, disk: Mapping[str, TypedTensor]) -> MemoryLayout:
    """Return how transformers reads tensors into a model that may be without values."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    state = model.state_dict()
    prefix = model.base_model_prefix
    transforms = get_model_conversion_mapping(model) or []
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]

    def renamed(name: str) -> tuple[str, str | None]:
        new, pattern = rename_source_key(name, renamings, converters, prefix, state)
        if new not in state and name in state:  # as transformers does
            new, pattern = rename_source_key(name, [], [], prefix, state)
        return new, pattern

    def own_name(name: str) -> str:
        if name in state or name.rpartition(".")[0] in modules:
            return name
        new, pattern = renamed(name)
        return new if pattern is None else name

    modules = frozenset(path for path, _ in model.named_modules())
    by_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
    groups: dict[str, tuple[Any, dict[str, list[_Followed]]]] = {}
    for name in sorted(disk, key=dot_natural_key):
        own, pattern = renamed(name)
        if own not in state:
            continue
        shape = tuple(disk[name].shape)
        followed = _Followed(shape, ((name, 0, math.prod(shape)),))
        _, collected = groups.setdefault(own, (by_pattern.get(pattern), {}))
        collected.setdefault(pattern or "", []).append(followed)
    made: dict[str, _Followed] = {}
    for first, (converter, collected) in groups.items():
        if converter is None:
            made[first] = next(iter(collected.values()))[0]
        else:
            made |= _converted(first, converter, collected, model)
    tensors = {
        name: _described(followed, tuple(state[name].shape), disk)
        for name, followed in made.items()
        if name in state
    }
    known: dict[tuple[str, str], Mapping[str, MemoryTensor]] = {}

    def joined(name: str) -> Mapping[str, MemoryTensor]:
        own, pattern = renamed(name)
        if pattern is None or own not in state:
            return {}
        before, _, after = pattern.partition("*")
        match = re.search(rf"{re.escape(before)}\d+{re.escape(after)}$", name)
        if match is None:
            return {}
        place = name[: match.start()]
        if (place, own) not in known:
            known[place, own] = _matrices_of_experts(
                place, own, by_pattern[pattern], model, tensors.get(own)
            )
        return known[place, own]

    return MemoryLayout(
        tensors=tensors,
        shapes={name: tuple(value.shape) for name, value in state.items()},
        modules=modules,
        rename=own_name,
        joined=joined,
    )


def _matrices_of_experts(
    place: str, own: str, converter: Any, model: Any, stored: MemoryTensor | None
) -> Mapping[str, MemoryTensor]:
    """Return where the matrices that a converter joins lie in the one tensor that holds them.

    Args:
        place: What their names begin with.
        own: The name in memory of the parameter that they are joined to.
        converter: What joins them.
        model: The model, on the meta device.
        stored: How that parameter is stored.
    """
    shape = tuple(model.state_dict()[own].shape)
    sources = converter.source_patterns
    whole = stored is not None and len(stored.pieces) == 1 and not stored.transposed
    if stored is None or not whole or stored.pieces[0].start or stored.pieces[0].stop is not None:
        return {}
    if len(shape) != 3 or shape[1] % len(sources):
        return {}
    rows, columns = shape[1] // len(sources), shape[2]
    names = {
        source: [place + source.replace("*", str(expert)) for expert in range(shape[0])]
        for source in sources
    }
    followed = {
        source: [_Followed((rows, columns), ((name, 0, rows * columns),)) for name in each]
        for source, each in names.items()
    }
    made = _converted(own, converter, followed, model).get(own)
    if made is None or made.shape != shape or made.pieces is None or made.transposed:
        return {}
    found: dict[str, MemoryTensor] = {}
    start = 0
    for name, _, length in made.pieces:
        piece = MemoryPiece(stored.pieces[0].tensor, start, start + length)
        found[name] = MemoryTensor(shape=[rows, columns], pieces=[piece])
        start += length
    return found


def _described(
    followed: _Followed, shape: tuple[int, ...], disk: Mapping[str, TypedTensor]
) -> MemoryTensor:
    pieces = followed.pieces if followed.shape == shape else None
    return MemoryTensor(
        shape=list(shape),
        pieces=[
            MemoryPiece(name)
            if (start, stop) == (0, math.prod(disk[name].shape))
            else MemoryPiece(name, start, stop)
            for name, start, stop in pieces or ()
        ],
        transposed=followed.transposed and bool(pieces),
    )


def _converted(
    first: str, converter: Any, collected: dict[str, list[_Followed]], model: Any
) -> dict[str, _Followed]:
    """Return what a converter makes of its sources, by name in memory, as `convert` names it."""
    current: dict[str, Any] = dict(collected)
    targets = converter.target_patterns
    for operation in converter.operations:
        follow = _OPERATIONS.get(type(operation).__name__)
        try:
            if follow is None:
                raise _Unknown
            current = follow(operation, current, converter, first, model)
        except (_Unknown, ValueError, KeyError, IndexError, AttributeError):
            # The names are still known: whatever it is, it is rearranged.
            current = {target: _Followed((), None) for target in targets}
            break
    full = first.replace("*.", "0.")
    found = next((key for key in current if key in full), None)
    if found is not None:
        before, _, after = full.partition(found)
        current = {before + key + after: value for key, value in current.items()}
    return {name: value[0] if isinstance(value, list) else value for name, value in current.items()}


class _Unknown(Exception):
    """An operation does what cannot be described."""


def _one(current: Mapping[str, Any]) -> _Followed:
    """Return the only tensor that an operation gets."""
    if len(current) != 1:
        raise _Unknown
    value = next(iter(current.values()))
    found: _Followed = value[0] if isinstance(value, list) else value
    return found


def _plain_pieces(tensor: _Followed) -> tuple[tuple[str, int, int], ...]:
    if not tensor.plain or tensor.pieces is None:
        raise _Unknown
    return tensor.pieces


def _cut(tensor: _Followed, start: int, stop: int) -> tuple[tuple[str, int, int], ...]:
    """Return the pieces of elements [start, stop)."""
    result = []
    place = 0
    for name, first, last in _plain_pieces(tensor):
        low, high = max(start, place), min(stop, place + last - first)
        if low < high:
            result.append((name, first + low - place, first + high - place))
        place += last - first
    return tuple(result)


def _joined(pieces: Sequence[tuple[str, int, int]]) -> tuple[tuple[str, int, int], ...]:
    """Return pieces with adjacent ones of one tensor made one."""
    result: list[tuple[str, int, int]] = []
    for name, first, last in pieces:
        if result and result[-1][0] == name and result[-1][2] == first:
            result[-1] = (name, result[-1][1], last)
        else:
            result.append((name, first, last))
    return tuple(result)


def _stack(tensors: Sequence[_Followed], dim: int) -> _Followed:
    if dim != 0 or len({tensor.shape for tensor in tensors}) != 1:
        raise _Unknown
    pieces = [piece for tensor in tensors for piece in _plain_pieces(tensor)]
    return _Followed((len(tensors), *tensors[0].shape), _joined(pieces))


def _concatenated(tensors: Sequence[_Followed], dim: int) -> _Followed:
    shapes = [tensor.shape for tensor in tensors]
    if not 0 <= dim < min(map(len, shapes)):
        raise _Unknown
    outer = math.prod(shapes[0][:dim])
    extents = [math.prod(shape[dim:]) for shape in shapes]
    pieces: list[tuple[str, int, int]] = []
    for row in range(outer):
        for tensor, extent in zip(tensors, extents, strict=True):
            pieces += _cut(tensor, row * extent, (row + 1) * extent)
    shape = (*shapes[0][:dim], sum(each[dim] for each in shapes), *shapes[0][dim + 1 :])
    return _Followed(shape, _joined(pieces))


def _parted(tensor: _Followed, sizes: Sequence[int], dim: int) -> list[_Followed]:
    """Return a tensor divided along its first dimension."""
    if dim != 0 or sum(sizes) != tensor.shape[0]:
        raise _Unknown
    width = math.prod(tensor.shape[1:])
    result, place = [], 0
    for size in sizes:
        pieces = _cut(tensor, place * width, (place + size) * width)
        result.append(_Followed((size, *tensor.shape[1:]), pieces))
        place += size
    return result


_Current = Mapping[str, Any]


def _merge(operation: Any, current: _Current, converter: Any, *_: Any) -> dict[str, Any]:
    merged = {}
    for pattern, tensors in current.items():
        target = operation.get_target_pattern(len(current), pattern, converter.target_patterns)
        merged[target] = _stack(tensors, operation.dim)
    return merged


def _concatenate(operation: Any, current: _Current, converter: Any, *_: Any) -> dict[str, Any]:
    tensors: list[_Followed] = []
    for pattern in converter.source_patterns:
        value = current.get(pattern, [])
        tensors += value if isinstance(value, list) else [value]
    target = operation.get_target_pattern(converter.target_patterns)
    return {target: _concatenated(tensors, operation.dim)}


def _chunk(
    operation: Any, current: _Current, converter: Any, first: str, model: Any
) -> dict[str, Any]:
    tensor = _one(current)
    targets = operation.get_target_patterns(converter.target_patterns, config=model.config)
    each = math.ceil(tensor.shape[operation.dim] / len(targets))
    left, sizes = tensor.shape[operation.dim], []
    while left > 0:
        sizes.append(min(each, left))
        left -= each
    parts = _parted(tensor, sizes, operation.dim)
    return dict(zip(targets, parts, strict=False))


def _split(
    operation: Any, current: _Current, converter: Any, first: str, model: Any
) -> dict[str, Any]:
    targets = converter.target_patterns
    sizes = [
        model.get_parameter(first.replace(targets[0], target)).shape[operation.dim]
        for target in targets
    ]
    parts = _parted(_one(current), sizes, operation.dim)
    return dict(zip(targets, parts, strict=True))


def _transpose(
    operation: Any, current: _Current, converter: Any, first: str, model: Any
) -> dict[str, Any]:
    target = operation.get_target_pattern(
        current, converter.source_patterns, converter.target_patterns
    )
    tensor = _one(current)
    if operation.check_dims and tensor.shape == tuple(model.get_parameter(first).shape):
        return {target: tensor}
    pieces = _plain_pieces(tensor)
    rank = len(tensor.shape)
    if {operation.dim0 % rank, operation.dim1 % rank} != {rank - 2, rank - 1} or len(pieces) > 1:
        raise _Unknown
    shape = (*tensor.shape[:-2], tensor.shape[-1], tensor.shape[-2])
    return {target: _Followed(shape, pieces, transposed=True)}


def _flatten(operation: Any, current: _Current, converter: Any, *_: Any) -> dict[str, Any]:
    tensor = _one(current)
    target = converter.target_patterns[0]
    shape = (tensor.shape[0], math.prod(tensor.shape[1:]))
    return {target: _Followed(shape, _plain_pieces(tensor))}


def _unflatten(operation: Any, current: _Current, converter: Any, *_: Any) -> dict[str, Any]:
    tensor = _one(current)
    target = converter.target_patterns[0]
    shape = (tensor.shape[0], operation.in_channels, *operation.kernel_size)
    if math.prod(shape) != math.prod(tensor.shape):
        raise _Unknown
    return {target: _Followed(shape, _plain_pieces(tensor))}


def _text_and_vision(operation: Any, current: _Current, converter: Any, *_: Any) -> dict[str, Any]:
    """Experts of which the first half becomes one parameter and the rest another."""
    targets = converter.target_patterns
    stacks: dict[str, list[_Followed]] = {target: [] for target in targets}
    for pattern in converter.source_patterns:
        tensors = current[pattern]
        size = math.ceil(len(tensors) / len(targets))
        for place, target in enumerate(targets):
            group = tensors[place * size : (place + 1) * size]
            stacks[target].append(_stack(group, operation.stack_dim))
    return {target: _concatenated(group, operation.concat_dim) for target, group in stacks.items()}


_OPERATIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "MergeModulelist": _merge,
    "Concatenate": _concatenate,
    "Chunk": _chunk,
    "Split": _split,
    "Transpose": _transpose,
    "Conv3dToLinear": _flatten,
    "LinearToConv3d": _unflatten,
    "ErnieFuseAndSplitTextVisionExperts": _text_and_vision,
}
"""By the class of transformers' operation, what it does to the elements that it gets."""
