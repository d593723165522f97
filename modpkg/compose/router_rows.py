"""Tensors that are put together by rows: the routers of a mixture of experts.

They are small, so they are made at once, in this process, when all others are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from modpkg.compose.composition import Composition, ModuleRow, RouterWeight
from modpkg.compose.mapping import TORCH_DTYPES, map_tensors
from modpkg.compose.prompt_routing import PromptStateExtractor
from modpkg.compose.torch_arrays import round_into
from modpkg.core.digests import Digest, digest_bytes, digest_file
from modpkg.core.errors import ComposeError, IntegrityError
from modpkg.core.installed import TensorRef
from modpkg.core.packs import PackTensor


def write_gates(
    composition: Composition, places: Mapping[str, PackTensor], pack: Path
) -> dict[str, str]:
    """Write these tensors into their places of a pack, and return their digests.

    Every row is rounded once, from float64.

    Raises:
        ComposeError: a row has NaN or infinity. IntegrityError: it is not what it was when it came.
        ComposeError, MissingExtra: the base cannot read the prompts.
    """
    reader = PromptStateExtractor(composition) if composition.prompt_reader is not None else None
    digests: dict[str, str] = {}
    with open(pack, "r+b", buffering=0) as file:
        for name, gate in composition.routers.items():
            values = _values(composition.name, name, gate, reader)
            out = torch.empty(gate.shape, dtype=TORCH_DTYPES[gate.dtype])
            round_into(out, values)
            if not torch.isfinite(out).all():
                raise ComposeError("M605", model=composition.name, tensor=name)
            data = out.view(torch.uint8).numpy().tobytes()
            file.seek(places[name].offset)
            file.write(data)
            digests[name] = digest_bytes(data)
    return digests


def _values(
    model: str, name: str, gate: RouterWeight, reader: PromptStateExtractor | None
) -> torch.Tensor:
    """Return a tensor by its rows, as float64."""
    values = torch.zeros(gate.shape, dtype=torch.float64)
    for number, row in enumerate(gate.rows):
        if isinstance(row, ModuleRow):
            what = f"What {name!r} of {model} is made of"
            values[number] = checked(row.ref, what)[row.row].double()
        elif row is not None and reader is not None:
            values[number] = reader.states(row)[row.layer]
    return values


def checked(ref: TensorRef, what: str) -> torch.Tensor:
    """Return a tensor as it lies in its pack, once its bytes were hashed.

    Raises:
        IntegrityError: they are not what they were when they were fetched.
    """
    if digest_file(Path(ref.file), ref.offset, ref.length) != Digest(ref.digest):
        raise IntegrityError("M508", what=what, path=ref.file)
    return map_tensors([("", ref)])[""]
