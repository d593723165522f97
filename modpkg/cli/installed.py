"""What is installed, for the commands that show it."""

from __future__ import annotations

import difflib

from modpkg.core.errors import InstallError
from modpkg.core.names import module_name
from modpkg.environment.generations import Environment, Generation, ModuleState
from modpkg.environment.graph import Graph
from modpkg.environment.project import find_project


def find_installed(user: bool) -> tuple[Environment, Generation]:
    environment = Environment(find_project(user=user).environment)
    generation = environment.current()
    if generation is None:
        raise InstallError("M503", path=environment.root)
    return environment, generation


def find_installed_module(graph: Graph, environment: Environment, raw: str) -> ModuleState:
    name = module_name(raw)
    if name not in graph.modules:
        close = difflib.get_close_matches(name, graph.modules, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InstallError("M504", name=name, path=environment.root, hint=hint)
    return graph.modules[name]
