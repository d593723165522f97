"""``why``."""

from __future__ import annotations

import itertools

import click

from modpkg.cli.installed import find_installed, find_installed_module
from modpkg.cli.options import json_option, user_option, with_workspace
from modpkg.cli.output import faint, note, print_json, say, strong
from modpkg.environment.graph import Graph, shown_requirement
from modpkg.environment.workspace import Workspace

MOST_PATHS = 500
"""Most paths that ``why`` shows: there can be more of them than atoms."""


@click.command("why")
@click.argument("name")
@user_option
@json_option
@with_workspace
def why_command(workspace: Workspace, name: str, as_json: bool) -> None:
    """Show every path of requirements that leads to a module, the shortest first."""
    generation = find_installed(workspace)
    graph = Graph(generation)
    module = find_installed_module(graph, workspace, name)
    found = list(itertools.islice(graph.paths(module.name), MOST_PATHS + 1))
    paths = sorted(found[:MOST_PATHS], key=len)
    if len(found) > MOST_PATHS:
        note(f"There are more paths than these {MOST_PATHS}.")
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
