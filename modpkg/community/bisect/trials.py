"""Trials: mixes of versions are judged one after the other, and what each run said is kept.

``trials/<hex>/`` in modpkg's home, named by the command and the folder it runs in:

  state.json       what every run so far said, sealed; written anew after each run
  runs/<hex>.log   what a run printed
  project/         the manifest, lock and environment of the mix that is tried
  lock             held by the command that tries
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol

import msgspec
from msgspec import Struct

from modpkg.community.bisect.lock_mixes import Impossible, Mix
from modpkg.community.bisect.minimize import Verdict
from modpkg.core.digests import Digest, digest_bytes
from modpkg.core.errors import BisectError, ComposeError
from modpkg.core.files import make_folder, remove_tree, write_atomically
from modpkg.core.home import trials_folder
from modpkg.core.progress import Progress
from modpkg.core.records import canonical_json
from modpkg.core.sealed import seal, unseal

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
_NO_SEARCH = ("M791", "M792", "M793", "M796")
"""Errors of the two ends: what is fixed after them has to be run again."""


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
    def root(self) -> Path:
        """The folder of its trials."""
        return trials_folder() / digest_bytes(canonical_json(self)).removeprefix("sha256:")


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


class Judge(Protocol):
    """What says whether a mix is good."""

    def prepare(self, mix: Mix) -> None:
        """Make the mix ready to be judged.

        Raises:
            ModpkgError: it cannot be; where it cannot be composed, that makes it unknown.
        """

    def judge(self, output: IO[bytes]) -> int:
        """Return an exit status for what was prepared last; what is printed goes to ``output``."""

    def clear(self) -> None:
        """Remove what was made ready."""


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
        judge: Judge,
        progress: Progress,
        tell: Callable[[str], None],
    ) -> None:
        """``tell`` gets a line for each run."""
        self.command = command
        self.root = command.root
        self.made = 0
        """Runs made now."""
        self.remembered = 0
        """Runs made by an earlier command, and used now."""
        self._judge = judge
        self._progress = progress
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
        except BisectError as error:
            if error.code not in _NO_SEARCH:
                raise
            self._state.runs.clear()  # whatever is mended now, it is to be seen
            self.end()
            raise
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
            self._save()
            return
        self._judge.clear()
        remove_tree(self.root / "runs")
        self._save()

    def end(self) -> None:
        """Say that the search has come to its end; what was installed for it is removed."""
        self._judge.clear()
        self._state.ended = _fingerprint(Path(self.command.folder))
        self._save()
        _forget_old(self.root)

    def outcome(self, mix: Mix | Impossible, label: str) -> Outcome:
        """Try a mix.

        Raises:
            BisectError: the command ended in a way that is no verdict. What installing can raise,
            but for what a mix cannot be composed for: that is an unknown outcome.
        """
        if isinstance(mix, Impossible):
            return Outcome(verdict=Verdict.UNKNOWN, reason=mix.reason, ran=False)
        runs = self._runs_of(mix, label)
        while (verdict := runs.verdict(self.command.repeat)) is None:
            try:
                self._judge.prepare(mix)
            except ComposeError as error:
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

    def _log(self, runs: Runs, number: int) -> Path:
        return self.root / "runs" / f"{runs.mix[7:23]}-{number}.log"

    def _run(self, runs: Runs) -> None:
        log = self._log(runs, len(runs.exits) + 1)
        log.parent.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        with open(log, "wb") as output:
            status = self._judge.judge(output)
        self.made += 1
        taken = time.monotonic() - begun
        if not 0 <= status <= _LAST:
            raise BisectError(
                "M794", command=self.command.shown, how=_how(status), log=log, label=runs.label
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


def _how(status: int) -> str:
    if status < 0:
        return f"was ended by signal {-status}"
    return f"ends with exit status {status}"


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
