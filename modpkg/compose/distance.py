"""Distances between two tensors of the same shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from msgspec import Struct

BLOCK_ELEMENTS = 1 << 17
"""Elements compared at a time: the float64 copies of a block take 2 MiB."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Distance(Struct, frozen=True):
    """The distance of two tensors A and B; norms are Euclidean, over all elements, in float64."""

    changed: int
    """Elements with different bits (equal dtypes) or values (different dtypes)."""
    norm: float
    """Norm of A."""
    distance: float
    """Norm of B − A."""
    largest: float
    """The largest absolute value in B − A."""


def relative(distance: float, norm: float) -> float:
    """Return ‖B − A‖ / ‖A‖; infinite if A is zero and B is not."""
    if norm == 0:
        return 0.0 if distance == 0 else math.inf
    return distance / norm


def distance_of(
    a: torch.Tensor, b: torch.Tensor, progress: Callable[[int], None] | None = None
) -> Distance:
    """Return the distance of two tensors of the same shape.

    ``progress`` is called with the number of bytes of B in each block.
    """
    changed, norm, distance, largest = 0, 0.0, 0.0, 0.0
    for old, new in _blocks(_flat(a), _flat(b)):
        if progress is not None:
            progress(new.numel() * new.element_size())
        x = old.double()
        gap = new.double() - x
        if old.dtype == new.dtype:
            changed += int(torch.count_nonzero(bits_of(old) - bits_of(new)))
        else:
            changed += int(torch.count_nonzero(gap))
        norm += float(torch.dot(x, x))
        distance += float(torch.dot(gap, gap))
        low, high = torch.aminmax(gap)
        largest = max(largest, float(high), -float(low))
    return Distance(changed, math.sqrt(norm), math.sqrt(distance), largest)


def bits_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor viewed as integers of the same width, for bitwise comparison."""
    return tensor.view(_INTEGERS[tensor.element_size()])


def differing(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    """Return a mask of the elements whose bits differ, for two tensors of the same dtype."""
    if one.is_complex() or one.dtype == torch.bool:
        return one.ne(two)
    return bits_of(one).ne(bits_of(two))


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor as a flat row of real numbers; booleans as bytes."""
    if tensor.is_complex():
        return torch.view_as_real(tensor).flatten()
    return (tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor).flatten()


def _blocks(one: torch.Tensor, two: torch.Tensor) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    for start in range(0, one.numel(), BLOCK_ELEMENTS):
        yield one[start : start + BLOCK_ELEMENTS], two[start : start + BLOCK_ELEMENTS]
