"""Looking up what is installed, for the commands that show it."""

from __future__ import annotations

import difflib

from modpkg.core.errors import InstallError
from modpkg.core.names import module_name
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
        raise InstallError("M503", path=workspace.environment.root)
    return generation


def find_installed_module(graph: Graph, workspace: Workspace, text: str) -> ModuleState:
    """Return an installed module by its name.

    Raises:
        InstallError: No module of that name is installed.
    """
    name = module_name(text)
    if name not in graph.modules:
        close = difflib.get_close_matches(name, graph.modules, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InstallError("M504", name=name, path=workspace.environment.root, hint=hint)
    return graph.modules[name]
