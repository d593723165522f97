"""Tensors mapped from packs: views on a private mapping of the file, without a copy."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path

import torch

from modpkg.errors import PackError
from modpkg.installed import TensorRef

TORCH_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
}


def map_tensors(
    refs: Iterable[tuple[str, TensorRef]], folder: Path = Path()
) -> dict[str, torch.Tensor]:
    """Return tensors by name, as views on one mapping per pack.

    The mapping is private: writing into a tensor (training, say) copies the page and never
    reaches the file. ``folder`` is where relative files lie.

    Raises:
        PackError: a pack is missing or too short, or its dtype is unknown to this torch.
    """
    mappings: dict[str, mmap.mmap] = {}
    found: dict[str, torch.Tensor] = {}
    for name, ref in refs:
        if ref.dtype not in TORCH_DTYPES:
            raise PackError(path=ref.file, reason=f"tensor {name!r} has dtype {ref.dtype}")
        dtype = TORCH_DTYPES[ref.dtype]
        if ref.length == 0:
            found[name] = torch.empty(list(ref.shape), dtype=dtype)
            continue
        if ref.file not in mappings:
            mappings[ref.file] = _map(folder / ref.file)
        mapping = mappings[ref.file]
        if ref.offset + ref.length > len(mapping):
            raise PackError(path=folder / ref.file, reason=f"it ends before tensor {name!r}")
        count = ref.length // dtype.itemsize
        flat = torch.frombuffer(mapping, dtype=dtype, count=count, offset=ref.offset)
        found[name] = flat.view(list(ref.shape))
    return found


def _map(path: Path) -> mmap.mmap:
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise PackError(path=path, reason=f"it cannot be mapped ({error})") from None
