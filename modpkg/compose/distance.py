"""Distances between two stored tensors of the same shape, by numpy where it has their dtypes."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator

import numpy as np
from msgspec import Struct

from modpkg.compose.arrays import STORED, Stored, stored_dtype, widened
from modpkg.core.errors import PackError
from modpkg.core.installed import TensorRef
from modpkg.core.regular_file import open_file

BLOCK_ELEMENTS = 1 << 17
"""Elements compared at a time: the float64 copies of a block take 2 MiB."""


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
    a: TensorRef, b: TensorRef, progress: Callable[[int], None] | None = None
) -> Distance:
    """Return the distance of two tensors of the same shape.

    ``progress`` is called with the number of bytes of B in each block.

    Raises:
        PackError: A file is missing or too short, or this torch does not have a dtype.
    """
    if not (_in_numpy(a) and _in_numpy(b)):
        from modpkg.compose.mapping import map_tensors
        from modpkg.compose.torch_distance import torch_sums

        tensors = map_tensors([("a", a)]) | map_tensors([("b", b)])
        sums = torch_sums(tensors["a"], tensors["b"], BLOCK_ELEMENTS, progress)
    else:
        sums = _sums(a, b, progress)
    changed, norm, distance, largest = 0, 0.0, 0.0, 0.0
    for block in sums:
        changed += block[0]
        norm += block[1]
        distance += block[2]
        largest = max(largest, block[3])
    return Distance(changed, math.sqrt(norm), math.sqrt(distance), largest)


Sums = Iterator[tuple[int, float, float, float]]
"""By block: changed elements, sums of the squares of A and of B − A, the largest in B − A."""


def _in_numpy(ref: TensorRef) -> bool:
    return ref.dtype in STORED and not ref.dtype.startswith("F8_")


def _sums(a: TensorRef, b: TensorRef, progress: Callable[[int], None] | None) -> Sums:
    one, two = stored_elements(a), stored_elements(b)
    for start in range(0, one.size, BLOCK_ELEMENTS):
        old, new = one[start : start + BLOCK_ELEMENTS], two[start : start + BLOCK_ELEMENTS]
        if progress is not None:
            progress(new.nbytes)
        with np.errstate(all="ignore"):  # infinity and NaN are results too
            x = widened(old, a)
            gap = widened(new, b) - x
            if a.dtype == b.dtype:
                changed = np.count_nonzero(element_bits(old) != element_bits(new))
            else:
                changed = np.count_nonzero(gap)
            largest = max(float(gap.max()), -float(gap.min()))
            yield int(changed), float(np.dot(x, x)), float(np.dot(gap, gap)), largest


def stored_elements(ref: TensorRef) -> Stored:
    """Return a tensor's elements as stored, flat, mapped from its file.

    Raises:
        PackError: The file is missing or too short, or numpy has no such elements.
    """
    dtype = stored_dtype(ref)
    if not ref.length:
        return np.empty(0, dtype)
    try:
        with open_file(ref.file) as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise PackError("M201", path=ref.file, reason=f"it cannot be mapped ({error})") from None
    if ref.offset + ref.length > len(mapping):
        raise PackError("M201", path=ref.file, reason="it is truncated before a tensor's end")
    return np.frombuffer(mapping, dtype, ref.length // dtype.itemsize, ref.offset)


def element_bits(stored: Stored) -> Stored:
    """Return elements as unsigned integers of their width, for bitwise comparison."""
    return stored.view(f"u{stored.dtype.itemsize}")
