"""Adapter directories as PEFT saves them."""

from __future__ import annotations

from pathlib import Path

from modpkg.errors import ImportRefused
from modpkg.interop.module_project import copy_files, license_of, new_project, write_manifest
from modpkg.names import parse_requirement, specifier_text
from modpkg.packs import read_pack_header
from modpkg.release.data import read_json


def import_peft(
    source: Path,
    out: Path,
    name: str,
    version: str,
    *,
    base: str,
    license: str | None = None,
) -> list[str]:
    """Write a module of kind ``adapter`` from an adapter directory, and return warnings.

    ``base`` is the requirement on the base it was made for. Whether the adapter can be composed
    exactly is checked when it is built against that base.

    Raises:
        ImportRefused: it is no such directory, or its weights are a pickle.
        BadRequirement, FolderNotEmpty, PackError, DiskFull.
    """
    requirement = parse_requirement(base)
    if not (source / "adapter_config.json").is_file():
        raise ImportRefused(path=source, reason="it has no adapter_config.json")
    weights = source / "adapter_model.safetensors"
    if not weights.is_file():
        pickle = (source / "adapter_model.bin").is_file()
        raise ImportRefused(
            path=source,
            reason="its weights are a pickle (adapter_model.bin); load it with PEFT and save it "
            "with safe_serialization=True"
            if pickle
            else "it has no adapter_model.safetensors",
        )
    read_pack_header(weights.resolve())
    kind = read_json(source / "adapter_config.json").get("peft_type", "adapter")
    spdx, warnings = license_of(source, license)
    with new_project(out) as staged:
        left = copy_files(source, staged, skip=("*.bin", "checkpoint-*/*", "training_args*"))
        warnings += [f"left out: {item}" for item in left]
        write_manifest(
            staged,
            name=name,
            version=version,
            kind="adapter",
            license=spdx,
            summary=f"{kind} adapter for {requirement.name}",
            base=(requirement.name, specifier_text(requirement.specifier) or "*"),
        )
    return warnings
