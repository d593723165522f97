"""The routers of a mixture of experts, assembled row by row.

They are small, so they are computed in this process, after all other tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from modpkg.compose.composition import Composition, ModuleRow, RouterWeight
from modpkg.compose.mapping import TORCH_DTYPES, map_tensors
from modpkg.compose.prompt_routing import PromptStateExtractor
from modpkg.compose.torch_arrays import round_into
from modpkg.core import system
from modpkg.core.digests import Digest, digest_bytes, digest_file
from modpkg.core.errors import ComposeError
from modpkg.core.installed import TensorRef
from modpkg.core.packs import PackTensor
from modpkg.core.tree import changed_file


def write_routers(
    composition: Composition, places: Mapping[str, tuple[str, PackTensor]]
) -> dict[str, str]:
    """Write the routers into their files and places there, and return their digests.

    Every row is rounded once, from float64.

    Raises:
        ComposeError: A row has NaN or infinity, or the base cannot read the prompts.
        IntegrityError: An input does not match its digest.
        MissingExtra: Rows come from prompts, and transformers is not installed.
    """
    extractor = PromptStateExtractor(composition) if composition.prompt_reader is not None else None
    digests: dict[str, str] = {}
    for name, router in composition.routers.items():
        values = _values(composition.name, name, router, extractor)
        out = torch.empty(router.shape, dtype=TORCH_DTYPES[router.dtype])
        round_into(out, values)
        if not torch.isfinite(out).all():
            raise ComposeError("M605", model=composition.name, tensor=name)
        data = out.view(torch.uint8).numpy().tobytes()
        pack, place = places[name]
        with open(pack, "r+b", buffering=0) as file:
            system.write_at(file.fileno(), data, place.offset)
        digests[name] = digest_bytes(data)
    return digests


def _values(
    model: str, name: str, router: RouterWeight, extractor: PromptStateExtractor | None
) -> torch.Tensor:
    """Return a router's values, float64 [experts, hidden]."""
    values = torch.zeros(router.shape, dtype=torch.float64)
    for number, row in enumerate(router.rows):
        if isinstance(row, ModuleRow):
            what = f"An input of {name!r} of {model}"
            values[number] = _verified(row.ref, what)[row.row].double()
        elif row is not None and extractor is not None:
            values[number] = extractor.states(row)[row.layer]
    return values


def _verified(ref: TensorRef, what: str) -> torch.Tensor:
    """Return a tensor mapped from its pack, after hashing its bytes.

    Raises:
        IntegrityError: The bytes do not match the tensor's digest.
    """
    if digest_file(Path(ref.file), ref.offset, ref.length) != Digest(ref.digest):
        raise changed_file(what, ref.file)
    return map_tensors([("", ref)])[""]
