"""For what is written with torch: arrays as its tensors, and its tensors rounded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from modpkg.compose.arrays import Array
from modpkg.compose.blocks import TensorBlocks
from modpkg.compose.composition import Made
from modpkg.compose.mapping import DTYPE_NAMES, TORCH_DTYPES, map_tensors
from modpkg.compose.rounding import rounded
from modpkg.compose.tensor import Job, Reduction
from modpkg.core.installed import TensorRef
from modpkg.core.packs import PackTensor


def from_array(array: Array) -> torch.Tensor:
    """Return a tensor on the same memory."""
    return torch.from_numpy(array)


def mapped(ref: TensorRef) -> torch.Tensor:
    """Return a tensor as it lies in its pack."""
    return map_tensors([(ref.file, ref)])[ref.file]


def matrix(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor with its first extent as rows and all others as columns.

    A vector has one column.
    """
    return tensor.reshape(tensor.shape[0] if tensor.ndim else 1, -1 if tensor.numel() else 1)


def round_into(out: torch.Tensor, values: torch.Tensor) -> None:
    """Write ``values``, float64, into ``out``, rounded once; both have one shape.

    ``out`` is float64, float32, bfloat16 or float16.
    """
    found = rounded(values.numpy(), DTYPE_NAMES[out.dtype])
    out.copy_(torch.from_numpy(found.view(f"i{out.itemsize}")).view(out.dtype))


def tensor_in_memory(model: str, name: str, made: Made) -> torch.Tensor:
    """Return the tensor that `make_tensor` would write, to the last bit.

    Raises:
        ComposeError, PackError, IntegrityError: as `make_tensor`.
    """
    out = torch.empty(list(made.source.shape), dtype=TORCH_DTYPES[made.dtype])
    place = PackTensor(made.dtype, tuple(made.source.shape), 0, made.length)
    job = Job(model=model, name=name, made=made, file="", place=place)
    flat, first = out.reshape(-1), 0
    with np.errstate(all="ignore"), TensorBlocks(model, name, made) as blocks:
        if place.length:
            for found in Reduction(job, blocks):
                same = torch.from_numpy(found.view(f"i{out.itemsize}")).view(out.dtype)
                flat[first : first + found.size] = same.reshape(-1)
                first += found.size
        blocks.check()
    return out


def one_thread() -> None:
    """Make torch use one thread per operation in this process: blocks are the parallel work."""
    torch.set_num_threads(1)


@contextlib.contextmanager
def threads_restored() -> Iterator[None]:
    """Give torch its threads back afterwards."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
