"""Modules made from tensors in memory, as they would be in a store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from modpkg.compose.composition import Composition
from modpkg.compose.mapping import map_tensors
from modpkg.compose.plan import plan
from modpkg.core.digests import digest_bytes, digest_file
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.names import ModuleName
from modpkg.core.packs import read_pack_header
from modpkg.core.records import Kind, Provenance, ReleaseRecord
from modpkg.manifest.schema import Compose, DTypeName, Step

LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
PREFIX = "base_model.model."


def of_folder(folder: Path, name: str, kind: Kind) -> InstalledModule:
    """Return the module in a directory as transformers or PEFT saves it."""
    tensors = {}
    for pack in sorted(folder.glob("*.safetensors")):
        for tensor, place in read_pack_header(pack).items():
            digest = digest_file(pack, place.offset, place.length)
            tensors[tensor] = TensorRef(
                str(pack), place.offset, place.length, place.dtype, list(place.shape), digest
            )
    return InstalledModule(
        name=name,
        version="1.0",
        kind=kind,
        release=digest_bytes(name.encode()),
        record=ReleaseRecord(
            name=name,
            version="1.0",
            kind=kind,
            license="MIT",
            manifest={},
            provenance=Provenance(built_with="a test"),
        ),
        tensors=tensors,
        files={
            str(path.relative_to(folder)): path
            for path in folder.rglob("*")
            if path.is_file() and path.suffix != ".safetensors"
        },
    )


def module(
    folder: Path,
    name: str,
    kind: Kind,
    tensors: Mapping[str, torch.Tensor],
    **files: Any,
) -> InstalledModule:
    """Write tensors and JSON files (``config`` is config.json) and return the module."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    save_file({key: t.contiguous() for key, t in tensors.items()}, folder / name / "w.safetensors")
    for file, value in files.items():
        (folder / name / f"{file}.json").write_text(json.dumps(value))
    return of_folder(folder / name, name, kind)


def base(folder: Path, tensors: Mapping[str, torch.Tensor], **config: Any) -> InstalledModule:
    """Return a base of these tensors."""
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **config}
    return module(folder, "base", "base", tensors, config=config)


def adapter(
    folder: Path,
    name: str,
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    **config: Any,
) -> InstalledModule:
    """Return a LoRA adapter of (A, B) by module path."""
    tensors = {}
    for path, (a, b) in pairs.items():
        tensors[f"{PREFIX}{path}.lora_A.weight"] = a
        tensors[f"{PREFIX}{path}.lora_B.weight"] = b
    return module(folder, name, "adapter", tensors, adapter_config={**LORA, **config})


def planned(
    *modules: InstalledModule,
    steps: list[Step] | None = None,
    dtype: DTypeName | None = None,
    scales: list[float] | None = None,
) -> Composition:
    """Return the plan of the first module with ``lora`` steps of the others, or with ``steps``."""
    if steps is None:
        each = scales or [1.0] * (len(modules) - 1)
        steps = [
            Step(op="lora", module=ModuleName(m.name), scale=scale)
            for m, scale in zip(modules[1:], each, strict=True)
        ]
    recipe = Compose(base=ModuleName(modules[0].name), steps=tuple(steps), dtype=dtype)
    return plan("model", "1.0", recipe, {m.name: m for m in modules})


def values(tensors: Mapping[str, TensorRef]) -> dict[str, torch.Tensor]:
    """Return the tensors that references point to."""
    return map_tensors(tensors.items())


def raw(ref: TensorRef) -> bytes:
    """Return the bytes that a reference points to."""
    return Path(ref.file).read_bytes()[ref.offset : ref.offset + ref.length]
