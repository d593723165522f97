"""Adapters whose tensors are of 8 bits, written in a dtype that can be computed with.

Every value of an 8-bit float has an equal in bfloat16.
"""

from __future__ import annotations

from pathlib import Path

from modpkg.core.files import write_atomically
from modpkg.core.names import listed
from modpkg.core.packs import read_pack_header

_NARROW = frozenset({"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})


def widen(file: Path) -> list[str]:
    """Write the 8-bit floats in a file of an adapter's weights as BF16; return warnings.

    Raises:
        PackError: The file is damaged.
    """
    narrow = {place.dtype for place in read_pack_header(file).values()} & _NARROW
    if not narrow:
        return []
    import torch
    from safetensors.torch import load_file, save

    tensors = {
        name: tensor.to(torch.bfloat16) if "float8" in str(tensor.dtype) else tensor.clone()
        for name, tensor in load_file(file).items()
    }
    # as a new file: this one may be a link to the source's
    write_atomically(file, save(tensors, metadata={"format": "pt"}))
    return [f"its {listed(narrow)} tensors are written as BF16, which has all of their values"]
