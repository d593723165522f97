"""Conflicts between changed copies of one base: tensor by tensor, value by value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

import torch
from msgspec import Struct

from modpkg.community.diff.svg import Cell, heat_map
from modpkg.community.diff.tensors import layer_of
from modpkg.compose.memory import BLOCK_ELEMENTS
from modpkg.compose.torch_arrays import mapped
from modpkg.compose.torch_distance import differing
from modpkg.compose.torch_threads import parallel_map
from modpkg.core.dtypes import FLOATS
from modpkg.core.installed import TensorRef
from modpkg.core.tensors import TensorIdentity, identity_of, type_of


class Overlap(Struct, frozen=True, kw_only=True):
    """A tensor that several parents changed differently."""

    name: str
    parents: tuple[int, ...]
    """Indices of the parents that changed it."""
    reason: str = ""
    """Why values cannot be compared: removed, or of another shape. Empty if they can."""
    elements: int = 0
    positions: int = 0
    """Values that at least two parents changed."""
    different: int = 0
    """Of those, the ones changed to different values: the conflicts."""
    opposite: int = 0
    """Of those, the ones changed in opposite directions."""

    @property
    def conflicts(self) -> bool:
        """Whether a choice is needed; changes at different places are combined without one."""
        return bool(self.reason or self.different)


class Overlaps(Struct, frozen=True):
    """What several parents changed in the tensors of a base."""

    base: Mapping[str, TensorRef]
    parents: Sequence[Mapping[str, TensorRef]]
    tensors: tuple[Overlap, ...]
    """Sorted by layer and name."""
    clean: dict[str, int | None]
    """Tensors that at most one parent changed, or all that did alike: the index of such a parent;
    None if no parent changed the tensor."""

    @property
    def conflicts(self) -> list[Overlap]:
        return [tensor for tensor in self.tensors if tensor.conflicts]


def find_overlaps(
    base: Mapping[str, TensorRef],
    parents: Sequence[Mapping[str, TensorRef]],
    progress: Callable[[int], None] | None = None,
) -> Overlaps:
    """Compare the changes of parents; tensors that at most one of them changed are not read.

    Raises:
        PackError: A file is missing or too short.
    """
    clean: dict[str, int | None] = {}
    shared: dict[str, tuple[int, ...]] = {}
    for name in sorted({*base, *(name for tensors in parents for name in tensors)}):
        own = _identity(base.get(name))
        kinds = [_identity(tensors.get(name)) for tensors in parents]
        changers = [number for number, kind in enumerate(kinds) if kind != own]
        if len({kinds[number] for number in changers}) < 2:
            clean[name] = changers[0] if changers else None
        else:
            shared[name] = tuple(changers)

    def measure(name: str) -> Overlap:
        refs = [parents[number].get(name) for number in shared[name]]
        return _measured(name, base.get(name), refs, shared[name])

    overlaps = []
    for overlap in parallel_map(measure, shared):
        overlaps.append(overlap)
        if progress is not None:
            progress(
                sum(
                    parents[n][overlap.name].length
                    for n in overlap.parents
                    if overlap.name in parents[n]
                )
            )
    ordered = sorted(overlaps, key=lambda tensor: (_order(tensor.name), tensor.name))
    return Overlaps(base, parents, tuple(ordered), clean)


def _identity(ref: TensorRef | None) -> TensorIdentity | None:
    return None if ref is None else identity_of(ref)


def _order(name: str) -> int:
    layer = layer_of(name)
    return -1 if layer is None else layer


def _measured(
    name: str,
    base: TensorRef | None,
    refs: Sequence[TensorRef | None],
    parents: tuple[int, ...],
) -> Overlap:
    if base is None:
        return Overlap(name=name, parents=parents, reason="added in each, with different content")
    there = [ref for ref in refs if ref is not None]
    if len(there) < len(refs):
        return Overlap(name=name, parents=parents, reason="removed in one, changed in another")
    if any(type_of(ref) != type_of(base) for ref in there):
        return Overlap(name=name, parents=parents, reason="of another shape or dtype in one")
    positions = different = opposite = 0
    for old, copies, moved in blocks(base, there):
        # A value differs only between parents that changed it, so pairs are enough.
        several = clash = against = None
        for one, two in combinations(range(len(copies)), 2):
            both = moved[one].logical_and(moved[two])
            unlike = both.logical_and(differing(copies[one], copies[two]))
            several = both if several is None else several | both
            clash = unlike if clash is None else clash | unlike
            if base.dtype in FLOATS:
                x, y = copies[one], copies[two]
                apart = (x > old).logical_and(y < old).logical_or_((x < old).logical_and_(y > old))
                apart.logical_and_(unlike)
                against = apart if against is None else against | apart
        positions += _count(several)
        different += _count(clash)
        opposite += _count(against)
    return Overlap(
        name=name,
        parents=parents,
        elements=math.prod(base.shape),
        positions=positions,
        different=different,
        opposite=opposite,
    )


def _count(mask: torch.Tensor | None) -> int:
    return 0 if mask is None else int(mask.count_nonzero())


def blocks(
    base: TensorRef, refs: Sequence[TensorRef]
) -> Iterator[tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]]:
    """Yield blocks of a base's tensor and of its copies, and which elements each copy changed."""
    old, copies = mapped(base).reshape(-1), [mapped(ref).reshape(-1) for ref in refs]
    for start in range(0, old.numel(), BLOCK_ELEMENTS):
        stop = start + BLOCK_ELEMENTS
        part, parts = old[start:stop], [copy[start:stop] for copy in copies]
        yield part, parts, [differing(part, copy) for copy in parts]


class LayerConflicts(Struct, frozen=True, kw_only=True):
    """The conflicts of one layer."""

    layer: int | None
    tensors: int
    conflicts: int
    positions: int
    different: int
    opposite: int


def by_layer(overlaps: Overlaps) -> list[LayerConflicts]:
    """Return the tensors that several parents changed, by layer; those outside come first."""
    groups: dict[int | None, list[Overlap]] = {}
    for tensor in overlaps.tensors:
        groups.setdefault(layer_of(tensor.name), []).append(tensor)
    return [
        LayerConflicts(
            layer=layer,
            tensors=len(tensors),
            conflicts=sum(tensor.conflicts for tensor in tensors),
            positions=sum(tensor.positions for tensor in tensors),
            different=sum(tensor.different for tensor in tensors),
            opposite=sum(tensor.opposite for tensor in tensors),
        )
        for layer, tensors in groups.items()
    ]


def conflicts_svg(overlaps: Overlaps, title: str) -> str:
    """Return all tensors as an SVG: the darker, the more of the values conflict."""
    tensors = {tensor.name: tensor for tensor in overlaps.tensors}
    names = sorted({*overlaps.clean, *tensors}, key=lambda name: (_order(name), name))
    cells = []
    for name in names:
        tensor = tensors.get(name)
        if tensor is None:
            changed = overlaps.clean[name] is not None
            cells.append(Cell(name, 0.0, "changed once" if changed else "not changed"))
        elif tensor.reason:
            cells.append(Cell(name, None, tensor.reason))
        else:
            cells.append(
                Cell(
                    name,
                    tensor.different / max(tensor.elements, 1),
                    f"{tensor.different} of {tensor.elements} values differ, "
                    f"{tensor.opposite} with opposite signs",
                )
            )
    return heat_map(
        cells,
        title,
        unchanged="no conflict",
        not_measured="removed, added, reshaped",
        scale="of the values",
    )
