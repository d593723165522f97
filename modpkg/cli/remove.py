"""``remove``."""

from __future__ import annotations

import click

from modpkg.cli.install import carry_out
from modpkg.cli.options import (
    project_options,
)
from modpkg.environment.project import find_project


@click.command("remove")
@click.argument("names", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Show what would happen, and change nothing.")
@project_options
def remove_command(
    names: tuple[str, ...],
    dry_run: bool,
    registry: str | None,
    offline: bool,
    user: bool,
    as_json: bool,
) -> None:
    """Take modules out of the manifest, and out of the environment with all that only they need."""
    from modpkg.environment.plan import Request

    request = Request(remove=names, registry=registry, offline=offline)
    carry_out(find_project(user=user), request, dry_run=dry_run, json_wanted=as_json)
