"""The dtypes of safetensors: one row for each, and the tables made from them.

Neither torch nor numpy is imported: both have their names for a dtype here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct


class DType(Struct, frozen=True):
    """What modpkg knows about one dtype."""

    width: int
    """Bytes per element; of those that are narrower, the bytes that they are read in: 1."""
    torch: str
    """Name of torch's dtype; an older torch may lack it."""
    numpy: str | None
    """numpy's code for the elements as stored: the bits, where numpy has no such numbers.
    None where nothing is computed with them."""
    computed: bool = False
    """Whether arithmetic on weights (merging, patching, deltas) takes it."""
    least_nonfinite: int | None = None
    """The smallest bit pattern, without the sign, that is infinity or NaN."""
    narrow: int | None = None
    """Bits per element, where it is not whole bytes."""


DTYPES = {
    "BOOL": DType(1, "bool", "?"),
    "F4": DType(1, "float4_e2m1fn_x2", None, narrow=4),
    "F6_E2M3": DType(1, "float6_e2m3fn", None, narrow=6),
    "F6_E3M2": DType(1, "float6_e3m2fn", None, narrow=6),
    "U8": DType(1, "uint8", "u1"),
    "I8": DType(1, "int8", "i1"),
    "F8_E4M3": DType(1, "float8_e4m3fn", "u1", least_nonfinite=0x7F),
    "F8_E5M2": DType(1, "float8_e5m2", "u1", least_nonfinite=0x7C),
    "F8_E8M0": DType(1, "float8_e8m0fnu", None),
    "F8_E4M3FNUZ": DType(1, "float8_e4m3fnuz", None),
    "F8_E5M2FNUZ": DType(1, "float8_e5m2fnuz", None),
    "U16": DType(2, "uint16", "u2"),
    "I16": DType(2, "int16", "i2"),
    "F16": DType(2, "float16", "f2", computed=True, least_nonfinite=0x7C00),
    "BF16": DType(2, "bfloat16", "u2", computed=True, least_nonfinite=0x7F80),
    "U32": DType(4, "uint32", "u4"),
    "I32": DType(4, "int32", "i4"),
    "F32": DType(4, "float32", "f4", computed=True, least_nonfinite=0x7F80_0000),
    "U64": DType(8, "uint64", "u8"),
    "I64": DType(8, "int64", "i8"),
    "F64": DType(8, "float64", "f8", computed=True, least_nonfinite=0x7FF0_0000_0000_0000),
    "C64": DType(8, "complex64", None),
}
"""By safetensors' name, every dtype that a pack may hold."""

DTYPE_BYTES = {name: dtype.width for name, dtype in DTYPES.items()}
"""Bytes per element; 1 for elements that are narrower than a byte."""


def bits_of(dtype: str, shape: Sequence[int]) -> int:
    """Return how many bits a tensor's elements take; a stored tensor takes whole bytes."""
    return math.prod(shape) * (DTYPES[dtype].narrow or 8 * DTYPES[dtype].width)


FLOATS = frozenset(name for name, dtype in DTYPES.items() if dtype.computed)
"""Floats that arithmetic on weights takes: F16, BF16, F32 and F64."""
LEAST_NONFINITE = {
    name: dtype.least_nonfinite
    for name, dtype in DTYPES.items()
    if dtype.least_nonfinite is not None
}
"""The smallest bit pattern, without the sign, that is infinity or NaN; others have neither."""
CONFIG_DTYPES = {DTYPES[name].torch: name for name in ("F32", "F16", "BF16")}
"""By the name that recipes and ``config.json`` use, the dtypes a model may be composed in."""
