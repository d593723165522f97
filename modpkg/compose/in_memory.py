"""A composed tensor in memory instead of in a pack: what live models use."""

from __future__ import annotations

import numpy as np
import torch

from modpkg.compose.blocks import TensorBlocks
from modpkg.compose.composition import ComputedTensor
from modpkg.compose.mapping import TORCH_DTYPES
from modpkg.compose.tensor import Job, Reduction
from modpkg.core.packs import PackTensor


def tensor_in_memory(model: str, name: str, computed: ComputedTensor) -> torch.Tensor:
    """Return the tensor that `make_tensor` would write, bit for bit.

    Raises:
        ComposeError: The result has NaN or infinity, or the method rejects the values.
        PackError: An input cannot be read.
        IntegrityError: An input does not match its digest.
    """
    out = torch.empty(computed.shape, dtype=TORCH_DTYPES[computed.dtype])
    place = PackTensor(computed.dtype, computed.shape, 0, computed.length)
    job = Job(model=model, name=name, computed=computed, file="", place=place)
    flat, first = out.reshape(-1), 0
    with np.errstate(all="ignore"), TensorBlocks(model, name, computed) as blocks:
        if place.length:
            for block in Reduction(job, blocks):
                values = torch.from_numpy(block.view(f"i{out.itemsize}")).view(out.dtype)
                flat[first : first + block.size] = values.reshape(-1)
                first += block.size
        blocks.check()
    return out
