"""``remove``."""

from __future__ import annotations

import click

from modpkg.cli.install import carry_out
from modpkg.cli.module_names import locked_names
from modpkg.cli.options import accept_option, project_options, with_workspace
from modpkg.environment.plan import InstallRequest
from modpkg.environment.workspace import Workspace


@click.command("remove")
@click.argument("names", nargs=-1, required=True, shell_complete=locked_names)
@click.option("--dry-run", is_flag=True, help="Show what would be removed; change nothing.")
@accept_option
@project_options
@with_workspace
def remove_command(
    workspace: Workspace, names: tuple[str, ...], dry_run: bool, as_json: bool
) -> None:
    """Remove modules from the manifest and, with unused dependencies, from the environment."""
    carry_out(workspace, InstallRequest(remove=names), dry_run=dry_run, as_json=as_json)
