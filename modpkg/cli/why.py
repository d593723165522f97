"""``why``."""

from __future__ import annotations

import itertools

import click
from msgspec import Struct

from modpkg.cli.installed import find_assembly, find_installed, find_installed_module
from modpkg.cli.module_names import locked_names
from modpkg.cli.options import json_option, user_option, with_workspace
from modpkg.cli.output import faint, note, print_json, say, strong
from modpkg.environment.graph import Graph, shown_requirement
from modpkg.environment.workspace import Workspace

MAX_PATHS = 500
"""Maximum number of paths that ``why`` shows; there can be exponentially many."""


class PathStep(Struct, frozen=True):
    """A module on the way to the one that was asked for."""

    name: str
    version: str
    required: str
    """The versions that the module before it, or the manifest, requires."""


class WhyDocument(Struct, frozen=True):
    """Why a module is installed."""

    paths: list[list[PathStep]]
    """Paths of requirements from the manifest to the module, shortest first."""


@click.command("why")
@click.argument("name", shell_complete=locked_names)
@user_option
@json_option
@with_workspace
def why_command(workspace: Workspace, name: str, as_json: bool) -> None:
    """Show why a module is installed: every path of requirements to it, shortest first."""
    generation = find_installed(workspace)
    graph = Graph(generation)
    if (assembly := find_assembly(generation, workspace, name)) is not None:
        required = f"[models.{assembly.name}]"
        if as_json:
            step = PathStep(assembly.name, assembly.version, required)
            print_json(WhyDocument([[step]]))
        else:
            say(f"the manifest -> {strong(assembly.name)} {faint(f'({required})')}")
        return
    module = find_installed_module(graph, workspace, name)
    paths = list(itertools.islice(graph.paths(module.name), MAX_PATHS + 1))
    if len(paths) > MAX_PATHS:
        paths = paths[:MAX_PATHS]
        note(f"Only the first {MAX_PATHS} paths are shown.")
    paths.sort(key=len)
    if as_json:
        versions = {name: module.version for name, module in graph.modules.items()}
        steps = [
            [PathStep(step.name, versions[step.name], shown_requirement(step)) for step in path]
            for path in paths
        ]
        print_json(WhyDocument(steps))
        return
    for path in paths:
        shown = ["the manifest"]
        shown += [
            f"{strong(step.name)} {graph.modules[step.name].version} "
            + faint(f"({shown_requirement(step)})")
            for step in path
        ]
        say(" -> ".join(shown))
