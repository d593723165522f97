"""Encoding a tensor: the method is chosen by a fixed rule, so equal inputs give equal bytes."""

from __future__ import annotations

from modpkg.core.dtypes import DTYPE_BYTES
from modpkg.core.records import Method
from modpkg.deltas.frame import write_frame
from modpkg.deltas.planes import split_planes
from modpkg.deltas.sparse import count_changes, split_changes

# Within these bounds every method decodes at over 500 MB/s, so size alone decides; the figures are
# in benchmarks/results/deltas.md.
WORTH_IT = 0.9
"""An encoding is used only if its size is at most this share of the plain bytes."""
WORTH_A_BASE = 0.9
"""One that needs an earlier tensor is used only up to this share of the size of ``planes``."""
SPARSE_SHARE = 0.25
"""Share of changed elements up to which ``sparse`` is tried; beyond, it decodes more slowly."""


def encode(new: memoryview, old: memoryview | None, dtype: str) -> tuple[Method, bytes] | None:
    """Return a tensor's smallest encoding as method and payload; None if plain bytes are best.

    ``old`` has the bytes of an earlier tensor of the same dtype and shape, if any. All payloads
    that are compared are held in memory.
    """
    width = DTYPE_BYTES[dtype]
    planes = write_frame(split_planes(new, None, width), len(new))
    best: tuple[Method, bytes] = ("planes", planes)
    if old is not None:
        on_base: tuple[Method, bytes]
        on_base = ("difference", write_frame(split_planes(new, old, width), len(new)))
        if count_changes(new, old, width) <= SPARSE_SHARE * (len(new) // width):
            content = list(split_changes(new, old, width))
            sparse = write_frame(content, sum(map(len, content)))
            if len(sparse) <= len(on_base[1]):
                on_base = ("sparse", sparse)
        if len(on_base[1]) <= WORTH_A_BASE * len(planes):
            best = on_base
    return best if len(best[1]) <= WORTH_IT * len(new) else None
