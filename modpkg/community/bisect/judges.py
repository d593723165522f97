"""Judges of mixes: a command, run beside an installed mix, and an app's own ``[[tests]]``."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import IO

import msgspec

from modpkg.community.bisect.lock_mixes import Mix
from modpkg.community.bisect.trials import HUNG, Command
from modpkg.community.evaluate.project_tests import run_lock_tests
from modpkg.community.evaluate.report import describe_result
from modpkg.community.evaluate.test_runner import TestRunner
from modpkg.core import system_processes
from modpkg.core.errors import LockError, ManifestError, TestError
from modpkg.core.files import remove_tree, write_atomically
from modpkg.core.progress import Progress
from modpkg.core.regular_file import read_text
from modpkg.environment.generations import Environment
from modpkg.environment.install import apply_install
from modpkg.environment.plan import InstallRequest, plan_install
from modpkg.environment.project import PROJECT_VARIABLE, Project
from modpkg.environment.workspace import Workspace
from modpkg.resolve.lock import parse_lock

_FAILURES = ("M716", "M717", "M718")
"""Errors that count as a failed test: non-finite output, timeout, crash."""


class CommandJudge:
    """Installs each mix into a separate project, and runs a command that uses it."""

    def __init__(
        self,
        command: Command,
        project: Project,
        request: InstallRequest,
        workspace: Workspace,
    ) -> None:
        """Mixes are installed into ``project``, with the options of ``request``."""
        self._command = command
        self._project = project
        self._request = request
        self._workspace = workspace

    def prepare(self, mix: Mix) -> None:
        """Install a mix, unless it is installed already; see `Judge`."""
        project, environment = self._project, Environment(self._project.environment)
        if _is_installed(project, mix):
            return
        write_atomically(project.manifest_path, mix.manifest.encode("utf-8", "surrogateescape"))
        request = msgspec.structs.replace(self._request, lock=mix.lock)
        workspace = self._workspace.for_project(project, _WarningsOnly(self._workspace.progress))
        with environment.exclusive(), workspace.store.lock():
            apply_install(plan_install(workspace, request))

    def judge(self, output: IO[bytes]) -> int:
        """Run the command; see `Judge`."""
        return _run(self._command, self._project.folder, output.fileno())

    def clear(self) -> None:
        """Remove the project of the trials."""
        remove_tree(self._project.folder)


class TestsJudge:
    """Runs an app's ``[[tests]]`` on the models of a mix; outcomes are cached in the store.

    A test that times out, crashes or finds non-finite values counts as failed.
    """

    def __init__(self, workspace: Workspace, runner: TestRunner) -> None:
        """The tests are those of the workspace's manifest: their cases are files beside it."""
        self._workspace = workspace
        self._runner = runner
        self._lines: list[str] = []
        self._passed = False

    def prepare(self, mix: Mix) -> None:
        """Compose the models of a mix and run the tests; see `Judge`."""
        self._lines, self._passed = [], False
        try:
            runs = run_lock_tests(self._workspace, mix.lock, self._runner)
        except TestError as error:
            if error.code not in _FAILURES:
                raise
            self._lines.append(str(error))
            return
        self._passed = all(run.report.passed for run in runs)
        for run in runs:
            self._lines.append(f"{run.report.subject.name} {run.report.subject.version}")
            for result in run.report.results:
                mark = "passed" if result.passed else "FAILED"
                self._lines.append(f"  {mark}  {result.test}: {describe_result(result)}")

    def judge(self, output: IO[bytes]) -> int:
        """Return 0 if all tests passed, else 1; see `Judge`."""
        output.write("".join(f"{line}\n" for line in self._lines).encode())
        return 0 if self._passed else 1

    def clear(self) -> None:
        """Do nothing: nothing was installed."""


class _WarningsOnly(Progress):
    """Passes on warnings, and drops everything else."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def warn(self, message: str) -> None:
        self._progress.warn(message)


def _is_installed(project: Project, mix: Mix) -> bool:
    """Return whether a project has exactly this mix installed, completely."""
    try:
        lock_text = read_text(project.lock_path, follow=False)
        lock = parse_lock(lock_text, project.lock_path)
        return (
            project.text() == mix.manifest
            and lock.module == mix.lock.module
            and Environment(project.environment).is_up_to_date(mix.manifest, lock_text)
        )
    except (OSError, UnicodeDecodeError, LockError, ManifestError):
        return False


def _run(command: Command, project: Path, output: int) -> int:
    """Return the exit status of a command; it is killed at its timeout, or when we are stopped."""
    try:
        process = subprocess.Popen(
            command.arguments,
            cwd=command.folder,
            env=os.environ | {PROJECT_VARIABLE: str(project)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            **system_processes.group_options(),
        )
    except OSError as error:
        os.write(output, f"{command.arguments[0]}: {error.strerror}\n".encode())
        return 127 if isinstance(error, FileNotFoundError) else 126  # as shells do
    try:
        return process.wait(command.timeout)
    except subprocess.TimeoutExpired:
        return HUNG
    finally:
        system_processes.kill_group(process)
