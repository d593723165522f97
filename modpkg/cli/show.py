"""``show``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click
from msgspec import UNSET, Struct, UnsetType

from modpkg.cli.installed import find_assembly, find_installed, find_installed_module
from modpkg.cli.module_names import installed_names
from modpkg.cli.options import json_option, user_option, with_workspace
from modpkg.cli.output import faint, print_json, say, strong
from modpkg.core.files import human_bytes
from modpkg.core.installed import InstalledModel
from modpkg.environment.generations import ModuleState
from modpkg.environment.graph import Graph
from modpkg.environment.workspace import Workspace


class ShowDocument(Struct, frozen=True, kw_only=True):
    """An installed module, or a model of the manifest."""

    name: str
    runs: bool
    """Whether it is a model that can be loaded."""
    module: ModuleState | UnsetType = UNSET
    """Left out for a model of the manifest, which has no release."""
    modules: dict[str, str] | UnsetType = UNSET
    """Of a model: the versions of what it is composed of, by name."""
    task: dict[str, Any] | UnsetType | None = UNSET
    """Of a model: its ``[task]``."""
    key: str | UnsetType = UNSET
    """Of a model: digest of the composition's inputs."""
    result: str | UnsetType | None = UNSET
    """Of a model: digest of its weights; null until it is composed."""


@click.command("show")
@click.argument("name", shell_complete=installed_names)
@user_option
@json_option
@with_workspace
def show_command(workspace: Workspace, name: str, as_json: bool) -> None:
    """Show details of an installed module: origin, requirements, fit and composition.

    'modpkg info' shows what a registry has of a module, installed or not.
    """
    generation = find_installed(workspace)
    if (assembly := find_assembly(generation, workspace, name)) is not None:
        _show_assembly(assembly, workspace, as_json)
        return
    module = find_installed_module(Graph(generation), workspace, name)
    runnable = generation.models.get(module.name)
    if as_json:
        model = None if runnable is None else workspace.environment.model(module.name)
        print_json(_document(module.name, model, module))
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
        fields += _model_fields(workspace.environment.model(module.name))
    _say_fields(fields)


def _show_assembly(model: InstalledModel, workspace: Workspace, as_json: bool) -> None:
    """Show a model of the manifest, which has no release."""
    if as_json:
        print_json(_document(model.name, model))
        return
    say(strong(model.name))
    say(faint(f"(a model of {workspace.project.manifest_path.name}: [models.{model.name}])"))
    _say_fields(_model_fields(model))


def _document(
    name: str, model: InstalledModel | None, module: ModuleState | UnsetType = UNSET
) -> ShowDocument:
    if model is None:
        return ShowDocument(name=name, runs=False, module=module)
    return ShowDocument(
        name=name,
        runs=True,
        module=module,
        modules=model.modules,
        task=model.task,
        key=model.key,
        result=model.result,
    )


def _model_fields(model: InstalledModel) -> list[tuple[str, str]]:
    task = model.task or {}
    return [
        ("Task", str(task.get("kind", "from the architecture"))),
        ("Composed", ", ".join(f"{part} {version}" for part, version in model.modules.items())),
        ("Result", model.result or "composed when it is first loaded"),
    ]


def _say_fields(fields: Iterable[tuple[str, str]]) -> None:
    for label, text in fields:
        say(f"  {label + ':':<10} {text}")
