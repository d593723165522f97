"""Tensors as arrays of numpy: how they lie in a pack, and what they are as float64.

numpy has no bfloat16 and no float8: what lies in a pack is an array of the same width, and only
what is widened can be computed with. Most compositions need nothing else; importing torch takes
longer than composing a small model does.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modpkg.core.digests import digest_bytes
from modpkg.core.dtypes import DTYPES
from modpkg.core.errors import IntegrityError, PackError
from modpkg.core.installed import TensorRef

Array = NDArray[np.float64]
Stored = NDArray[np.generic]

STORED: dict[str, np.dtype[np.generic]] = {
    name: np.dtype(dtype.numpy) for name, dtype in DTYPES.items() if dtype.numpy is not None
}
"""numpy's dtype for what lies in a pack; what it has no numbers for is its bits."""


def stored_dtype(ref: TensorRef) -> np.dtype[np.generic]:
    """Return numpy's dtype for what lies in a pack.

    Raises:
        PackError: nothing is computed with this dtype.
    """
    if ref.dtype not in STORED:
        raise PackError(
            "M201", path=ref.file, reason=f"nothing is computed with its dtype {ref.dtype}"
        )
    return STORED[ref.dtype]


def widened(stored: Stored, ref: TensorRef) -> Array:
    """Return values of a tensor as float64 that is nobody else's: exact, but for 64-bit integers.

    Raises:
        PackError: they are float8, whose scales are elsewhere.
    """
    dtype = ref.dtype
    if dtype.startswith("F8_"):
        raise PackError("M201", path=ref.file, reason=f"nothing is computed with its dtype {dtype}")
    if dtype == "BF16":
        return in_double(stored)
    return stored.astype(np.float64)


def in_single(stored: Stored) -> NDArray[np.float32]:
    """Return bfloat16, or float16 that is finite, as float32 that is nobody else's, exactly."""
    if stored.dtype == np.float16:  # three times as fast as numpy's own
        half = stored.view(np.uint16).astype(np.uint32)
        sign = half & np.uint32(0x8000)
        sign <<= np.uint32(16)
        half ^= sign >> np.uint32(16)
        half <<= np.uint32(13)
        found = half.view(np.float32)
        found *= np.float32(2.0**112)  # the exponent's bias; numbers below the normal become so
        half |= sign
        return found
    bits = stored.astype(np.uint32)
    bits <<= np.uint32(16)
    return bits.view(np.float32)


def in_double(stored: Stored) -> Array:
    """Return bfloat16 or float16 as float64 that is nobody else's, exactly."""
    if stored.dtype == np.float16:
        return stored.astype(np.float64)
    return in_single(stored).astype(np.float64)


def read_array(ref: TensorRef, what: str) -> Array:
    """Return a whole tensor as float64, in its own shape.

    Raises:
        PackError: it cannot be read. IntegrityError: it is not what its digest says; ``what`` names
            it in the error.
    """
    dtype = stored_dtype(ref)
    try:
        with open(ref.file, "rb", buffering=0) as file:
            file.seek(ref.offset)
            data = file.read(ref.length)
            while 0 < len(data) < ref.length and (more := file.read(ref.length - len(data))):
                data += more
    except OSError as error:
        raise PackError("M201", path=ref.file, reason=f"it cannot be read ({error})") from None
    if len(data) != math.prod(ref.shape) * dtype.itemsize:
        raise PackError("M201", path=Path(ref.file), reason="it ends before a tensor does")
    if digest_bytes(data) != ref.digest:
        raise IntegrityError("M508", what=what, path=ref.file)
    return widened(np.frombuffer(data, dtype), ref).reshape(ref.shape)
