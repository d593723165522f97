"""``tree``."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

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
    again: bool | UnsetType = UNSET
    """True where ``requires`` is left out, since the module has it elsewhere in the document."""
    requires: list[Branch] | UnsetType = UNSET


class TreeDocument(Struct, frozen=True, omit_defaults=True):
    """The dependency tree."""

    modules: list[Branch]
    """The roots, or the one that was asked for."""
    further: list[Branch] = []
    """Modules that are too deep in the tree to have their ``requires`` there, with it."""


DEEPEST = 50
"""Modules above one another in one tree; what is deeper gets a tree of its own."""
AGAIN = "(*)"
"""Stands where what a module requires is left out."""


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
    trees = Trees(graph)
    branches = [trees.branch(top) for top in tops]
    further = [*trees.further()]
    if as_json:
        print_json(TreeDocument(branches, further))
        return
    for branch in branches:
        _draw(branch, "", "")
    for branch in further:
        say(faint("further down:"))
        _draw(branch, "", "")
    if trees.left_out:
        say(faint(f"{AGAIN} what it requires is shown elsewhere"))


class Trees:
    """The branches of one document: each module has its requirements in one place."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._shown: set[str] = set()
        self._deeper: deque[str] = deque()
        self.left_out = False
        """Whether a module's requirements were left out in one place, since they are in another."""

    def branch(self, name: str) -> Branch:
        """Return the tree below a module."""
        return self._branch(name, UNSET, ())

    def further(self) -> Iterator[Branch]:
        """Yield the trees of modules that were too deep in those before."""
        while self._deeper:
            name = self._deeper.popleft()
            if name not in self._shown:
                yield self.branch(name)

    def _branch(self, name: str, required: str | UnsetType, above: tuple[str, ...]) -> Branch:
        module = self._graph.modules[name]
        below = self._graph.requirements(name)
        cycle = name in above
        again = not cycle and bool(below) and name in self._shown
        requires: list[Branch] | UnsetType = UNSET
        if below and not cycle and not again:
            if len(above) < DEEPEST:
                self._shown.add(name)
                requires = [
                    self._branch(item.name, shown_requirement(item), (*above, name))
                    for item in below
                ]
            else:
                again = True
                self._deeper.append(name)
        elif not below:
            requires = []
        self.left_out |= again
        return Branch(
            name=name,
            version=module.version,
            kind=module.kind,
            required=required,
            fits=module.fits or UNSET,
            cycle=cycle or UNSET,
            again=again or UNSET,
            requires=requires,
        )


def _draw(branch: Branch, lead: str, below: str) -> None:
    text = f"{strong(branch.name)} {branch.version} {faint(branch.kind)}"
    if branch.required is not UNSET:
        text += faint(f" (needs {branch.required})")
    drifted = [fit for fit in (branch.fits or {}).values() if fit != EXACT]
    text += "".join(f" {fit}" for fit in drifted)
    if branch.cycle is True:
        text += faint(" (see above)")
    if branch.again is True:
        text += faint(f" {AGAIN}")
    say(lead + text)
    children = branch.requires or []
    for number, child in enumerate(children):
        last = number == len(children) - 1
        _draw(child, below + ("└── " if last else "├── "), below + ("    " if last else "│   "))
