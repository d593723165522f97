"""Installed models and adapters as directories, written on first use and kept in a generation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from modpkg.core.errors import ConversionError
from modpkg.core.names import module_name
from modpkg.environment.absent import nothing_installed
from modpkg.environment.workspace import Workspace
from modpkg.interop.hf import export_hf
from modpkg.interop.peft import base_names, export_peft, fetch_adapter


def directory_of(folder: Path, packs: Path) -> Path:
    """Return a directory with a model's weights, config and tokenizer; see `export_hf`.

    It is removed together with the generation.

    Raises:
        ConversionError: The model reads virtual tokens.
        InstallError: The directory cannot be written.
        EnvironmentDamaged: The model's record is damaged.
    """
    out = folder.parents[1] / "directories" / folder.name
    return _written(out, lambda: export_hf(folder, packs, out))


def adapter_directory(workspace: Workspace, name: str) -> Path:
    """Return a directory with an installed adapter that PEFT opens; see `export_peft`.

    It is removed together with the generation.

    Raises:
        ConversionError: It is not an adapter, nor a model of a base and one adapter.
        InstallError: It is not installed, or the directory cannot be written.
        ModpkgError: The store lacks it, and it cannot be fetched.
    """
    wanted, environment = module_name(name), workspace.environment
    number = environment.current_number()
    if number is None:
        raise nothing_installed(workspace)
    out = environment.folder(number) / "directories" / f"{wanted}.peft"

    def write() -> object:
        adapter, scale = fetch_adapter(workspace, wanted)
        return export_peft(adapter, out, scale=scale, rename=base_names(workspace, adapter))

    return _written(out, write)


def _written(out: Path, write: Callable[[], object]) -> Path:
    if not out.is_dir():
        try:
            write()
        except (ConversionError, OSError):
            if not out.is_dir():  # otherwise another process was faster
                raise
    return out
