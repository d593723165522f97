"""``update``."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from modpkg.cli.bisect import show_tested, tested
from modpkg.cli.install import carry_out
from modpkg.cli.module_names import locked_names
from modpkg.cli.options import (
    device_option,
    policy_options,
    project_options,
    strict_option,
    trial_options,
    with_workspace,
)
from modpkg.core.errors import LockError, UsageError
from modpkg.core.names import ModuleName, module_name
from modpkg.environment.plan import InstallRequest
from modpkg.environment.workspace import Workspace
from modpkg.manifest.schema import Manifest, Strategy
from modpkg.toml.node import hint


@click.command("update")
@click.argument("names", nargs=-1, shell_complete=locked_names)
@click.option("--dry-run", is_flag=True, help="Show what would be updated; change nothing.")
@click.option(
    "--test",
    is_flag=False,
    flag_value="",
    metavar="[COMMAND]",
    help="Update only as far as COMMAND passes; without COMMAND, the project's [[tests]].",
)
@trial_options
@strict_option
@policy_options
@device_option
@project_options
@with_workspace
def update_command(
    workspace: Workspace,
    names: tuple[str, ...],
    dry_run: bool,
    strict: bool,
    require_signed: bool,
    test: str | None,
    timeout: float | None,
    repeat: int,
    fresh: bool,
    resolution: Strategy | None,
    exclude_newer: str | None,
    as_json: bool,
) -> None:
    """Upgrade modules, or all of them, to the newest versions the manifest allows.

    The manifest is not changed. If NAMES are given, all other modules keep their locked versions
    as far as possible.

    With --test, COMMAND is run on the new versions, and those that break it are held back: the
    newest versions are installed with which it passes. COMMAND runs in the shell, in this folder;
    it exits with 0 to pass, and with 125 if the result is unknown. The environment variable
    MODPKG_PROJECT names the project with the versions under test. Your own environment is
    unchanged until COMMAND has passed. --timeout, --repeat and --fresh belong to --test.
    """
    if test is None and (timeout is not None or repeat > 1 or fresh):
        raise UsageError("M901", message="--timeout, --repeat and --fresh need --test.")
    request = InstallRequest(
        upgrade=_locked_names(workspace, names) if names else None,
        strategy=resolution,
        exclude_newer=exclude_newer,
        strict=strict,
        require_signed=require_signed,
    )
    if test is None:
        carry_out(workspace, request, dry_run=dry_run, as_json=as_json)
        return
    update = tested(workspace, test, request, timeout=timeout, repeat=repeat, fresh=fresh)
    if not as_json:
        show_tested(update, test)
    locked = update.locked
    request = msgspec.structs.replace(request, lock=locked.lock, news=locked.news)
    carry_out(workspace, request, dry_run=dry_run, as_json=as_json, tested=update)


def _locked_names(workspace: Workspace, names: Sequence[str]) -> list[str]:
    """Return names in normal form.

    Raises:
        LockError: A name is not in the lock.
    """
    lock = workspace.lock
    locked = [module.name for module in lock.module] if lock is not None else []
    wanted = [module_name(name) for name in names]
    for name in wanted:
        if name not in locked:
            instead = _instead(workspace.manifest, name, locked)
            raise LockError("M402", name=name, path=workspace.project.lock_path, hint=instead)
    return [str(name) for name in wanted]


def _instead(manifest: Manifest, name: ModuleName, locked: Sequence[str]) -> str:
    """Return what to do about a name that is not in the lock."""
    if name in manifest.models:
        modules = " ".join(manifest.models[name].modules())
        return f"; update what it is made of: run 'modpkg update {modules}'"
    if any(dependency.name == name for dependency in manifest.dependencies):
        return f"; {manifest.path.name} names it: run 'modpkg lock'"
    return hint(name, locked) or f"; run 'modpkg install {name}' to add it"
