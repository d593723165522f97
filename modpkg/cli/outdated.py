"""``why-not`` and ``outdated``: what is chosen, beside what could be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from modpkg.cli.install import show_changes
from modpkg.cli.options import project_options
from modpkg.cli.output import TerminalProgress, good, print_json, say, strong, table
from modpkg.core.errors import UsageError
from modpkg.environment.project import find_project

if TYPE_CHECKING:
    from modpkg.environment.preview import Trial


def _trial(progress: TerminalProgress, registry: str | None, offline: bool, user: bool) -> Trial:
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


@click.command("why-not")
@click.argument("requirement", metavar="NAME==VERSION")
@project_options
def why_not_command(
    requirement: str, registry: str | None, offline: bool, user: bool, as_json: bool
) -> None:
    """Say what forbids a version that is not chosen, or which command takes it.

    The version is tried: everything is resolved once more with it, and nothing is changed.
    """
    from packaging.version import Version

    from modpkg.core.names import ModuleName, parse_requirement
    from modpkg.environment.why_not import why_not

    asked = parse_requirement(requirement)
    exact = [item for item in asked.specifier if item.operator == "=="]
    if len(exact) != 1 or len(asked.specifier) != 1 or exact[0].version.endswith(".*"):
        raise UsageError("M901", message=f'Name one version: modpkg why-not "{asked.name}==1.0.0"')
    with TerminalProgress() as progress:
        trial = _trial(progress, registry, offline, user)
        progress.stage("Resolving")
        answer = why_not(trial, ModuleName(asked.name), Version(exact[0].version))
    if as_json:
        print_json(answer)
        return
    this = f"{strong(answer.name)} {answer.version}"
    if answer.verdict == "chosen":
        say(f"{this} is what is chosen.")
    elif answer.verdict == "forbidden":
        say(f"{this} cannot be chosen:")
        say(answer.explanation)
        if answer.command is not None:
            say(f"What {trial.manifest.path.name} asks of {answer.name} is all that forbids it.")
    else:
        say(f"Nothing forbids {this}. {answer.explanation}")
    if answer.command is not None:
        say(f"This takes it: {good(answer.command)}")
        show_changes(answer.changes)


@click.command("outdated")
@project_options
def outdated_command(registry: str | None, offline: bool, user: bool, as_json: bool) -> None:
    """List locked modules for which there is a newer version.

    Update is what 'modpkg update' would take, within what the manifest asks for; Newest is the
    newest release there is.
    """
    from modpkg.environment.outdated import outdated

    with TerminalProgress() as progress:
        trial = _trial(progress, registry, offline, user)
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
