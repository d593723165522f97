"""``lock``."""

from __future__ import annotations

import click

from modpkg.cli.options import policy_options, project_options, upgrade_options
from modpkg.cli.output import TerminalProgress, counted, good, print_json, say
from modpkg.core.errors import LockError
from modpkg.core.files import shown, write_atomically
from modpkg.core.home import store_folder
from modpkg.environment.locking import current_lock, make_lock
from modpkg.environment.policy import with_flags
from modpkg.environment.project import find_project
from modpkg.manifest.schema import Strategy
from modpkg.resolve.lock import Lock, read_lock


@click.command("lock")
@click.option("--check", is_flag=True, help="Only say whether the lock answers the manifest.")
@upgrade_options
@policy_options
@project_options
def lock_command(
    check: bool,
    upgrade: bool,
    upgrade_package: tuple[str, ...],
    resolution: Strategy | None,
    exclude_newer: str | None,
    registry: str | None,
    offline: bool,
    user: bool,
    as_json: bool,
) -> None:
    """Resolve the manifest's dependencies and write modpkg.lock.

    What the lock has is kept where it still fits; --upgrade takes the newest.
    """
    project = find_project(user=user)
    manifest = with_flags(project.parse(), strategy=resolution, exclude_newer=exclude_newer)
    if check:
        lock = current_lock(project, manifest, read_lock(project.lock_path))
        _report(lock, as_json, f"{shown(project.lock_path)} answers {manifest.path.name}")
        return
    from modpkg.environment.registries import Registries  # a check reads no registry
    from modpkg.store.store import Store

    with TerminalProgress() as progress:
        try:
            previous = read_lock(project.lock_path)
        except LockError as error:
            progress.warn(f"{error} It is made anew now.")
            previous = None
        registries = Registries(
            manifest,
            Store(store_folder()).blobs,
            default=registry,
            offline=offline,
            warn=progress.warn,
        )
        locked = make_lock(
            manifest, registries, previous, upgrade=None if upgrade else upgrade_package
        )
        for warning in locked.warnings:
            progress.warn(warning)
    write_atomically(project.lock_path, locked.text.encode())
    _report(locked.lock, as_json, f"{good('Locked')} {shown(project.lock_path)}")


def _report(lock: Lock, json_wanted: bool, text: str) -> None:
    if json_wanted:
        print_json(lock)
    else:
        say(f"{text}: {counted(len(lock.module), 'module')}.")
