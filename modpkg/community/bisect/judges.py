"""A command as the judge of mixes: each is installed in a project of its own, where it runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import IO

import msgspec

from modpkg.community.bisect.lock_mixes import Mix
from modpkg.community.bisect.trials import HUNG, Command
from modpkg.core.errors import LockError, ManifestError
from modpkg.core.files import remove_tree, write_atomically
from modpkg.core.progress import Progress
from modpkg.environment.generations import Environment
from modpkg.environment.install import apply_install
from modpkg.environment.plan import Request, plan_install
from modpkg.environment.project import PROJECT_VARIABLE, Project
from modpkg.resolve.lock import parse_lock
from modpkg.store.store import Store


class CommandJudge:
    """Runs a command where the folder it is called in is, with a project of its own to look at."""

    def __init__(
        self,
        command: Command,
        place: Project,
        request: Request,
        store: Store,
        progress: Progress,
    ) -> None:
        """Mixes are installed in ``place``, with the wishes that ``request`` has."""
        self._command = command
        self._place = place
        self._request = request
        self._store = store
        self._progress = _Warnings(progress)

    def prepare(self, mix: Mix) -> None:
        """Install a mix; see `Judge`."""
        project, environment = self._place, Environment(self._place.environment)
        if _lies(project, mix):
            return
        write_atomically(project.manifest_path, mix.manifest.encode("utf-8", "surrogateescape"))
        request = msgspec.structs.replace(self._request, lock=mix.lock)
        with environment.exclusive(), self._store.used():
            plan = plan_install(project, request, self._store, self._progress)
            apply_install(plan, self._store, self._progress)

    def judge(self, output: IO[bytes]) -> int:
        """Run the command; see `Judge`."""
        return _status(self._command, self._place.folder, output.fileno())

    def clear(self) -> None:
        """Remove the project of the trials."""
        remove_tree(self._place.folder)


def shell_command(text: str) -> list[str]:
    """Return the arguments that have the system's shell run a line."""
    return ["cmd", "/c", text] if os.name == "nt" else ["/bin/sh", "-c", text]


class _Warnings(Progress):
    """Passes on warnings alone."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def warn(self, message: str) -> None:
        self._progress.warn(message)


def _lies(project: Project, mix: Mix) -> bool:
    """Say whether a mix is what is installed in a project, and whole."""
    try:
        lock_text = project.lock_path.read_text("utf-8")
        lock = parse_lock(lock_text, project.lock_path)
        return (
            project.text() == mix.manifest
            and lock.module == mix.lock.module
            and Environment(project.environment).answers(mix.manifest, lock_text)
        )
    except (OSError, UnicodeDecodeError, LockError, ManifestError):
        return False


def _status(command: Command, project: Path, output: int) -> int:
    """Run a command and return its exit status; it is ended when its time is over, or ours."""
    try:
        process = subprocess.Popen(
            command.arguments,
            cwd=command.folder,
            env=os.environ | {PROJECT_VARIABLE: str(project)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        os.write(output, f"{command.arguments[0]}: {error.strerror}\n".encode())
        return 127 if isinstance(error, FileNotFoundError) else 126  # as shells have it
    try:
        return process.wait(command.timeout)
    except subprocess.TimeoutExpired:
        return HUNG
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group, and whatever it has begun that still runs."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
