"""``version``."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec import Struct

from modpkg.cli.options import json_option, with_workspace
from modpkg.cli.output import print_json, say
from modpkg.community.modules.project import module_project, module_table
from modpkg.core.errors import UsageError
from modpkg.core.names import parse_version
from modpkg.environment.workspace import Workspace
from modpkg.manifest.bump import LEVELS, BumpLevel, bumped
from modpkg.manifest.edit import set_version
from modpkg.manifest.editor_schema import refresh_schema


class VersionDocument(Struct, frozen=True):
    """A module's version."""

    name: str
    before: str
    version: str
    """The new one; the same if it was only shown."""


@click.command("version")
@click.argument("version", required=False)
@click.option("--bump", type=click.Choice(LEVELS), help="Raise the version by a level.")
@click.option("--dry-run", is_flag=True, help="Only show the new version.")
@json_option
@with_workspace
def version_command(
    workspace: Workspace,
    version: str | None,
    bump: BumpLevel | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Show the module's version in its manifest, or set it: to VERSION, or by --bump.

    'modpkg check' tells which level the changes since the last release require. "stable" makes
    1.2.0rc1 the final 1.2.0.
    """
    if version is not None and bump is not None:
        raise UsageError("M901", message="give either VERSION or --bump.")
    project = module_project(Path(), workspace)
    module = module_table(project.manifest)
    new = module.version
    if version is not None:
        new = parse_version(version)
    elif bump is not None:
        new = bumped(module.version, bump)
    changed = new != module.version
    if changed and not dry_run:
        text = set_version(project.text, str(new))
        project.project.parse(text)
        project.project.write(text)
        refresh_schema(project.project.folder)
    if as_json:
        print_json(VersionDocument(module.name, str(module.version), str(new)))
    elif changed:
        say(f"{module.name} {module.version} -> {new}")
    else:
        say(f"{module.name} {module.version}")
