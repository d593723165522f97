"""Plain safetensors files: weights without a config."""

from __future__ import annotations

from pathlib import Path

from modpkg.core.errors import ConversionError
from modpkg.core.files import copy_file
from modpkg.core.packs import read_pack_header
from modpkg.interop.hf import read_exportable
from modpkg.interop.model_card import license_of, read_card
from modpkg.interop.module_project import files_of, new_project, write_manifest
from modpkg.interop.weights import write_weights


def import_plain(
    source: Path, out: Path, name: str, version: str, *, license: str | None = None
) -> list[str]:
    """Write a module of kind ``base`` from one safetensors file, and return warnings.

    Without a config.json the module cannot run by itself; other modules can be built on it.

    Raises:
        ConversionError: `source` is not a safetensors file.
        PackError: `source` is damaged.
        InstallError: `out` cannot be written.
    """
    if not source.is_file() or source.suffix != ".safetensors":
        raise ConversionError(
            "M801",
            path=source,
            reason="it is not a .safetensors file ('modpkg import hf' takes a directory)",
        )
    read_pack_header(source.resolve())
    spdx, warnings = license_of(read_card(source.parent), license)
    with new_project(out) as staged:
        copy_file(source.resolve(), staged / source.name)
        write_manifest(
            staged,
            name=name,
            version=version,
            kind="base",
            license=spdx,
            summary=f"Imported from {source.name}",
        )
    return warnings


def export_plain(folder: Path, packs: Path, out: Path) -> list[str]:
    """Write an installed model's weights only; return the file names.

    Raises:
        ConversionError: The model reads virtual tokens, or `out` is not empty.
        InstallError: `out` cannot be written.
        EnvironmentDamaged: The model's record is damaged.
    """
    model = read_exportable(folder, "safetensors")
    with new_project(out) as staged:
        write_weights(model.tensors, packs, staged)
    return files_of(out)
