"""Finding installed models: in the current project's environment, else in the user's."""

from __future__ import annotations

from pathlib import Path

from modpkg.core.errors import InstallError, RunError
from modpkg.core.files import denied
from modpkg.core.installed import read_installed
from modpkg.core.names import module_name
from modpkg.environment.absent import no_model_remedy, not_installed, nothing_installed
from modpkg.environment.workspace import Workspace


def find_model(name: str, workspace: Workspace, *, composed: bool = True) -> tuple[Path, Path]:
    """Return the folder of an installed model and the folder of its environment's packs.

    With ``composed``, a model that is composed when it is first loaded is composed now.

    Raises:
        InstallError: Nothing is installed, or no model has this name.
        RunError: A module has this name, but it cannot be run.
        ModpkgError: Composing failed; see `compose_at_load`.
    """
    wanted = module_name(name)
    environment = workspace.environment
    generation = environment.current()
    if generation is None:
        raise nothing_installed(workspace)
    if wanted in generation.models:
        folder = environment.folder(generation.number) / "models" / wanted
        if read_installed(folder, environment.packs).result is None and composed:
            _compose(workspace, generation.number, wanted)
        return folder, environment.packs
    for module in generation.modules:
        if module.name == wanted:
            remedy = no_model_remedy(workspace, wanted, module.kind)
            raise RunError("M701", name=wanted, kind=module.kind, remedy=remedy)
    raise not_installed(workspace, wanted, generation.models)


def _compose(workspace: Workspace, number: int, name: str) -> None:
    """Compose a model when it is first loaded.

    Raises:
        InstallError: Nothing can be written here.
    """
    from modpkg.environment.first_load import compose_at_load  # the resolver, and torch

    try:
        compose_at_load(workspace, number, name)
    except (InstallError, OSError) as error:
        refusal = denied(error) if isinstance(error, OSError) else error
        if refusal is None or refusal.code != "M510":
            raise
        path, reason = refusal.values["path"], refusal.values["reason"]
        raise InstallError("M840", name=name, path=path, reason=reason) from None
