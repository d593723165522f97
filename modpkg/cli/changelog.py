"""``changelog``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modpkg.cli.module_names import names_or_files
from modpkg.cli.options import project_options, with_workspace
from modpkg.cli.output import print_json, say
from modpkg.core.errors import UsageError
from modpkg.environment.workspace import Workspace
from modpkg.resolve.lock import Lock, read_lock

if TYPE_CHECKING:
    from modpkg.community.semver.changelog import LockChanges, ReleaseChanges


@click.command("changelog")
@click.argument("before", metavar="A", shell_complete=names_or_files)
@click.argument("after", metavar="B", shell_complete=names_or_files)
@project_options
@with_workspace
def changelog_command(workspace: Workspace, before: str, after: str, as_json: bool) -> None:
    """Write what changed from A to B for people, in Markdown.

    A and B are two releases of a module (NAME==VERSION), or two lock files of an app.
    """
    from modpkg.community.semver.changelog import (
        LockChanges,
        changes_between,
        lock_changelog,
        lock_markdown,
        release_markdown,
    )
    from modpkg.community.semver.releases import named_line

    if "==" in before or "==" in after:
        one, two = (named_line(text, workspace.registries) for text in (before, after))
        if one.name != two.name:
            raise UsageError(
                "M901",
                message=f"{one.name} and {two.name} are two modules; a changelog is of one. "
                f"'modpkg diff {before} {after}' compares their weights.",
            )
        changes = changes_between(one, two, workspace, count=True)
        document: ReleaseChanges | LockChanges = changes
        text = release_markdown(changes)
    else:
        locked = lock_changelog(_lock(before), _lock(after), workspace)
        text = lock_markdown(locked)
        document = LockChanges(tuple(locked))
    if as_json:
        print_json(document)
    else:
        say(text.removesuffix("\n"))


def _lock(path: str) -> Lock:
    lock = read_lock(Path(path))
    if lock is None:
        raise UsageError(
            "M901",
            message=f"There is no lock file {path}; name two, or two releases as NAME==VERSION.",
        )
    return lock
