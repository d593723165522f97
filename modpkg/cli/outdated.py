"""``outdated``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from modpkg.cli.options import project_options
from modpkg.cli.output import TerminalProgress, print_json, say, table
from modpkg.environment.project import find_project

if TYPE_CHECKING:
    from modpkg.environment.preview import Trial


def open_trial(
    progress: TerminalProgress, registry: str | None, offline: bool, user: bool
) -> Trial:
    from modpkg.core.home import store_folder
    from modpkg.environment.locking import stale_reason
    from modpkg.environment.preview import Trial
    from modpkg.environment.registries import Registries
    from modpkg.resolve.lock import read_lock
    from modpkg.store.store import Store

    project = find_project(user=user)
    manifest = project.parse()
    lock = read_lock(project.lock_path)
    if lock is not None and (reason := stale_reason(manifest, lock)) is not None:
        progress.warn(
            f"modpkg.lock is not what {manifest.path.name} asks for ({reason}); "
            "'modpkg lock' mends it."
        )
    blobs = Store(store_folder()).blobs
    registries = Registries(manifest, blobs, default=registry, offline=offline, warn=progress.warn)
    return Trial(manifest, registries, lock)


@click.command("outdated")
@project_options
def outdated_command(registry: str | None, offline: bool, user: bool, as_json: bool) -> None:
    """List locked modules for which there is a newer version.

    Update is what 'modpkg update' would take, within what the manifest asks for; Newest is the
    newest release there is.
    """
    from modpkg.environment.outdated import outdated

    with TerminalProgress() as progress:
        trial = open_trial(progress, registry, offline, user)
        progress.stage("Resolving")
        found = outdated(trial)
    if as_json:
        print_json(found)
    elif not found:
        say("Everything that is locked is the newest there is.")
    else:
        rows = [
            [row.name, row.locked, row.update or "(not needed)", row.newest, row.reason]
            for row in found
        ]
        table(rows, ["Name", "Locked", "Update", "Newest", "Why not the newest"])
