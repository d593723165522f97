"""Trials: a mix of versions is installed in a project of its own, and a command judges it.

``trials/<hex>/`` in modpkg's home, named by the command and the folder it runs in:

  state.json       what every run so far said, sealed; written anew after each run
  runs/<n>.log     what the n-th run printed
  project/         the manifest, lock and environment of the mix that is tried
  lock             held by the command that tries
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from modpkg.community.minimize import Verdict
from modpkg.community.mixes import Impossible, Mix
from modpkg.digests import Digest, digest_bytes
from modpkg.environment.generations import Environment
from modpkg.environment.install import apply_install
from modpkg.environment.plan import Request, plan_install
from modpkg.environment.project import PROJECT_VARIABLE, Project
from modpkg.errors import CommandEnded, LockError, ManifestMissing, ModpkgError
from modpkg.files import make_folder, remove_tree, write_atomically
from modpkg.home import trials_folder
from modpkg.lock import parse_lock
from modpkg.manifest.edit import with_absolute_registries
from modpkg.progress import Progress
from modpkg.records import canonical_json
from modpkg.sealed import seal, unseal
from modpkg.store.store import Store

SKIP = 125
"""The exit status that says neither good nor bad, as for ``git bisect run``."""
HUNG = 124
"""The exit status of a command that took too long, as ``timeout`` has it."""
_LAST = 127
"""Statuses above it are no verdict: a signal, or something that went wrong outside of the test."""
_REMEMBERED = 20
"""Searches that are ended of which the runs are kept."""
_PASSED_BY = {"__pycache__", "node_modules"}
_MOST_FILES = 20_000
_TOO_MANY = "too many files"


class Command(Struct, frozen=True, kw_only=True):
    """What judges a mix."""

    arguments: list[str]
    shown: str
    """As a person wrote it."""
    folder: str
    """Where it runs."""
    timeout: float | None = None
    """Seconds after which it is taken to have failed."""
    repeat: int = 1
    """How often it has to pass."""

    @property
    def digest(self) -> Digest:
        return digest_bytes(canonical_json(self))


class Runs(Struct, kw_only=True):
    """The runs on one mix."""

    mix: Digest
    label: str
    exits: list[int]

    def verdict(self, repeat: int) -> Verdict | None:
        """Return what they say together; None while they are too few."""
        if any(status not in (0, SKIP) for status in self.exits):
            return Verdict.BAD
        if SKIP in self.exits:
            return Verdict.UNKNOWN
        return Verdict.GOOD if len(self.exits) >= repeat else None


class State(Struct, kw_only=True):
    """``state.json``."""

    spec: int = 1
    command: Command
    runs: list[Runs] = []
    ended: str = ""
    """When the search has come to its end: what the command's folder was like then."""


class Outcome(Struct, frozen=True, kw_only=True):
    """What a trial said."""

    verdict: Verdict
    reason: str
    """How the command ended, or why there was no run."""
    ran: bool
    log: Path | None = None


class Trials:
    """The trials of one search. What ran already is not run again."""

    def __init__(
        self,
        command: Command,
        store: Store,
        progress: Progress,
        *,
        project: Project,
        request: Request,
        tell: Callable[[str], None],
    ) -> None:
        """``project`` is the user's: its manifest is read, and nothing of it is changed.

        ``request`` has the registry and the wishes of every trial's install.
        """
        self.command = command
        self.root = trials_folder() / command.digest.removeprefix("sha256:")
        self.project = Project(self.root / "project" / project.manifest_path.name)
        self.text = with_absolute_registries(project.text(), project.folder)
        self.made = 0
        """Runs made now."""
        self.remembered = 0
        """Runs made by an earlier command, and used now."""
        self._store = store
        self._progress = progress
        self._request = request
        self._tell = tell
        self._state = State(command=command)
        self._earlier: set[Digest] = set()
        self._used: set[Digest] = set()

    @contextlib.contextmanager
    def held(self, *, fresh: bool = False) -> Iterator[None]:
        """Hold the folder of these trials, and go on from what an earlier command left there.

        What it left is used when it did not come to its end, or when nothing in the folder where
        the command runs has changed since; with ``fresh`` it never is.
        """
        from filelock import FileLock, Timeout

        make_folder(self.root)
        lock = FileLock(self.root / "lock")
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            self._progress.warn("Another modpkg command tries the same; waiting for it …")
            lock.acquire()
        try:
            self._begin(fresh)
            yield
        finally:
            lock.release()

    def _begin(self, fresh: bool) -> None:
        state = _read(self.root / "state.json")
        usable = (
            state is not None
            and not fresh
            and state.command == self.command
            and state.ended in ("", _fingerprint(Path(self.command.folder)))
            and state.ended != _TOO_MANY
        )
        if state is not None and usable:
            self._state = state
            state.ended = ""
            self._earlier = {runs.mix for runs in state.runs}
            count = sum(len(runs.exits) for runs in state.runs)
            if count:
                self._tell(
                    f"Going on from {count} run{'s' * (count != 1)} made before; --fresh "
                    "forgets them."
                )
            return
        remove_tree(self.root / "project")
        remove_tree(self.root / "runs")
        self._save()

    def end(self) -> None:
        """Say that the search has come to its end; what was installed for it is removed."""
        remove_tree(self.root / "project")
        self._state.ended = _fingerprint(Path(self.command.folder))
        self._save()
        _forget_old(self.root)

    def outcome(self, mix: Mix | Impossible, label: str) -> Outcome:
        """Try a mix.

        Raises:
            CommandEnded: the command ended in a way that is no verdict. What installing can raise,
            but for what a mix cannot be composed for: that is an unknown outcome.
        """
        if isinstance(mix, Impossible):
            return Outcome(verdict=Verdict.UNKNOWN, reason=mix.reason, ran=False)
        runs = self._runs_of(mix, label)
        while (verdict := runs.verdict(self.command.repeat)) is None:
            try:
                self._install(mix)
            except ModpkgError as error:
                if not error.code.startswith("M6"):
                    raise
                return Outcome(verdict=Verdict.UNKNOWN, reason=str(error), ran=False)
            self._run(runs)
        log = self._log(runs, len(runs.exits))
        return Outcome(
            verdict=verdict,
            reason=self._ending(runs.exits),
            ran=True,
            log=log if log.exists() else None,
        )

    def exits(self, mix: Mix) -> list[int]:
        """Return how the runs on a mix ended."""
        return next((r.exits for r in self._state.runs if r.mix == mix.digest), [])

    def _runs_of(self, mix: Mix, label: str) -> Runs:
        digest = mix.digest
        runs = next((runs for runs in self._state.runs if runs.mix == digest), None)
        if runs is None:
            runs = Runs(mix=digest, label=label, exits=[])
            self._state.runs.append(runs)
        if digest in self._earlier and digest not in self._used:
            self.remembered += len(runs.exits)
        self._used.add(digest)
        return runs

    def _install(self, mix: Mix) -> None:
        project, environment = self.project, Environment(self.project.environment)
        if _lies(project, mix):
            return
        write_atomically(project.manifest_path, mix.manifest.encode("utf-8", "surrogateescape"))
        request = msgspec.structs.replace(self._request, lock=mix.lock)
        quiet = _Warnings(self._progress)
        with environment.exclusive(), self._store.used():
            plan = plan_install(project, request, self._store, quiet)
            apply_install(plan, self._store, quiet)

    def _log(self, runs: Runs, number: int) -> Path:
        return self.root / "runs" / f"{runs.mix[7:23]}-{number}.log"

    def _run(self, runs: Runs) -> None:
        log = self._log(runs, len(runs.exits) + 1)
        log.parent.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        with open(log, "wb") as output:
            status = _status(self.command, self.project.folder, output.fileno())
        self.made += 1
        taken = time.monotonic() - begun
        if not 0 <= status <= _LAST:
            raise CommandEnded(
                command=self.command.shown, how=_how(status), log=log, label=runs.label
            )
        runs.exits.append(status)
        self._save()
        verdict = Runs(mix=runs.mix, label="", exits=[status]).verdict(1)
        word = verdict.value if verdict is not None else ""
        self._tell(f"Run {self.made + self.remembered}: {runs.label}: {word} ({taken:.1f} s)")

    def _ending(self, exits: list[int]) -> str:
        """Return how the runs on a mix ended, as the rest of a sentence."""
        told = [status for status in exits if status] or exits
        how = _how(told[0])
        if told[0] == HUNG and self.command.timeout is not None:
            how = f"took over {self.command.timeout:g} s"
        if len(exits) < 2:
            return how
        count = sum(status == told[0] for status in exits)
        return f"{how} in {count} of {len(exits)} runs"

    def _save(self) -> None:
        write_atomically(self.root / "state.json", seal(self._state))


class _Warnings(Progress):
    """Passes on warnings alone."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def warn(self, message: str) -> None:
        self._progress.warn(message)


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


def _how(status: int) -> str:
    if status < 0:
        return f"was ended by signal {-status}"
    return f"ends with exit status {status}"


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
    except (OSError, UnicodeDecodeError, LockError, ManifestMissing):
        return False


def _read(path: Path) -> State | None:
    try:
        return unseal(path.read_bytes(), State)
    except (OSError, msgspec.MsgspecError):
        return None


def _fingerprint(folder: Path) -> str:
    """Return a digest of a folder's files, their sizes and times; `_TOO_MANY` where there are.

    What tools keep for themselves (hidden folders, caches) does not count.
    """
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(n for n in folders if n not in _PASSED_BY and not n.startswith("."))
        for name in sorted(files):
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(place, name))  # noqa: PTH118 - many files
                found.append([place, name, status.st_size, status.st_mtime_ns])
        if len(found) > _MOST_FILES:
            return _TOO_MANY
    return digest_bytes(msgspec.json.encode(found))


def _forget_old(current: Path) -> None:
    """Remove what ended searches have left, but for the last ones."""
    ended = []
    for folder in current.parent.iterdir():
        state = _read(folder / "state.json")
        if state is not None and state.ended:
            ended.append(((folder / "state.json").stat().st_mtime, folder))
    for _, folder in sorted(ended, reverse=True)[_REMEMBERED:]:
        remove_tree(folder)
