"""Bases and changed copies of them, as they would lie in a store and in folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from modpkg.community.modules.reference import view_of_folder
from modpkg.community.modules.view import ModuleView
from modpkg.community.patch.apply import apply_patch
from modpkg.community.patch.create import Patch, create, write_patch
from modpkg.compose.mapping import map_tensors
from modpkg.core.installed import InstalledModule
from modpkg.core.progress import Progress
from modpkg.store.store import Store
from tests.compose.helpers import base as base_module

Tensors = Mapping[str, torch.Tensor]
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def base_of(folder: Path, tensors: Tensors) -> InstalledModule:
    return base_module(folder, tensors)


def copy_of(folder: Path, tensors: Tensors, **files: Any) -> ModuleView:
    """Write a whole copy as a trainer does, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return view_of_folder(str(folder), Progress())


def patch_of(
    folder: Path, base: InstalledModule, copy: ModuleView, *, deltas: bool = False, name: str = "p"
) -> tuple[Patch, ModuleView]:
    """Create a patch, write it, and return it as written."""
    patch = create(base, copy, deltas=deltas)
    write_patch(patch, folder / name, name=name, version="1.0", license="MIT")
    return patch, view_of_folder(str(folder / name), Progress())


def applied(folder: Path, base: InstalledModule, patch: ModuleView) -> dict[str, torch.Tensor]:
    return tensors_of(apply_patch(base, patch, Store(folder / "store"), Progress()))


def tensors_of(view: ModuleView) -> dict[str, torch.Tensor]:
    return map_tensors(view.refs().items())


def same_bits(one: Tensors, two: Tensors) -> bool:
    """Return whether two sets of tensors are identical, bit for bit."""
    return one.keys() == two.keys() and all(_same(one[name], two[name]) for name in one)


def _same(one: torch.Tensor, two: torch.Tensor) -> bool:
    if (one.dtype, one.shape) != (two.dtype, two.shape):
        return False
    kind = _BITS[one.element_size()]
    return torch.equal(one.contiguous().view(kind), two.contiguous().view(kind))
