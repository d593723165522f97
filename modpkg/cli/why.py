"""``why``."""

from __future__ import annotations

import itertools

import click

from modpkg.cli.installed import find_assembly, find_installed, find_installed_module
from modpkg.cli.module_names import locked_names
from modpkg.cli.options import json_option, user_option, with_workspace
from modpkg.cli.output import faint, note, print_json, say, strong
from modpkg.environment.graph import Graph, shown_requirement
from modpkg.environment.workspace import Workspace

MAX_PATHS = 500
"""Maximum number of paths that ``why`` shows; there can be exponentially many."""


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
            step = {"name": assembly.name, "version": assembly.version, "required": required}
            print_json([[step]])
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
        print_json(
            [
                [
                    {
                        "name": step.name,
                        "version": graph.modules[step.name].version,
                        "required": shown_requirement(step),
                    }
                    for step in path
                ]
                for path in paths
            ]
        )
        return
    for path in paths:
        steps = ["the manifest"]
        steps += [
            f"{strong(step.name)} {graph.modules[step.name].version} "
            + faint(f"({shown_requirement(step)})")
            for step in path
        ]
        say(" -> ".join(steps))
