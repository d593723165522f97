"""``install``, and how a change of the environment is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from modpkg.cli.module_names import known_names
from modpkg.cli.options import (
    device_option,
    policy_options,
    project_options,
    strict_option,
    upgrade_options,
    with_workspace,
)
from modpkg.cli.output import bad, counted, faint, good, print_json, say, strong, tell
from modpkg.core.errors import LockError, UsageError
from modpkg.core.files import human_bytes
from modpkg.environment.workspace import Workspace
from modpkg.environment.yanked import yanked_since

if TYPE_CHECKING:
    from modpkg.community.bisect.update import TestedUpdate
    from modpkg.environment.install import Installation
    from modpkg.environment.plan import InstallPlan, InstallRequest, VersionChange
    from modpkg.environment.trust_news import TrustNews
    from modpkg.manifest.schema import Strategy


@click.command("install")
@click.argument("requirements", nargs=-1, shell_complete=known_names)
@click.option("--dry-run", is_flag=True, help="Show what would be installed; change nothing.")
@click.option("--frozen", is_flag=True, help="Install exactly the lock; fail if it is out of date.")
@click.option(
    "--candidate",
    "candidates",
    multiple=True,
    metavar="NAME#7",
    help="Try a release candidate in place of NAME's releases; repeatable.",
)
@upgrade_options
@strict_option
@policy_options
@device_option
@project_options
@with_workspace
def install_command(
    workspace: Workspace,
    requirements: tuple[str, ...],
    dry_run: bool,
    frozen: bool,
    candidates: tuple[str, ...],
    strict: bool,
    require_signed: bool,
    upgrade: bool,
    upgrade_package: tuple[str, ...],
    resolution: Strategy | None,
    exclude_newer: str | None,
    as_json: bool,
) -> None:
    """Install modules, or, without arguments, everything in the lock file.

    Inside a project the manifest is edited and locked; elsewhere the modules are installed into
    your user environment. A requirement is written "summarizer>=2.1" (with quotes), summarizer@2.1
    or summarizer@^2.1.

    With --candidate, a release that is proposed is installed, and the lock says so. Later installs
    keep to it until it is decided about, or 'modpkg update NAME' goes back to releases.

    What --registry names is written to the manifest: as the default registry where it has none,
    else for the modules that are named.
    """
    if frozen and (requirements or candidates or upgrade or upgrade_package):
        raise UsageError("M901", message="--frozen installs the lock; name no modules with it.")
    named = workspace.options.registry is not None and not frozen
    changed = requirements or candidates or upgrade or upgrade_package or named
    if not (changed or strict or require_signed or resolution or exclude_newer):
        if frozen and workspace.lock_text() is None:
            project = workspace.project
            raise LockError("M411", path=project.lock_path, remedy=project.to_lock)
        waits = workspace.waits_for_log()
        if not waits and workspace.is_up_to_date() and not workspace.forgets_signers():
            workspace.environment.tidy()
            for warning in yanked_since(workspace):
                workspace.progress.warn(warning)
            _show_nothing_to_do(workspace, as_json)
            return
    from modpkg.cli.added import added
    from modpkg.community.modules.reference import parse_candidate
    from modpkg.environment.plan import InstallRequest

    tried: dict[str, int] = dict(map(parse_candidate, candidates))
    lock = workspace.usable_lock() if tried else None
    known = () if lock is None else [module.name for module in lock.module]
    new = added((*requirements, *(name for name in tried if name not in known)))
    request = InstallRequest(
        add=new.requirements,
        add_of_hub=new.of_hub,
        upgrade=None if upgrade else upgrade_package,
        strategy=resolution,
        exclude_newer=exclude_newer,
        frozen=frozen,
        candidates=tried,
        strict=strict,
        require_signed=require_signed,
        remember=not frozen,
    )
    carry_out(workspace, request, dry_run=dry_run, as_json=as_json)


def carry_out(
    workspace: Workspace,
    request: InstallRequest,
    *,
    dry_run: bool,
    as_json: bool,
    tested: TestedUpdate | None = None,
) -> None:
    """Install, or only plan it, and print the result; ``tested`` is added to its JSON."""
    from modpkg.environment.install import install
    from modpkg.environment.plan import plan_install
    from modpkg.manifest.editor_schema import refresh_schema

    if dry_run:
        with workspace.store.lock():
            plan = plan_install(workspace, request)
        _show_plan(plan, as_json, tested)
        return
    begun = time.monotonic()
    installation = install(workspace, request)
    refresh_schema(workspace.project.folder)
    if not installation.changed:
        _show_nothing_to_do(workspace, as_json, tested)
    elif as_json:
        number = installation.generation.number
        _print_document(installation.plan, tested, generation=number)
    else:
        _show_installation(installation, time.monotonic() - begun)
        if step := _next_step(installation.plan, request):
            tell(faint(step))


def _print_document(
    plan: InstallPlan | None,
    tested: TestedUpdate | None,
    generation: int | UnsetType | None = UNSET,
) -> None:
    """Print what was installed, or without a generation would be, or None if nothing, as JSON."""
    from modpkg.cli.install_document import InstallDocument, plan_document

    document = InstallDocument(changes=()) if plan is None else plan_document(plan)
    if generation is UNSET:
        document = replace(document, dry_run=True)
    else:
        document = replace(document, generation=generation)
    if tested is not None:
        document = replace(document, held=tested.held, skipped=tested.skipped, runs=tested.runs)
    print_json(document)


def _show_nothing_to_do(
    workspace: Workspace, as_json: bool, tested: TestedUpdate | None = None
) -> None:
    current = workspace.environment.current()
    if as_json:
        number = None if current is None else current.number
        _print_document(None, tested, generation=number)
        return
    count = len(current.modules) if current is not None else 0
    verb = "is" if count == 1 else "are"
    tell(f"Nothing to do: {counted(count, 'module')} {verb} installed as locked.")


def _show_installation(installation: Installation, seconds: float) -> None:
    plan = installation.plan
    show_changes(plan.changes)
    if not plan.changes:
        tell("No version changes.")
    show_news(plan.news)
    of_hub = plan.workspace.open_registries.fetched_of_hub
    tell(
        f"{good('Installed')} {counted(len(installation.generation.modules), 'module')} in "
        f"{seconds:.1f} s ({human_bytes(plan.transfer.missing + of_hub)} fetched, "
        f"{human_bytes(plan.compose_bytes)} composed)."
    )


def _next_step(plan: InstallPlan, request: InstallRequest) -> str | None:
    """Return what can be done with what was asked for; None if none of it is a model."""
    from modpkg.core.names import module_name
    from modpkg.runtime.task_kinds import has_tokenizer, task_of_architecture

    models = {model.name: model for model in plan.recipes}
    names = [*(module_name(item.name) for item in request.add), *request.add_of_hub]
    asked = [name for name in names if name in models]
    if not asked:
        return None
    composition, task = plan.compositions[asked[0]], models[asked[0]].task
    named = composition.config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    known = task is not None or task_of_architecture(architecture, composition.files) is not None
    if known and has_tokenizer(composition.files):
        return f"Run it: modpkg run {asked[0]} FILE"
    return f"Load it in Python: modpkg.load({asked[0]!r})"


def show_news(news: Sequence[TrustNews], show: Callable[[str], None] = tell) -> None:
    """Show in one line what is new in a lock in terms of trust; nothing if nothing is."""
    if news:
        from modpkg.environment.trust_news import shown_news

        show(shown_news(news, datetime.now(timezone.utc)))


def show_changes(changes: Sequence[VersionChange], show: Callable[[str], None] = tell) -> None:
    for change in changes:
        if change.before is None:
            show(f" {good('+')} {change.name} {change.after}")
        elif change.after is None:
            show(f" {bad('-')} {change.name} {change.before}")
        else:
            show(f" {good('~')} {change.name} {change.before} -> {change.after}")


def _show_plan(plan: InstallPlan, as_json: bool, tested: TestedUpdate | None) -> None:
    if as_json:
        _print_document(plan, tested)
        return
    show_changes(plan.changes, say)
    if not plan.changes:
        say("No version changes.")
    show_news(plan.news, say)
    for module in plan.lock.module:
        missing = plan.transfer.missing_of(module.name)
        what = f"fetch {human_bytes(missing)}" if missing else "in the store"
        say(f"   {strong(module.name)} {module.version} ({module.kind}): {what}")
    for fit in plan.fits:
        say(f"   {fit.module} on {fit.base} {fit.base_version}: {fit.text()}")
    say(
        f"Would fetch {human_bytes(plan.transfer.missing)} "
        f"({human_bytes(plan.transfer.here)} in the store already) and compose "
        f"{human_bytes(plan.compose_bytes)} with at most {human_bytes(plan.compose_memory)} of "
        f"memory; needs {human_bytes(plan.disk)} of disk."
    )
    if of_hub := plan.workspace.open_registries.fetched_of_hub:
        say(f"{human_bytes(of_hub)} came of a hub already: only the bytes tell what they are.")
    say("Dry run: nothing was changed.")
