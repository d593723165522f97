"""Decoding a tensor, streamed in blocks with bounded memory, from untrusted payloads."""

from __future__ import annotations

from collections.abc import Iterator

from modpkg.core.dtypes import DTYPE_BYTES
from modpkg.core.errors import ReleaseError
from modpkg.core.records import METHODS
from modpkg.deltas.blocks import TensorBytes
from modpkg.deltas.frame import FrameReader
from modpkg.deltas.planes import join_planes
from modpkg.deltas.sparse import apply_changes, content_bounds


def decode(
    method: str,
    payload: memoryview | bytes,
    base: memoryview | None,
    out: memoryview,
    dtype: str,
    what: str,
) -> None:
    """Fill ``out`` with the tensor's bytes, decoded from ``payload``.

    ``base`` has the earlier tensor's bytes, as many as ``out``; None for ``planes``. Memory: the
    window (at most 8 MiB) and two blocks (at most 1 MiB each). The caller must verify the digest of
    ``out``: a payload that decodes is not necessarily correct.

    Raises:
        ReleaseError: The payload is not a valid encoding; ``what`` names the tensor, and ``out``
            may be partly filled.
    """
    for _ in decoded_blocks(method, payload, base, out, dtype, what):
        pass


def decoded_blocks(
    method: str,
    payload: memoryview | bytes,
    base: TensorBytes | None,
    out: TensorBytes,
    dtype: str,
    what: str,
) -> Iterator[memoryview]:
    """Yield the blocks of a tensor, decoded into those of ``out``; otherwise as `decode`.

    A block is valid until the next one is asked for.
    """
    width = DTYPE_BYTES[dtype]
    length = len(out)
    if method not in METHODS or (base is None) != (method == "planes"):
        raise ReleaseError("M212", what=what, reason=f"its method is {method!r}")
    if length % width or (base is not None and len(base) != length):
        raise ReleaseError("M212", what=what, reason="its length differs from the earlier tensor's")
    bounds = content_bounds(length, width) if method == "sparse" else (length, length)
    reader = FrameReader(memoryview(payload), *bounds, what)
    if method == "sparse" and base is not None:
        yield from apply_changes(reader, base, out, width)
    else:
        yield from join_planes(reader, base, out, width)
    reader.finish()
