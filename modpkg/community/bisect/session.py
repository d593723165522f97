"""A session of trials: the judge, the registries and the place that a search works with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from msgspec import Struct

from modpkg.community.bisect.judges import CommandJudge, TestsJudge
from modpkg.community.bisect.lock_mixes import LockMixes
from modpkg.community.bisect.trials import Command, Trials
from modpkg.community.evaluate.test_runner import TestRunner
from modpkg.community.evaluate.worker_process import TIME_LIMIT
from modpkg.environment.plan import InstallRequest
from modpkg.environment.project import Project
from modpkg.environment.registries import Registries
from modpkg.environment.workspace import Workspace
from modpkg.manifest.edit import with_absolute_registries
from modpkg.resolve.lock import Lock


class Session(Struct, frozen=True):
    """What a search works with."""

    project: Project
    """The user's: it is read, and nothing of it is changed."""
    place: Project
    """Where trials are installed."""
    text: str
    """The manifest, as it says the same there."""
    registries: Registries
    request: InstallRequest
    """The options of every resolution and install."""
    trials: Trials
    tell: Callable[[str], None]

    def mixes(self, old: Lock, new: Lock) -> LockMixes:
        """Return all mixes of two locks."""
        return LockMixes(self.place, self.text, old, new, self.registries)


@contextlib.contextmanager
def session(
    workspace: Workspace, command: Command, request: InstallRequest, *, fresh: bool = False
) -> Iterator[Session]:
    """Hold the trials of a command, or, when it has no arguments, of the project's ``[[tests]]``.

    Each run is reported as a detail of the progress. What runs made before said is used, unless
    ``fresh``; of ``[[tests]]`` the store keeps it in any case.
    """
    project, progress, tell = workspace.project, workspace.progress, workspace.progress.detail
    text = with_absolute_registries(workspace.text, project.folder)
    place = Project(command.root / "project" / project.manifest_path.name)
    registries = workspace.registries_for(place.parse(text))
    with contextlib.ExitStack() as stack:
        if command.arguments:
            judge = CommandJudge(command, place, request, workspace)
            trials = Trials(command, judge, progress, tell)
        else:
            limit = command.timeout or TIME_LIMIT
            runner = stack.enter_context(TestRunner(workspace.store, progress, limit=limit))
            tests = TestsJudge(workspace, runner)
            trials, fresh = Trials(command, tests, progress, tell), True
        stack.enter_context(trials.held(fresh=fresh))
        yield Session(project, place, text, registries, request, trials, tell)
