"""Deltas: lossless encodings of a tensor, by itself or relative to an earlier version of it.

Three methods, each one zstd frame: ``sparse`` (positions and differences of the changed elements),
``difference`` (from the earlier tensor, in byte planes) and ``planes`` (the tensor itself, in byte
planes). ``registry_spec/release.md`` specifies the layout.
"""

from modpkg.deltas.blocks import ComingBlocks, OneBlock, TensorBytes
from modpkg.deltas.choose import encode
from modpkg.deltas.decode import decode, decoded_blocks

__all__ = ["ComingBlocks", "OneBlock", "TensorBytes", "decode", "decoded_blocks", "encode"]
