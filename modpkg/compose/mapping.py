"""Tensors memory-mapped from packs: views on a private mapping of the file, without a copy."""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch

from modpkg.core.dtypes import DTYPES
from modpkg.core.errors import PackError
from modpkg.core.installed import TensorRef
from modpkg.core.regular_file import open_file

# Older versions of torch lack some of them.
TORCH_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, dtype.torch)
    for name, dtype in DTYPES.items()
    if hasattr(torch, dtype.torch)
}
"""torch's dtype for each of safetensors' names."""
DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
"""safetensors' name for each of torch's dtypes."""

_SMALL = 1 << 20
"""Bytes below which a tensor's second use is a copy: a mapping costs a file descriptor."""
_MAPPINGS = 16
"""Most mappings of one pack."""


def map_tensors(
    refs: Iterable[tuple[str, TensorRef]], folder: Path = Path(), *, apart: bool = False
) -> dict[str, torch.Tensor]:
    """Return tensors by name, as views on mappings of packs.

    The mapping is private (copy-on-write): writing to a tensor, as training does, never changes the
    file. Relative paths are relative to ``folder``. A pack has tensors of equal content once; with
    ``apart`` each of them has memory of its own all the same, as the parameters of a model need it:
    in another mapping of the pack, or, if it is small, as a copy.

    Raises:
        PackError: A pack is missing or truncated, or this torch does not have a dtype.
    """
    mappings: dict[tuple[str, int], mmap.mmap] = {}
    uses: Counter[tuple[str, int]] = Counter()
    tensors = {}
    for name, ref in refs:
        number = uses[ref.file, ref.offset] if apart else 0
        uses[ref.file, ref.offset] += 1
        is_mapped = ref.length >= _SMALL and number < _MAPPINGS
        view = _view(name, ref, folder, mappings, number if is_mapped else 0)
        tensors[name] = view.clone() if number and not is_mapped else view
    return tensors


def _view(
    name: str,
    ref: TensorRef,
    folder: Path,
    mappings: dict[tuple[str, int], mmap.mmap],
    number: int,
) -> torch.Tensor:
    """Return a tensor in one of its pack's mappings, which is made if it is the first there."""
    if ref.dtype not in TORCH_DTYPES:
        raise PackError(
            "M201",
            path=ref.file,
            reason=f"tensor {name!r} has dtype {ref.dtype}, which this torch does not have",
        )
    dtype, shape = TORCH_DTYPES[ref.dtype], list(ref.shape)
    if DTYPES[ref.dtype].narrow is not None:  # an element of torch's is a byte: two of them
        shape = [*shape[:-1], shape[-1] // 2] if shape else shape
    if ref.length == 0:
        return torch.empty(shape, dtype=dtype)
    if (ref.file, number) not in mappings:
        mappings[ref.file, number] = _map(folder / ref.file)
    mapping = mappings[ref.file, number]
    if ref.offset + ref.length > len(mapping):
        raise PackError(
            "M201", path=folder / ref.file, reason=f"it is truncated before tensor {name!r}"
        )
    if ref.offset % dtype.itemsize:
        # Packs written by other tools may hold unaligned tensors; SIMD needs aligned ones.
        copied = bytearray(mapping[ref.offset : ref.offset + ref.length])
        flat = torch.frombuffer(copied, dtype=dtype)
    else:
        count = ref.length // dtype.itemsize
        flat = torch.frombuffer(mapping, dtype=dtype, count=count, offset=ref.offset)
    return flat.view(shape)


def _map(path: Path) -> mmap.mmap:
    try:
        with open_file(path) as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise PackError("M201", path=path, reason=f"it cannot be mapped ({error})") from None
