"""Installed models and adapters as directories, written on first use and kept in a generation.

Their weights are linked, not copied, where the store has them as a file of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from modpkg.core.errors import ConversionError, InstallError
from modpkg.core.files import check_no_links, denied
from modpkg.core.names import module_name
from modpkg.environment.absent import nothing_installed
from modpkg.environment.workspace import Workspace
from modpkg.interop.hf import export_hf
from modpkg.interop.peft import base_names, export_peft, fetch_adapter
from modpkg.runtime.installed import find_model


def model_directory(workspace: Workspace, name: str) -> Path:
    """Return a directory with a model's weights, config and tokenizer; see `export_hf`.

    It is removed together with the generation.

    Raises:
        ConversionError: The model reads virtual tokens.
        InstallError: It is not installed, or the directory cannot be written.
        RunError: A module has this name, but it cannot be run.
        EnvironmentDamaged: The model's record is damaged.
        ModpkgError: Composing failed.
    """
    folder, packs = find_model(name, workspace, composed=False)
    out = folder.parents[1] / "directories" / folder.name

    def write() -> object:
        find_model(name, workspace)
        return export_hf(folder, packs, out, store=workspace.store)

    return _written(name, out, write)


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
        rename = base_names(workspace, adapter)
        return export_peft(adapter, out, scale=scale, rename=rename, store=workspace.store)

    return _written(name, out, write)


def _written(name: str, out: Path, write: Callable[[], object]) -> Path:
    """Return a directory, written unless it is there."""
    check_no_links(out.parent, out)
    if out.is_dir():
        return out
    try:
        write()
    except (ConversionError, InstallError, OSError) as error:
        if out.is_dir():  # another process was faster
            return out
        refusal = denied(error) if isinstance(error, OSError) else error
        if refusal is not None and refusal.code in ("M510", "M840"):
            reason = refusal.values["reason"]
            raise InstallError("M728", name=name, path=out.parent, reason=reason) from None
        raise
    return out
