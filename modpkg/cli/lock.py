"""``lock``."""

from __future__ import annotations

import click
from msgspec import UNSET, UnsetType, structs

from modpkg.cli.options import (
    policy_options,
    project_options,
    strict_option,
    upgrade_options,
    with_workspace,
)
from modpkg.cli.output import counted, good, print_json, tell
from modpkg.core.files import shown
from modpkg.environment.locking import update_lock
from modpkg.environment.policy import with_flags
from modpkg.environment.signed_registries import not_in_lock
from modpkg.environment.trust_news import TrustNews
from modpkg.environment.up_to_date import check_lock
from modpkg.environment.workspace import Workspace
from modpkg.manifest.editor_schema import refresh_schema
from modpkg.manifest.schema import Strategy
from modpkg.resolve.lock import Lock


class LockDocument(Lock, frozen=True, kw_only=True):
    """The lock, and what is new in it."""

    news: tuple[TrustNews, ...] | UnsetType = UNSET
    """In terms of trust; left out if nothing is."""


@click.command("lock")
@click.option("--check", is_flag=True, help="Only check whether the lock is up to date.")
@upgrade_options
@strict_option
@policy_options
@project_options
@with_workspace
def lock_command(
    workspace: Workspace,
    check: bool,
    upgrade: bool,
    upgrade_package: tuple[str, ...],
    strict: bool,
    require_signed: bool,
    resolution: Strategy | None,
    exclude_newer: str | None,
    as_json: bool,
) -> None:
    """Resolve the manifest's dependencies and write modpkg.lock.

    Locked versions are kept where they still fit; --upgrade prefers the newest.
    """
    manifest = with_flags(
        workspace.manifest,
        strategy=resolution,
        exclude_newer=exclude_newer,
        strict=strict,
        require_signed=require_signed,
    )
    path, news = shown(workspace.project.lock_path), tuple[TrustNews, ...]()
    if check:
        lock = check_lock(workspace, manifest)
        for warning in not_in_lock(lock, workspace.project.folder):
            workspace.progress.warn(warning)
        if manifest.resolution.strict:
            from modpkg.environment.fits import drifting, require_exact

            require_exact(drifting(workspace, manifest, lock))
        text = f"{path} is up to date with {manifest.path.name}"
    else:
        locked = update_lock(workspace, manifest, upgrade=None if upgrade else upgrade_package)
        lock, news = locked.lock, locked.news
        text = f"{good('Locked')} {path}"
        refresh_schema(workspace.project.folder)
    if as_json:
        print_json(LockDocument(**structs.asdict(lock), news=news or UNSET))
    else:
        if news:
            from modpkg.cli.install import show_news  # most locks have none

            show_news(news)
        tell(f"{text}: {counted(len(lock.module), 'module')}.")
