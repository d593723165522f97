"""Between numpy and torch: shared memory, mapped tensors, and rounding, for torch operators."""

from __future__ import annotations

import torch

from modpkg.compose.arrays import Array
from modpkg.compose.mapping import DTYPE_NAMES, map_tensors
from modpkg.compose.rounding import rounded
from modpkg.core.installed import TensorRef


def from_array(array: Array) -> torch.Tensor:
    """Return a tensor that shares the array's memory."""
    return torch.from_numpy(array)


def mapped(ref: TensorRef) -> torch.Tensor:
    """Return a tensor mapped from its pack, in its own dtype and shape."""
    return map_tensors([(ref.file, ref)])[ref.file]


def resized(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """Return a copy with another first extent: cut, or with zeros at the end."""
    out = tensor.new_zeros((rows, *tensor.shape[1:]))
    kept = min(rows, len(tensor))
    out[:kept] = tensor[:kept]
    return out


def matrix(tensor: torch.Tensor) -> torch.Tensor:
    """Return a 2-D view: the first dimension by all others; a vector has one column."""
    return tensor.reshape(tensor.shape[0] if tensor.ndim else 1, -1 if tensor.numel() else 1)


def round_into(out: torch.Tensor, values: torch.Tensor) -> None:
    """Write ``values`` (float64) into ``out``, of the same shape, rounding once.

    ``out`` is float64, float32, bfloat16 or float16.
    """
    bits = rounded(values.numpy(), DTYPE_NAMES[out.dtype])
    out.copy_(torch.from_numpy(bits.view(f"i{out.itemsize}")).view(out.dtype))
