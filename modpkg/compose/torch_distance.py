"""Tensors of torch compared bit by bit, and in dtypes that numpy does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def torch_sums(
    a: torch.Tensor, b: torch.Tensor, block: int, progress: Callable[[int], None] | None
) -> Iterator[tuple[int, float, float, float]]:
    """Yield, by block, what `modpkg.compose.distance` adds up."""
    one, two = _flat(a), _flat(b)
    for start in range(0, one.numel(), block):
        old, new = one[start : start + block], two[start : start + block]
        if progress is not None:
            progress(new.numel() * new.element_size())
        x = old.double()
        gap = new.double() - x
        if old.dtype == new.dtype:
            changed = int(torch.count_nonzero(bits_of(old) - bits_of(new)))
        else:
            changed = int(torch.count_nonzero(gap))
        low, high = torch.aminmax(gap)
        largest = max(float(high), -float(low))
        yield changed, float(torch.dot(x, x)), float(torch.dot(gap, gap)), largest


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
