"""Deltas: a tensor written as a change to an earlier one, or packed more tightly by itself.

Three methods, each one zstd frame, all exact to the bit: ``sparse`` (positions of the changed
elements and by how much), ``difference`` (from the earlier tensor, in byte planes) and
``planes`` (the tensor itself, in byte planes). ``registry_spec/release.md`` fixes the layout.
"""

from modpkg.deltas.choose import encode
from modpkg.deltas.decode import decode

__all__ = ["decode", "encode"]
