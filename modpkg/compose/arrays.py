"""Tensors as numpy arrays: as stored in a pack, and widened to float64.

numpy has no bfloat16 and no float8, so stored values are arrays of their bits, and arithmetic is
done on widened values only. Most compositions need no torch; importing it takes longer than
composing a small model.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modpkg.core.digests import digest_bytes
from modpkg.core.dtypes import DTYPES
from modpkg.core.errors import PackError
from modpkg.core.installed import TensorRef
from modpkg.core.regular_file import open_unbuffered
from modpkg.core.tree import changed_file

Array = NDArray[np.float64]
Stored = NDArray[np.generic]

STORED: dict[str, np.dtype[np.generic]] = {
    name: np.dtype(dtype.numpy) for name, dtype in DTYPES.items() if dtype.numpy is not None
}
"""numpy's dtype of stored values; unsigned integers for floats that numpy does not have."""


def stored_dtype(ref: TensorRef) -> np.dtype[np.generic]:
    """Return numpy's dtype of a stored tensor.

    Raises:
        PackError: Its dtype is not supported in arithmetic.
    """
    if ref.dtype not in STORED:
        raise PackError("M201", path=ref.file, reason=f"arithmetic on {ref.dtype} is not supported")
    return STORED[ref.dtype]


def widened(stored: Stored, ref: TensorRef) -> Array:
    """Return values of a tensor as a new float64 array: exact, except for 64-bit integers.

    Raises:
        PackError: The dtype is float8, whose scales are stored elsewhere.
    """
    dtype = ref.dtype
    if dtype.startswith("F8_"):
        raise PackError("M201", path=ref.file, reason=f"arithmetic on {dtype} is not supported")
    if dtype == "BF16":
        return in_double(stored)
    return stored.astype(np.float64)


def in_single(stored: Stored, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return bfloat16, or finite float16, as float32, exactly: a new array, or ``out``."""
    single = np.empty(stored.shape, np.float32) if out is None else out
    bits = single.view(np.uint32)
    np.copyto(bits, stored.view(np.uint16))
    bits <<= np.uint32(16)
    if stored.dtype == np.float16:  # three times as fast as numpy's conversion
        signed = bits.view(np.int32)
        signed >>= np.int32(3)
        bits &= np.uint32(0x8FFFFFFF)  # without copies of the sign
        single *= np.float32(2.0**112)  # the exponents' biases; subnormals become normal
    return single


def in_double(stored: Stored) -> Array:
    """Return bfloat16 or float16 as a new float64 array, exactly."""
    if stored.dtype == np.float16:
        return stored.astype(np.float64)
    return in_single(stored).astype(np.float64)


def distance(start: Stored, end: Stored, where: Any) -> Array:
    """Return |end − start| at some places, as float64."""
    delta = in_double(end[where])
    delta -= in_double(start[where])
    return np.abs(delta, out=delta)


def left_by_rounding(one: Array, other: Array) -> Array:
    """Return what ``one − other`` in float64 lacks to the exact difference (Knuth's TwoSum)."""
    delta = one - other
    back = one - delta
    return (one - (delta + back)) + (back - other)


def read_array(ref: TensorRef, what: str, *, trusted: bool = False) -> Array:
    """Return a whole tensor as float64, in its own shape; ``what`` names it in errors.

    It is hashed, unless it is ``trusted`` because its bytes were just verified.

    Raises:
        PackError: The pack cannot be read, or the dtype is not supported.
        IntegrityError: The bytes do not match the tensor's digest.
    """
    dtype = stored_dtype(ref)
    try:
        with open_unbuffered(ref.file) as file:
            file.seek(ref.offset)
            data = file.read(ref.length)
            while 0 < len(data) < ref.length and (more := file.read(ref.length - len(data))):
                data += more
    except OSError as error:
        raise PackError("M201", path=ref.file, reason=f"it cannot be read ({error})") from None
    if len(data) != math.prod(ref.shape) * dtype.itemsize:
        raise PackError("M201", path=Path(ref.file), reason="it is truncated")
    if not trusted and digest_bytes(data) != ref.digest:
        raise changed_file(what, ref.file)
    return widened(np.frombuffer(data, dtype), ref).reshape(ref.shape)
