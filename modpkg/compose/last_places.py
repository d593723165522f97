"""How far two tensors of floats are apart, in units in the last place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modpkg.core.digests import file_chunks
from modpkg.core.dtypes import DTYPE_BYTES, FLOATS
from modpkg.core.installed import TensorRef


def last_places_apart(a: TensorRef, b: TensorRef) -> int | None:
    """Return the largest distance of two elements, in units in the last place.

    That is the number of steps from one value of the dtype to the next; −0 and 0 are one apart.
    None if the tensors have other dtypes or shapes, or are not of floats.

    Raises:
        OSError: A file cannot be read.
    """
    if a.dtype not in FLOATS or (a.dtype, [*a.shape], a.length) != (b.dtype, [*b.shape], b.length):
        return None
    most = 0
    chunks = (file_chunks(Path(ref.file), ref.offset, ref.length) for ref in (a, b))
    for pair in zip(*chunks, strict=True):
        left, right = (_ordered(data, DTYPE_BYTES[a.dtype]) for data in pair)
        apart = np.maximum(left, right) - np.minimum(left, right)
        most = max(most, int(apart.max(initial=0)))
    return most


def _ordered(data: bytes, width: int) -> NDArray[np.unsignedinteger]:
    """Return floats of so many bytes as unsigned integers in the order of their values."""
    bits: NDArray[np.unsignedinteger] = np.frombuffer(data, np.dtype(f"<u{width}"))
    sign = bits.dtype.type(1 << (8 * width - 1))
    return np.where(bits & sign, ~bits, bits | sign)
