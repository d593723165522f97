"""``tree``."""

from __future__ import annotations

import click
from msgspec import UNSET, Struct, UnsetType

from modpkg.cli.installed import find_assembly, find_installed, find_installed_module
from modpkg.cli.module_names import locked_names
from modpkg.cli.options import json_option, user_option, with_workspace
from modpkg.cli.output import faint, print_json, say, strong
from modpkg.environment.generations import EXACT
from modpkg.environment.graph import Graph, shown_requirement
from modpkg.environment.workspace import Workspace


class Branch(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A module with what it requires."""

    name: str
    version: str
    kind: str
    required: str | UnsetType = UNSET
    """The versions that the module above it requires; left out at the top."""
    fits: dict[str, str] | UnsetType = UNSET
    """By base, how the module fits; left out for what acts on none."""
    cycle: bool | UnsetType = UNSET
    """True where the module is above itself; ``requires`` is left out then."""
    requires: list[Branch] | UnsetType = UNSET


class TreeDocument(Struct, frozen=True):
    """The dependency tree."""

    modules: list[Branch]
    """The roots, or the one that was asked for."""


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
        print_json(TreeDocument([_branch(graph, top, UNSET, ()) for top in tops]))
        return
    for top in tops:
        _draw(_branch(graph, top, UNSET, ()), "", "")


def _branch(graph: Graph, name: str, required: str | UnsetType, above: tuple[str, ...]) -> Branch:
    module = graph.modules[name]
    requires = [
        _branch(graph, requirement.name, shown_requirement(requirement), (*above, name))
        for requirement in (() if name in above else graph.requirements(name))
    ]
    return Branch(
        name=name,
        version=module.version,
        kind=module.kind,
        required=required,
        fits=module.fits or UNSET,
        cycle=name in above or UNSET,
        requires=UNSET if name in above else requires,
    )


def _draw(branch: Branch, lead: str, below: str) -> None:
    text = f"{strong(branch.name)} {branch.version} {faint(branch.kind)}"
    if branch.required is not UNSET:
        text += faint(f" (needs {branch.required})")
    drifted = [fit for fit in (branch.fits or {}).values() if fit != EXACT]
    text += "".join(f" {fit}" for fit in drifted)
    if branch.cycle is True:
        text += faint(" (see above)")
    say(lead + text)
    children = branch.requires or []
    for number, child in enumerate(children):
        last = number == len(children) - 1
        _draw(child, below + ("└── " if last else "├── "), below + ("    " if last else "│   "))
