"""``add``."""

from __future__ import annotations

import click

from modpkg.cli.added import added
from modpkg.cli.install import carry_out
from modpkg.cli.module_names import known_names
from modpkg.cli.options import (
    device_option,
    policy_options,
    project_options,
    strict_option,
    with_workspace,
)
from modpkg.core.errors import UsageError
from modpkg.environment.plan import InstallRequest
from modpkg.environment.workspace import Workspace
from modpkg.manifest.schema import Strategy


@click.command("add")
@click.argument("requirements", nargs=-1, required=True, shell_complete=known_names)
@click.option("--name", help="Name of a model of a hub. [default: its repository's]")
@click.option(
    "--against", metavar="NAME", help="Dependency that an adapter of a hub was trained on."
)
@click.option("--dry-run", is_flag=True, help="Show what would be installed; change nothing.")
@strict_option
@policy_options
@device_option
@project_options
@with_workspace
def add_command(
    workspace: Workspace,
    requirements: tuple[str, ...],
    name: str | None,
    against: str | None,
    dry_run: bool,
    strict: bool,
    require_signed: bool,
    resolution: Strategy | None,
    exclude_newer: str | None,
    as_json: bool,
) -> None:
    """Add modules to the project's manifest, and install them.

    The same as 'modpkg install' with these requirements, except that outside of a project it does
    not use your user environment unless --user says so. A model of a hub, which is in no registry,
    is named hf://ORG/NAME or hf://ORG/NAME@REVISION.
    """
    if workspace.project.is_user and not workspace.wants_user:
        raise UsageError(
            "M901",
            message="no project is around this folder; 'modpkg init' makes one, and --user adds "
            "the modules to your user environment.",
        )
    new = added(requirements, name, against)
    request = InstallRequest(
        add=new.requirements,
        add_of_hub=new.of_hub,
        strategy=resolution,
        exclude_newer=exclude_newer,
        strict=strict,
        require_signed=require_signed,
        remember=True,
    )
    carry_out(workspace, request, dry_run=dry_run, as_json=as_json)
