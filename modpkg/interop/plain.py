"""Plain safetensors files: tensors, and nothing that says what they are."""

from __future__ import annotations

from pathlib import Path

from modpkg.core.errors import ConversionError
from modpkg.core.files import copy_file
from modpkg.core.packs import read_pack_header
from modpkg.interop.hf import readable
from modpkg.interop.module_project import files_of, license_of, new_project, write_manifest
from modpkg.interop.weights import write_weights


def import_plain(
    source: Path, out: Path, name: str, version: str, *, license: str | None = None
) -> list[str]:
    """Write a module of kind ``base`` from one safetensors file, and return warnings.

    Without a config.json beside its weights the module does not run by itself; other modules can
    be built and compared against it.

    Raises:
        ConversionError: it is no such file. ConversionError, PackError, InstallError.
    """
    if not source.is_file() or source.suffix != ".safetensors":
        raise ConversionError(
            "M801",
            path=source,
            reason="it is not a .safetensors file ('modpkg import hf' takes a directory)",
        )
    read_pack_header(source.resolve())
    spdx, warnings = license_of(source.parent, license)
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
    """Write an installed model's weights alone; return the file names.

    Raises:
        ConversionError, InstallError, EnvironmentDamaged.
    """
    model = readable(folder, "safetensors")
    with new_project(out) as staged:
        write_weights(model.tensors, packs, staged)
    return files_of(out)
