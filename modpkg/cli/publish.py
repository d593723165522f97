"""``publish``."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec.structs import asdict

from modpkg.cli.options import json_option, registry_option, with_workspace
from modpkg.cli.output import good, print_json, say, strong, tell
from modpkg.community.modules.project import module_project
from modpkg.core.files import human_bytes
from modpkg.core.records import IndexLine
from modpkg.environment.workspace import Workspace


class PublishDocument(IndexLine, kw_only=True):
    """A published release, as its registry's index has it."""

    dry_run: bool = False
    """Whether it was only checked; its ``published`` is empty then."""
    already: bool = False
    """Whether the registry had it before, so that nothing is written."""


@click.command("publish")
@click.argument("folder", type=click.Path(exists=True, path_type=Path), default=".")
@click.option(
    "--allow-breaking",
    metavar="WHY",
    help="Publish even if the changes require a higher version; the reason is recorded.",
)
@click.option("--dry-run", is_flag=True, help="Check everything; publish nothing.")
@registry_option
@json_option
@with_workspace
def publish_command(
    workspace: Workspace, folder: Path, allow_breaking: str | None, dry_run: bool, as_json: bool
) -> None:
    """Publish the release in FOLDER/dist to a registry, which is created if necessary.

    A published version is never replaced; publishing the same release again does nothing. A
    version lower than the changes require ('modpkg check') is refused.
    """
    from modpkg.community.semver.releases import publish_project

    project = module_project(folder, workspace)
    published, target, already = publish_project(project, allow_breaking, dry_run=dry_run)
    if as_json:
        print_json(PublishDocument(**asdict(published), dry_run=dry_run, already=already))
    elif already:
        tell(f"{strong(published.name)} {published.version} is in {target} already (0 B new).")
    elif dry_run:
        say(
            f"Would publish {strong(published.name)} {published.version} to {target} "
            f"({human_bytes(published.size)} new). Dry run: nothing was published."
        )
    else:
        tell(
            f"{good('Published')} {strong(published.name)} {published.version} to {target} "
            f"({human_bytes(published.size)} new)."
        )
