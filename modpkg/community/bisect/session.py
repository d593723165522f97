"""Trial sessions: the project, registries and trials that a search works with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from modpkg.community.bisect.judges import CommandJudge, TestsJudge
from modpkg.community.bisect.lock_mixes import LockMixes
from modpkg.community.bisect.trials import Command, Trials
from modpkg.community.evaluate.test_runner import TestRunner
from modpkg.core.bounds import TEST_SECONDS
from modpkg.environment.generations import ModuleState
from modpkg.environment.plan import InstallRequest
from modpkg.environment.project import Project
from modpkg.environment.registries import Registries
from modpkg.environment.removed_modules import removed_by_user
from modpkg.environment.workspace import Workspace
from modpkg.manifest.edit import with_absolute_registries
from modpkg.resolve.lock import Lock


class TrialSession(Struct, frozen=True):
    """The context of one search."""

    project: Project
    """The user's project; it is only read."""
    trial_project: Project
    """The project that trials are installed into."""
    text: str
    """The user's manifest, with paths that are valid in the trial project."""
    registries: Registries
    request: InstallRequest
    """The options of every resolution and install."""
    trials: Trials
    report: Callable[[str], None]
    """Called with a line for each step."""
    warn: Callable[[str], None]
    """Called with a warning."""
    accepted: tuple[str, ...] = ()
    """As in `RegistryOptions`."""
    installed: Sequence[ModuleState] = ()
    """What the generations of the project's environment have, the newest first."""
    is_removed: Callable[[str], bool] = lambda name: False
    """Returns whether the user has removed a module; see `removed_by_user`."""

    def mixes(self, old: Lock, new: Lock) -> LockMixes:
        """Return the mixes of two locks."""
        return LockMixes(
            *(self.trial_project, self.text, old, new, self.registries),
            accepted=self.accepted,
            installed=self.installed,
        )


@contextlib.contextmanager
def open_session(
    workspace: Workspace, command: Command, request: InstallRequest, *, fresh: bool = False
) -> Iterator[TrialSession]:
    """Open the trials of a command; of the project's ``[[tests]]`` if it has no arguments.

    Each run is reported as a detail of the progress. Runs of an earlier command are reused unless
    ``fresh``; outcomes of ``[[tests]]`` are always taken from the store.
    """
    project, progress = workspace.project, workspace.progress
    own = workspace.manifest  # a mistake in it is named where it is, not in the trials' copy
    text = with_absolute_registries(workspace.text, project.folder)
    trial_project = Project(command.root / "project" / project.manifest_path.name)
    manifest, lock = trial_project.parse(text), workspace.usable_lock()
    registries = workspace.registries_for(manifest, lock, owner=own)
    with contextlib.ExitStack() as stack:
        if command.arguments:
            judge = CommandJudge(command, trial_project, request, workspace)
            trials = Trials(command, judge, progress, progress.detail)
        else:
            limit = command.timeout or TEST_SECONDS
            runner = stack.enter_context(TestRunner(workspace.store, progress, limit=limit))
            tests = TestsJudge(workspace, runner)
            trials, fresh = Trials(command, tests, progress, progress.detail), True
        stack.enter_context(trials.held(fresh=fresh))
        yield TrialSession(
            *(project, trial_project, text, registries, request, trials),
            *(progress.detail, progress.warn),
            accepted=workspace.options.accepted,
            installed=workspace.environment.ever_installed(),
            is_removed=removed_by_user(workspace.environment, own, lock),
        )
