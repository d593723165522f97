"""``list``."""

from __future__ import annotations

import click

from modpkg.cli.installed import find_installed
from modpkg.cli.options import json_option, user_option, with_workspace
from modpkg.cli.output import print_json, say, table
from modpkg.core.files import human_bytes
from modpkg.environment.generations import ModuleState
from modpkg.environment.workspace import Workspace


@click.command("list")
@user_option
@json_option
@with_workspace
def list_command(workspace: Workspace, as_json: bool) -> None:
    """List installed modules, and the models that can be run."""
    generation = find_installed(workspace)
    if as_json:
        print_json(generation)
        return
    rows = [
        [m.name, _version(m), m.kind, human_bytes(m.size), m.summary] for m in generation.modules
    ]
    table(rows, ["Name", "Version", "Kind", "Size", "Summary"])
    say(f"\nModels: {', '.join(generation.models) or 'none'}")


def _version(module: ModuleState) -> str:
    """Return a module's version, and of a candidate that it is no release yet."""
    return f"{module.version} (#{module.candidate})" if module.candidate else module.version
