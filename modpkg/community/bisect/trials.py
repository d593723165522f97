"""Trials: mixes are judged one after the other, and the result of each run is saved.

``trials/<hex>/`` in modpkg's home, named by the digest of the command and its folder:

  state.json       the results of all runs so far, sealed; rewritten after each run
  runs/<hex>.log   the output of a run
  project/         the manifest, lock and environment of the current mix
  lock             held while a command works here
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

from modpkg.community.bisect.lock_mixes import Mix, Unresolvable
from modpkg.community.bisect.minimize import Verdict
from modpkg.core.digests import Digest, digest_bytes
from modpkg.core.errors import BisectError, ComposeError
from modpkg.core.file_lock import file_lock
from modpkg.core.files import make_folder, remove_tree, write_atomically
from modpkg.core.home import trials_folder
from modpkg.core.progress import Progress
from modpkg.core.records import canonical_json
from modpkg.core.regular_file import read_file
from modpkg.core.sealed import seal, unseal

SKIP = 125
"""The exit status for neither good nor bad, as in ``git bisect run``."""
HUNG = 124
"""The exit status of a command that timed out, as in ``timeout``."""
_LAST = 127
"""Statuses above it are errors: a signal, or a failure outside of the test."""
_REMEMBERED = 20
"""Number of finished searches whose runs are kept."""
_IGNORED = {"__pycache__", "node_modules"}
_MOST_FILES = 20_000
_TOO_MANY = "too many files"
_END_ERRORS = ("M791", "M792", "M793", "M796")
"""Errors of the two ends of a search: their runs are not reused."""


class Command(Struct, frozen=True, kw_only=True):
    """The command that judges mixes."""

    arguments: list[str]
    shown: str
    """As the user typed it."""
    folder: str
    """Its working folder."""
    timeout: float | None = None
    """Seconds after which a run counts as failed."""
    repeat: int = 1
    """Number of runs that have to pass."""

    @property
    def root(self) -> Path:
        """The folder of its trials."""
        return trials_folder() / digest_bytes(canonical_json(self)).removeprefix("sha256:")


class MixRuns(Struct, kw_only=True):
    """The runs on one mix, by exit status."""

    mix: Digest
    label: str
    exits: list[int]

    def verdict(self, repeat: int) -> Verdict | None:
        """Return their verdict together; None while there are too few."""
        if any(status not in (0, SKIP) for status in self.exits):
            return Verdict.BAD
        if SKIP in self.exits:
            return Verdict.UNKNOWN
        return Verdict.GOOD if len(self.exits) >= repeat else None


class SearchState(Struct, kw_only=True):
    """``state.json``."""

    spec: int = 1
    command: Command
    runs: list[MixRuns] = []
    ended: str = ""
    """Fingerprint of the command's folder when the search finished; empty before."""


class Judge(Protocol):
    """Decides whether a mix is good."""

    def prepare(self, mix: Mix) -> None:
        """Make a mix ready to be judged.

        Raises:
            ComposeError: The mix cannot be composed; its verdict is then unknown.
            ModpkgError: Anything else failed; the search ends.
        """

    def judge(self, output: IO[bytes]) -> int:
        """Return an exit status for the mix that was prepared last; it prints to ``output``."""

    def clear(self) -> None:
        """Remove what `prepare` installed."""


class TrialResult(Struct, frozen=True, kw_only=True):
    """The result of trying a mix."""

    verdict: Verdict
    reason: str
    """How the command ended, or why it was not run."""
    ran: bool
    log: Path | None = None


class Trials:
    """The trials of one search; a mix that was tried before is not run again."""

    def __init__(
        self,
        command: Command,
        judge: Judge,
        progress: Progress,
        report: Callable[[str], None],
    ) -> None:
        """``report`` is called with a line for each run."""
        self.command = command
        self.root = command.root
        self.made = 0
        """Number of runs by this command."""
        self.remembered = 0
        """Number of runs by an earlier command that were reused."""
        self._judge = judge
        self._progress = progress
        self._report = report
        self._state = SearchState(command=command)
        self._earlier: set[Digest] = set()
        self._used: set[Digest] = set()

    @contextlib.contextmanager
    def held(self, *, fresh: bool = False) -> Iterator[None]:
        """Lock the folder of these trials, and load the runs of an earlier command.

        They are reused if that search did not finish, or no file in the command's folder has
        changed since; never with ``fresh``.
        """
        make_folder(self.root)

        def announce() -> None:
            self._progress.warn("Waiting for another modpkg command that runs the same search …")

        with file_lock(self.root / "lock", exclusive=True, waiting=announce):
            try:
                self._begin(fresh)
                yield
            except BisectError as error:
                if error.code not in _END_ERRORS:
                    raise
                self._state.runs.clear()  # whatever gets fixed now has to be run again
                self.finish()
                raise

    def _begin(self, fresh: bool) -> None:
        state = _read_state(self.root / "state.json")
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
                self._report(
                    f"Reusing {count} earlier run{'s' * (count != 1)}; --fresh discards them."
                )
            self._save()
            return
        self._judge.clear()
        remove_tree(self.root / "runs")
        self._save()

    def finish(self) -> None:
        """Mark the search as finished, and remove what was installed for it."""
        self._judge.clear()
        self._state.ended = _fingerprint(Path(self.command.folder))
        self._save()
        _forget_old(self.root)

    def result(self, mix: Mix | Unresolvable, label: str) -> TrialResult:
        """Try a mix.

        Raises:
            BisectError: The command ended with a status that is not a verdict.
            ModpkgError: The mix cannot be installed, for another reason than composing.
        """
        if isinstance(mix, Unresolvable):
            return TrialResult(verdict=Verdict.UNKNOWN, reason=mix.reason, ran=False)
        runs = self._runs_of(mix, label)
        while (verdict := runs.verdict(self.command.repeat)) is None:
            try:
                self._judge.prepare(mix)
            except ComposeError as error:
                return TrialResult(verdict=Verdict.UNKNOWN, reason=str(error), ran=False)
            self._run(runs)
        log = self._log(runs, len(runs.exits))
        return TrialResult(
            verdict=verdict,
            reason=self._ending(runs.exits),
            ran=True,
            log=log if log.exists() else None,
        )

    def exits(self, mix: Mix) -> list[int]:
        """Return how the runs on a mix ended."""
        return next((r.exits for r in self._state.runs if r.mix == mix.digest), [])

    def _runs_of(self, mix: Mix, label: str) -> MixRuns:
        digest = mix.digest
        runs = next((runs for runs in self._state.runs if runs.mix == digest), None)
        if runs is None:
            runs = MixRuns(mix=digest, label=label, exits=[])
            self._state.runs.append(runs)
        if digest in self._earlier and digest not in self._used:
            self.remembered += len(runs.exits)
        self._used.add(digest)
        return runs

    def _log(self, runs: MixRuns, number: int) -> Path:
        return self.root / "runs" / f"{runs.mix[7:23]}-{number}.log"

    def _run(self, runs: MixRuns) -> None:
        log = self._log(runs, len(runs.exits) + 1)
        log.parent.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        with open(log, "wb") as output:
            status = self._judge.judge(output)
        self.made += 1
        taken = time.monotonic() - begun
        if not 0 <= status <= _LAST:
            raise BisectError(
                "M794",
                command=self.command.shown,
                how=_describe_exit(status),
                log=log,
                label=runs.label,
            )
        runs.exits.append(status)
        self._save()
        verdict = MixRuns(mix=runs.mix, label="", exits=[status]).verdict(1)
        word = verdict.value if verdict is not None else ""
        self._report(f"Run {self.made + self.remembered}: {runs.label}: {word} ({taken:.1f} s)")

    def _ending(self, exits: list[int]) -> str:
        """Return how the runs on a mix ended, as a predicate."""
        status = next((status for status in exits if status), exits[0])
        how = _describe_exit(status)
        if status == HUNG and self.command.timeout is not None:
            how = f"takes over {self.command.timeout:g} s"
        if len(exits) < 2:
            return how
        return f"{how} in {exits.count(status)} of {len(exits)} runs"

    def _save(self) -> None:
        write_atomically(self.root / "state.json", seal(self._state))


def _describe_exit(status: int) -> str:
    if status < 0:
        return f"was killed by signal {-status}"
    return f"exits with status {status}"


def _read_state(path: Path) -> SearchState | None:
    try:
        return unseal(read_file(path), SearchState)
    except (OSError, msgspec.MsgspecError):
        return None


def _fingerprint(folder: Path) -> str:
    """Return a digest of a folder's files, sizes and times; `_TOO_MANY` if there are too many.

    Hidden folders and caches are ignored.
    """
    entries = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(n for n in folders if n not in _IGNORED and not n.startswith("."))
        for name in sorted(files):
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(place, name))  # noqa: PTH118 - many files
                entries.append([place, name, status.st_size, status.st_mtime_ns])
        if len(entries) > _MOST_FILES:
            return _TOO_MANY
    return digest_bytes(msgspec.json.encode(entries))


def _forget_old(current: Path) -> None:
    """Remove the folders of finished searches, but for the most recent ones."""
    finished = []
    for folder in current.parent.iterdir():
        state = _read_state(folder / "state.json")
        if state is not None and state.ended:
            finished.append(((folder / "state.json").stat().st_mtime, folder))
    for _, folder in sorted(finished, reverse=True)[_REMEMBERED:]:
        remove_tree(folder)
