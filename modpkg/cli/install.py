"""``install``, and how every change of an environment is carried out and shown."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from modpkg.cli.options import (
    policy_options,
    project_options,
    upgrade_options,
)
from modpkg.cli.output import (
    TerminalProgress,
    bad,
    counted,
    faint,
    good,
    print_json,
    say,
    strong,
)
from modpkg.core.errors import LockError, UsageError
from modpkg.core.files import human_bytes
from modpkg.environment.generations import EXACT, Environment, Generation
from modpkg.environment.project import Project, find_project

if TYPE_CHECKING:  # imported when there is something to do, so that nothing to do is quick
    from modpkg.environment.plan import Change, InstallPlan, Request
    from modpkg.manifest.schema import Strategy


_WAITING = "Waiting for another modpkg command on this environment …"


@click.command("install")
@click.argument("requirements", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Show what would happen, and change nothing.")
@click.option("--frozen", is_flag=True, help="Install exactly the lock; fail if it is stale.")
@click.option("--strict", is_flag=True, help="Refuse modules made for other weights (drift).")
@upgrade_options
@policy_options
@project_options
def install_command(
    requirements: tuple[str, ...],
    dry_run: bool,
    frozen: bool,
    strict: bool,
    upgrade: bool,
    upgrade_package: tuple[str, ...],
    resolution: Strategy | None,
    exclude_newer: str | None,
    registry: str | None,
    offline: bool,
    user: bool,
    as_json: bool,
) -> None:
    """Install modules, or, with no argument, what the lock file says.

    Inside a project the manifest is edited and locked; elsewhere the modules go into your own
    environment. A requirement is written "summarizer>=2.1" (with quotes), summarizer@2.1 or
    summarizer@^2.1.
    """
    if frozen and (requirements or upgrade or upgrade_package):
        raise UsageError(
            "M901", message="--frozen installs what the lock has; name no module with it."
        )
    project = find_project(user=user)
    if not (requirements or strict or upgrade or upgrade_package or resolution or exclude_newer):
        environment = Environment(project.environment)
        lock_text = _lock_text(project)
        if frozen and lock_text is None:
            raise LockError("M411", path=project.lock_path)
        if environment.answers(project.text(), lock_text):
            environment.tidy()
            _report_nothing(environment, as_json)
            return
    from modpkg.core.names import parse_requirement
    from modpkg.environment.plan import Request

    request = Request(
        add=[parse_requirement(text) for text in requirements],
        registry=registry,
        upgrade=None if upgrade else upgrade_package,
        strategy=resolution,
        exclude_newer=exclude_newer,
        frozen=frozen,
        offline=offline,
        strict=strict,
    )
    carry_out(project, request, dry_run=dry_run, json_wanted=as_json)


def carry_out(
    project: Project,
    request: Request,
    *,
    dry_run: bool,
    json_wanted: bool,
    told: Mapping[str, Any] | None = None,
) -> None:
    """Plan and install; ``told`` is what else JSON has to say."""
    from modpkg.core.home import store_folder
    from modpkg.environment.install import apply_install
    from modpkg.environment.plan import plan_install
    from modpkg.manifest.config import read_settings
    from modpkg.store.garbage import collect_over
    from modpkg.store.store import Store

    begun = time.monotonic()
    environment = Environment(project.environment)
    store = Store(store_folder())
    with TerminalProgress() as progress:
        if dry_run:
            with store.lock():
                plan = plan_install(project, request, store, progress)
            progress.close()
            _show_plan(plan, json_wanted, told or {})
            return
        with environment.exclusive(_WAITING), store.lock():
            plan = plan_install(project, request, store, progress)
            if _is_done(environment, plan):
                _warn_of_drift(environment.current(), progress)
                environment.prune()
                _report_nothing(environment, json_wanted, told or {})
                return
            generation = apply_install(plan, store, progress, frozen=request.frozen)
            _warn_of_drift(generation, progress)
        if (cap := read_settings().max_size) is not None:
            collect_over(store, cap, now=time.time(), warn=progress.warn)
    if json_wanted:
        print_json({**_plan_document(plan), "generation": generation.number, **(told or {})})
        return
    show_changes(plan.changes)
    if not plan.changes:
        say("No version changes.")
    seconds = time.monotonic() - begun
    runnable = [recipe.name for recipe in plan.recipes]
    say(
        f"{good('Installed')} {counted(len(generation.modules), 'module')} in {seconds:.1f} s "
        f"({human_bytes(plan.transfer.missing)} fetched, "
        f"{human_bytes(plan.compose_bytes)} composed)."
    )
    if runnable and request.add:
        say(faint(f"Run it: modpkg run {runnable[-1]} FILE"))


def _warn_of_drift(generation: Generation | None, progress: TerminalProgress) -> None:
    for module in generation.modules if generation is not None else ():
        for base, fit in module.fits.items():
            if fit != EXACT:
                progress.warn(f"{module.name} was made for other weights of {base}: {fit}.")


def _is_done(environment: Environment, plan: InstallPlan) -> bool:
    """Say whether the plan would make a generation that is the current one over again."""
    from modpkg.resolve.lock import format_lock

    lock_text = _lock_text(plan.project)
    return (
        lock_text == format_lock(plan.lock)
        and plan.project.text() == plan.manifest_text
        and environment.answers(plan.manifest_text, lock_text)
    )


def _lock_text(project: Project) -> str | None:
    try:
        return project.lock_path.read_text("utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _report_nothing(
    environment: Environment, json_wanted: bool, told: Mapping[str, Any] = MappingProxyType({})
) -> None:
    current = environment.current()
    count = len(current.modules) if current is not None else 0
    if json_wanted:
        print_json({"changes": [], "generation": current.number if current else None, **told})
    else:
        verb = "is" if count == 1 else "are"
        say(f"Nothing to do: {counted(count, 'module')} {verb} installed as the lock says.")


def show_changes(changes: Sequence[Change]) -> None:
    for change in changes:
        if change.before is None:
            say(f" {good('+')} {change.name} {change.after}")
        elif change.after is None:
            say(f" {bad('-')} {change.name} {change.before}")
        else:
            say(f" {good('~')} {change.name} {change.before} -> {change.after}")


def _plan_document(plan: InstallPlan) -> dict[str, Any]:
    return {
        "changes": list(plan.changes),
        "modules": [
            {
                "name": module.name,
                "version": module.version,
                "kind": module.kind,
                "registry": module.registry,
                "fetch": plan.transfer.missing_of(module.name),
            }
            for module in plan.lock.module
        ],
        "fits": {f"{fit.module} on {fit.base} {fit.base_version}": fit.text() for fit in plan.fits},
        "licenses": {"modules": plan.licences},
        "fetch": plan.transfer.missing,
        "here": plan.transfer.here,
        "compose": plan.compose_bytes,
        "disk": plan.disk,
        "compose_memory": plan.compose_memory,
        "models": [recipe.name for recipe in plan.recipes],
    }


def _show_plan(plan: InstallPlan, json_wanted: bool, told: Mapping[str, Any]) -> None:
    if json_wanted:
        print_json({**_plan_document(plan), "dry_run": True, **told})
        return
    show_changes(plan.changes)
    if not plan.changes:
        say("No version changes.")
    for module in plan.lock.module:
        missing = plan.transfer.missing_of(module.name)
        what = f"fetch {human_bytes(missing)}" if missing else "here already"
        say(f"   {strong(module.name)} {module.version} ({module.kind}): {what}")
    for fit in plan.fits:
        say(f"   {fit.module} on {fit.base} {fit.base_version}: {fit.text()}")
    say(
        f"To fetch {human_bytes(plan.transfer.missing)}; here already "
        f"{human_bytes(plan.transfer.here)}; to compose {human_bytes(plan.compose_bytes)} "
        f"in at most {human_bytes(plan.compose_memory)} of memory; "
        f"disk needed {human_bytes(plan.disk)}."
    )
    say("Dry run: nothing was changed.")
