"""``list``, ``show``, ``tree`` and ``why``: reading what is installed."""

from __future__ import annotations

import difflib
import itertools
from typing import Any

import click

from modpkg.cli.options import json_option, user_option
from modpkg.cli.output import faint, note, print_json, say, strong, table
from modpkg.core.errors import InstallError
from modpkg.core.files import human_bytes
from modpkg.core.names import module_name
from modpkg.environment.generations import EXACT, Environment, Generation, ModuleState
from modpkg.environment.graph import Graph, shown_requirement
from modpkg.environment.project import find_project

MOST_PATHS = 500
"""Most paths that ``why`` shows: there can be more of them than atoms."""


def _installed(user: bool) -> tuple[Environment, Generation]:
    environment = Environment(find_project(user=user).environment)
    generation = environment.current()
    if generation is None:
        raise InstallError("M503", path=environment.root)
    return environment, generation


def _module(graph: Graph, environment: Environment, raw: str) -> ModuleState:
    name = module_name(raw)
    if name not in graph.modules:
        close = difflib.get_close_matches(name, graph.modules, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InstallError("M504", name=name, path=environment.root, hint=hint)
    return graph.modules[name]


@click.command("list")
@user_option
@json_option
def list_command(user: bool, as_json: bool) -> None:
    """List what is installed: modules, and the models that run."""
    _, generation = _installed(user)
    if as_json:
        print_json(generation)
        return
    rows = [[m.name, m.version, m.kind, human_bytes(m.size), m.summary] for m in generation.modules]
    table(rows, ["Name", "Version", "Kind", "Size", "Summary"])
    say(f"\nModels: {', '.join(generation.models) or 'none'}")


@click.command("show")
@click.argument("name")
@user_option
@json_option
def show_command(name: str, user: bool, as_json: bool) -> None:
    """Show one installed module: where it comes from, what it needs, how it fits."""
    environment, generation = _installed(user)
    module = _module(Graph(generation), environment, name)
    runnable = generation.models.get(module.name)
    if as_json:
        document = {"module": module, "runs": runnable is not None}
        if runnable is not None:
            model = environment.model(module.name)
            document |= {"task": model.task, "key": model.key, "result": model.result}
        print_json(document)
        return
    say(f"{strong(module.name)} {module.version}")
    say(module.summary or faint("(no summary)"))
    fields: list[tuple[str, str]] = [
        ("Kind", module.kind),
        ("Licence", module.license),
        ("Size", human_bytes(module.size)),
        ("Registry", module.registry),
        ("Release", module.release),
        ("Requires", ", ".join(module.requires) or "nothing"),
    ]
    fields += [("Fit", f"{fit} on {base}") for base, fit in module.fits.items()]
    if runnable is not None:
        model = environment.model(module.name)
        task = model.task or {}
        fields += [
            ("Task", str(task.get("kind", "from the architecture"))),
            ("Composed", ", ".join(f"{part} {version}" for part, version in model.modules.items())),
            ("Result", model.result),
        ]
    for label, text in fields:
        say(f"  {label + ':':<10} {text}")


@click.command("tree")
@click.argument("name", required=False)
@user_option
@json_option
def tree_command(name: str | None, user: bool, as_json: bool) -> None:
    """Show what depends on what, from the roots or from one module down."""
    environment, generation = _installed(user)
    graph = Graph(generation)
    if name is not None:
        tops = [_module(graph, environment, name).name]
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


@click.command("why")
@click.argument("name")
@user_option
@json_option
def why_command(name: str, user: bool, as_json: bool) -> None:
    """Show every path of requirements that leads to a module, the shortest first."""
    environment, generation = _installed(user)
    graph = Graph(generation)
    module = _module(graph, environment, name)
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
