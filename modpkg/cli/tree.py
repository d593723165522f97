"""``tree``."""

from __future__ import annotations

from typing import Any

import click

from modpkg.cli.installed import find_assembly, find_installed, find_installed_module
from modpkg.cli.module_names import locked_names
from modpkg.cli.options import json_option, user_option, with_workspace
from modpkg.cli.output import faint, print_json, say, strong
from modpkg.environment.generations import EXACT
from modpkg.environment.graph import Graph, shown_requirement
from modpkg.environment.workspace import Workspace


@click.command("tree")
@click.argument("name", required=False, shell_complete=locked_names)
@user_option
@json_option
@with_workspace
def tree_command(workspace: Workspace, name: str | None, as_json: bool) -> None:
    """Show the dependency tree, from the roots or from one module."""
    generation = find_installed(workspace)
    graph = Graph(generation)
    if name is not None and (model := find_assembly(generation, workspace, name)) is not None:
        tops = [part for part in model.modules if part in graph.modules]
    elif name is not None:
        tops = [find_installed_module(graph, workspace, name).name]
    else:
        tops = [root.name for root in graph.roots]
    if as_json:
        print_json([_branch(graph, top, None, ()) for top in tops])
        return
    for top in tops:
        _draw(_branch(graph, top, None, ()), "", "")


def _branch(
    graph: Graph, name: str, required: str | None, above: tuple[str, ...]
) -> dict[str, Any]:
    module = graph.modules[name]
    branch: dict[str, Any] = {"name": name, "version": module.version, "kind": module.kind}
    if required is not None:
        branch["required"] = required
    if module.fits:
        branch["fits"] = module.fits
    if name in above:
        branch["cycle"] = True
        return branch
    branch["requires"] = [
        _branch(graph, requirement.name, shown_requirement(requirement), (*above, name))
        for requirement in graph.requirements(name)
    ]
    return branch


def _draw(branch: dict[str, Any], lead: str, below: str) -> None:
    text = f"{strong(branch['name'])} {branch['version']} {faint(branch['kind'])}"
    if "required" in branch:
        text += faint(f" (needs {branch['required']})")
    drifted = [fit for fit in branch.get("fits", {}).values() if fit != EXACT]
    text += "".join(f" {fit}" for fit in drifted)
    if branch.get("cycle"):
        text += faint(" (see above)")
    say(lead + text)
    children = branch.get("requires", [])
    for number, child in enumerate(children):
        last = number == len(children) - 1
        _draw(child, below + ("└── " if last else "├── "), below + ("    " if last else "│   "))
