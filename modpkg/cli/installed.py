"""Looking up what is installed, for the commands that show it."""

from __future__ import annotations

from modpkg.core.installed import InstalledModel
from modpkg.core.names import module_name
from modpkg.environment.absent import not_installed, nothing_installed
from modpkg.environment.generations import Generation, ModuleState
from modpkg.environment.graph import Graph
from modpkg.environment.workspace import Workspace


def find_installed(workspace: Workspace) -> Generation:
    """Return the current generation.

    Raises:
        InstallError: Nothing is installed.
    """
    generation = workspace.environment.current()
    if generation is None:
        raise nothing_installed(workspace)
    return generation


def find_installed_module(graph: Graph, workspace: Workspace, text: str) -> ModuleState:
    """Return an installed module by its name.

    Raises:
        InstallError: No module of that name is installed.
    """
    name = module_name(text)
    if name not in graph.modules:
        raise not_installed(workspace, name, graph.modules)
    return graph.modules[name]


def find_assembly(generation: Generation, workspace: Workspace, text: str) -> InstalledModel | None:
    """Return the model of a ``[models.NAME]``, which is no module; None if the name is another.

    Raises:
        EnvironmentDamaged: Its record is missing or damaged.
    """
    name = module_name(text)
    if name not in generation.models or any(item.name == name for item in generation.modules):
        return None
    return workspace.environment.model(name)
