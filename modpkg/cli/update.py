"""``update``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from modpkg.cli.install import carry_out
from modpkg.cli.options import (
    policy_options,
    project_options,
    trial_options,
)
from modpkg.core.errors import LockError, UsageError
from modpkg.environment.project import Project, find_project

if TYPE_CHECKING:  # imported when there is something to do, so that nothing to do is quick
    from modpkg.manifest.schema import Strategy


@click.command("update")
@click.argument("names", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Show what would happen, and change nothing.")
@click.option("--strict", is_flag=True, help="Refuse modules made for other weights (drift).")
@click.option(
    "--test",
    is_flag=False,
    flag_value="",
    metavar="[COMMAND]",
    help="Take only what COMMAND passes with; without COMMAND, the project's [[tests]].",
)
@trial_options
@policy_options
@project_options
def update_command(
    names: tuple[str, ...],
    dry_run: bool,
    strict: bool,
    test: str | None,
    timeout: float | None,
    repeat: int,
    fresh: bool,
    resolution: Strategy | None,
    exclude_newer: str | None,
    registry: str | None,
    offline: bool,
    user: bool,
    as_json: bool,
) -> None:
    """Take newer versions of modules, or of all, within what the manifest asks for.

    The manifest stays as it is. Named modules are updated; all others keep the version that the
    lock has, where that still fits.

    With --test the newest set of versions is taken with which COMMAND passes (its exit status is
    0; 125 says neither); what breaks it is held back. It runs in this folder, by the shell, and
    sees each set that is tried by the environment variable MODPKG_PROJECT. Nothing is switched
    before it has passed. --timeout, --repeat and --fresh are for --test.
    """
    from modpkg.environment.plan import Request

    project = find_project(user=user)
    if test is None and (timeout is not None or repeat > 1 or fresh):
        raise UsageError(
            "M901", message="--timeout, --repeat and --fresh say how to test; add --test."
        )
    request = Request(
        registry=registry,
        upgrade=_locked_names(project, names) if names else None,
        strategy=resolution,
        exclude_newer=exclude_newer,
        offline=offline,
        strict=strict,
    )
    if test is None:
        carry_out(project, request, dry_run=dry_run, json_wanted=as_json)
        return
    import msgspec

    from modpkg.cli.bisect import show_tested, tested

    update = tested(project, test, request, timeout=timeout, repeat=repeat, fresh=fresh)
    if not as_json:
        show_tested(update, test)
    request = msgspec.structs.replace(request, lock=update.lock)
    told = {"held": update.held, "skipped": update.skipped, "runs": update.runs}
    carry_out(project, request, dry_run=dry_run, json_wanted=as_json, told=told)


def _locked_names(project: Project, names: Sequence[str]) -> list[str]:
    """Return names in normal form; each has to be in the lock."""
    from modpkg.core.names import module_name
    from modpkg.resolve.lock import read_lock
    from modpkg.toml.node import hint

    lock = read_lock(project.lock_path)
    known = [module.name for module in lock.module] if lock is not None else []
    wanted = [module_name(name) for name in names]
    for name in wanted:
        if name not in known:
            near = hint(name, known).removesuffix("?")
            raise LockError("M402", name=name, path=project.lock_path, hint=near)
    return [str(name) for name in wanted]
