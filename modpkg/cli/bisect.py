"""``bisect``: find the module versions that broke a command."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modpkg.cli.module_names import files
from modpkg.cli.options import project_options, trial_options, with_workspace
from modpkg.cli.output import bad, counted, good, print_json, say, strong, tell
from modpkg.community.bisect.search import Culprit, SkippedMix
from modpkg.community.bisect.trials import Command
from modpkg.core.errors import LockError
from modpkg.core.filenames import LOCK_NAME, PYPROJECT
from modpkg.core.messages import TO_LOCK
from modpkg.environment.generations import Environment
from modpkg.environment.locking import pass_on
from modpkg.environment.plan import InstallRequest
from modpkg.environment.project import Project
from modpkg.environment.workspace import Workspace
from modpkg.resolve.lock import Lock, read_lock

if TYPE_CHECKING:
    from modpkg.community.bisect.bisect import Bisection
    from modpkg.community.bisect.update import TestedUpdate

_GENERATION = re.compile(r"@(\d{1,9})")


@click.command("bisect")
@click.argument("old", metavar="OLD.lock", shell_complete=files)
@click.argument("new", metavar="NEW.lock", shell_complete=files)
@click.argument("command", nargs=-1, required=True)
@trial_options
@project_options
@with_workspace
def bisect_command(
    workspace: Workspace,
    old: str,
    new: str,
    command: tuple[str, ...],
    timeout: float | None,
    repeat: int,
    fresh: bool,
    as_json: bool,
) -> None:
    """Find the module versions between two locks that break COMMAND.

    COMMAND passes with OLD.lock and fails with NEW.lock. Exit status 0 is good, 125 inconclusive,
    any other up to 127 bad. @3 in place of a file is the lock of generation 3.

    \b
      modpkg bisect OLD.lock modpkg.lock -- pytest -q tests/quality

    COMMAND runs in the current folder. In it, modpkg and modpkg.load use the versions that are
    tried, by the environment variable MODPKG_PROJECT. Your project and environment are not changed.
    """
    from modpkg.community.bisect.bisect import bisect
    from modpkg.community.bisect.session import open_session

    before, after = _lock(old, workspace.project), _lock(new, workspace.project)
    judged = Command(
        arguments=list(command),
        shown=shlex.join(command),
        folder=str(Path.cwd()),
        timeout=timeout,
        repeat=repeat,
    )
    with open_session(workspace, judged, InstallRequest(), fresh=fresh) as session:
        bisection = bisect(session, before, after, old=old, new=new)
    if as_json:
        print_json(bisection)
        return
    _show(bisection, workspace.project.manifest_path.name)


def tested(
    workspace: Workspace,
    text: str,
    request: InstallRequest,
    *,
    timeout: float | None,
    repeat: int,
    fresh: bool,
) -> TestedUpdate:
    """Return the newest set of versions with which a shell command, or [[tests]], passes."""
    from modpkg.community.bisect.session import open_session
    from modpkg.community.bisect.update import tested_update
    from modpkg.core.system import shell_command

    command = Command(
        arguments=shell_command(text) if text else [],
        shown=text or "[[tests]]",
        folder=str(Path.cwd() if text else workspace.project.folder),
        timeout=timeout,
        repeat=repeat,
    )
    with open_session(workspace, command, request, fresh=fresh) as session:
        update = tested_update(session)
    pass_on(workspace, workspace.manifest, session.registries, update.locked)
    return update


def show_tested(update: TestedUpdate, text: str) -> None:
    """Print what a tested update holds back, and why."""
    for held in update.held:
        beside = f" together with {', '.join(held.together)}" if held.together else ""
        say(
            f"{strong(held.name)} stays at {held.version}: tests fail with {held.bad}{beside} "
            f"(newest: {held.newest})."
        )
    show_skipped(update.skipped)
    if update.runs:
        runs = counted(update.runs, "run")
        tell(f"{good('Tested')}: {text or '[[tests]]'} passes, after {runs}.")


def _lock(text: str, project: Project) -> Lock:
    """Return the lock in a file, or of a generation.

    Raises:
        LockError: There is no such file, or it is malformed.
        InstallError: There is no such generation.
    """
    path = Path(text)
    if (generation := _GENERATION.fullmatch(text)) is not None:
        environment = Environment(project.environment)
        number = environment.previous_number(int(generation[1]))
        path = environment.folder(number) / LOCK_NAME
    lock = read_lock(path)
    if lock is None:
        own = path.absolute() == project.lock_path.absolute()
        other = "give the path of a lock file that exists, or '@' and the number of a generation"
        raise LockError("M411", path=path, remedy=TO_LOCK if own else other)
    return lock


def _show(bisection: Bisection, manifest: str) -> None:
    names = [strong(culprit.name) for culprit in bisection.blamed]
    if len(names) == 1:
        say(f"{names[0]} breaks it, of {counted(bisection.changes, 'changed module')}.")
    else:
        together = f"{', '.join(names[:-1])} and {names[-1]}"
        say(f"{together} break it together, of {bisection.changes} changed modules.")
    for culprit in bisection.blamed:
        say(f"  {_describe(culprit)}")
    for name in bisection.unproved:
        say(f"  It could not be tried without {name}.")
    show_skipped(bisection.skipped)
    earlier = f", {bisection.earlier} of them by an earlier command" if bisection.earlier else ""
    say(f"{counted(bisection.runs, 'run')} of {bisection.command!r}{earlier}.")
    if (keep := bisection.keep) is None:
        return
    say(f"\nTo exclude it, add to {manifest} and run 'modpkg update':\n")
    head = "[tool.modpkg.constraints]" if manifest == PYPROJECT else "[constraints]"
    say(f'  {head}\n  {keep.name} = "{keep.specifier}"\n')
    if keep.enough:
        say(f"{good('Verified')}: with this, and all else as in {bisection.new}, it passes.")
    elif keep.enough is None:
        say(f"This could not be tried with all else as in {bisection.new}: {keep.reason}")
    else:
        say(
            f"{bad('Not enough')}: with this, and all else as in {bisection.new}, it still "
            f"{keep.reason}; something else breaks it too. Update with it, and bisect again."
        )


def _describe(one: Culprit) -> str:
    """Return a sentence on the good and the bad versions of a culprit."""
    if one.old is None:
        return f"{one.name} {one.new} (added) is bad."
    if one.new is None:
        return f"{one.name} {one.old} (removed) is missing."
    if one.bad is None:
        return f"The requirement on {one.name} changed; its version is still {one.old}."
    if one.good is None:
        return f"{one.name} {one.bad} is bad."
    text = f"{one.name} {one.good} is good, {one.bad} is bad"
    if (one.old, one.new) != (one.good, one.bad):
        text += f" (updated from {one.old} to {one.new})"
    if one.untested:
        text += f"; {', '.join(one.untested)} between them could not be tried"
    if one.along:
        moves = [
            f"{change.name} {change.before or 'absent'} to {change.after or 'absent'}"
            for change in one.along
        ]
        text += f"; together with {', '.join(moves)}"
    return text + "."


def show_skipped(skipped: list[SkippedMix]) -> None:
    """Print the mixes that could not be tried."""
    if not skipped:
        return
    say("Could not be tried:")
    for one in skipped:
        say(f"  {one.mix}: {one.reason.splitlines()[0]}")
