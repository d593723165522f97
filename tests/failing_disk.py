"""Commands on a disk that fails at one call, and what must hold after that.

usage: LD_PRELOAD=… python -m tests.failing_disk FOLDER [--faults N] [--failures FILE]
       [--rows FILE] [--scenario NAME…]

`tests/failing_disk.c`, preloaded, makes calls under a folder fail: those of Python, and those of
the libraries that it uses. For each scenario and each kind of fault, the calls that count are
numbered by a run without a fault; then, from the same state of the disk each time, one run per
number. After it

- nothing is lost: manifest, lock, environment, registry and output are each as before the command
  or as it makes them, and a command that reported success has made all of them;
- an error has a code and a sentence, and there is no traceback;
- the same command, run again on a sound disk, makes all of it, every byte of store, registry and
  environment matches its digest, and nothing unfinished is left.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import gc
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.e2e.disk_scenarios import OUTPUTS, SCENARIOS, World

SOURCE = Path(__file__).with_suffix(".c")
READ, WRITE, SYNC, OPEN, CREATE, NAME, REMOVE, MODE, STAT, LIST, MAP, LOCK, CLOSE = (
    1 << bit for bit in range(13)
)
SHORT, END = -1, -2
CHANGES = WRITE | CREATE | NAME


class Fault(Struct, frozen=True):
    """A kind of fault: which calls can have it, what happens, and whether it goes on."""

    calls: int
    outcome: int
    """An errno, or `SHORT` or `END`."""
    goes_on: bool = False


FAULTS = {
    "EIO on a read": Fault(READ | OPEN | LIST | MAP, errno.EIO),
    "EIO on a read, and on": Fault(READ | OPEN | LIST | STAT | MAP, errno.EIO, True),
    "EIO on a stat": Fault(STAT, errno.EIO),
    "EIO on a change": Fault(CHANGES | SYNC | REMOVE | MODE | CLOSE, errno.EIO),
    "EIO on a change, and on": Fault(CHANGES | SYNC | REMOVE | MODE | CLOSE, errno.EIO, True),
    "ENOSPC": Fault(CHANGES, errno.ENOSPC),
    "ENOSPC, and on": Fault(CHANGES, errno.ENOSPC, True),
    "EDQUOT, and on": Fault(CHANGES | CLOSE, errno.EDQUOT, True),
    "EROFS, and on": Fault(CHANGES | REMOVE | MODE, errno.EROFS, True),
    "fsync fails": Fault(SYNC, errno.EIO),
    "a short read": Fault(READ, SHORT),
    "short reads, and on": Fault(READ, SHORT, True),
    "the end too early": Fault(READ, END),
    "a short write": Fault(WRITE, SHORT),
    "short writes, and on": Fault(WRITE, SHORT, True),
    "EINTR": Fault(READ | WRITE | SYNC | OPEN | CREATE | LOCK, errno.EINTR),
    "EMFILE": Fault(OPEN | CREATE | LIST, errno.EMFILE),
    "ENOLCK": Fault(LOCK, errno.ENOLCK),
}


def build_library(folder: Path) -> Path | None:
    """Compile the library that is preloaded; None where there is no C compiler for it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    library = folder / "failing_disk.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


class Outcome(Struct, frozen=True):
    """A command's exit status and output, and how many of its calls failed."""

    status: int
    output: str
    struck: int
    calls: int


def run(command: Callable[[], object], root: Path, fault: Fault | None, point: int) -> Outcome:
    """Call ``command`` in a forked process, with a fault at its call number ``point``."""
    library = ctypes.CDLL(None)
    out = os.memfd_create("out")
    back, forth = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(back)
        status = 1
        os.dup2(out, 1)
        os.dup2(out, 2)
        if fault is not None:
            text = os.fsencode(str(root) + os.sep)
            library.arm(text, fault.calls, point, int(fault.goes_on), fault.outcome)
        try:
            command()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(bool(end.code))
        except BaseException:
            traceback.print_exc()
        struck = library.disarm()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os.write(forth, f"{struck} {library.calls()}".encode())
        os._exit(status & 0xFF)
    os.close(forth)
    counts = os.read(back, 100).decode().split() or ["1", "0"]
    os.close(back)
    _, ended = os.waitpid(child, 0)
    with open(out, "rb") as file:
        file.seek(0)
        output = file.read().decode(errors="replace")
    return Outcome(os.waitstatus_to_exitcode(ended), output, int(counts[0]), int(counts[1]))


class Violation(Exception):
    """Something that must hold does not."""


class Trial:
    """One scenario, as often as one likes: its folder is put back before each run."""

    def __init__(self, name: str, folder: Path) -> None:
        self.scenario = SCENARIOS[name]
        self._ready = folder / "ready"
        self.world = World(folder / "world")
        self.world.root.mkdir(parents=True)
        self._must(lambda: self.scenario.prepare(self.world))
        self._copy(self.world.root, self._ready)
        self._untouched = self._listing()
        self.before = self._state()
        self._must(self._command)
        self.after = self._state()

    def _command(self) -> None:
        self.world.command(*self.scenario.command, folder=self.scenario.folder)

    def _must(self, act: Callable[[], object]) -> str:
        outcome = run(act, self.world.root, None, 0)
        if outcome.status:
            raise Violation(f"without a fault: {outcome.status}\n{outcome.output}")
        return outcome.output

    def _state(self) -> dict[str, Any]:
        output = self._must(lambda: print(json.dumps(self.world.state())))
        state: dict[str, Any] = json.loads(output)
        return state

    def imported(self) -> list[str]:
        """Return the names of the modules that the command and the checks have imported."""

        def act() -> None:
            with contextlib.suppress(SystemExit):
                self._command()
            self.world.settle()
            print("\n" + json.dumps([*sys.modules]))

        self.restore()
        names: list[str] = json.loads(self._must(act).splitlines()[-1])
        return names

    def _listing(self) -> dict[str, tuple[int, int, int]]:
        """Return the mode, size and time of everything under the root, but for folders' times."""
        found = {}
        for path in self.world.root.rglob("*"):
            status = path.lstat()
            times = (0, 0) if path.is_dir() else (status.st_size, status.st_mtime_ns)
            found[str(path)] = (status.st_mode, *times)
        return found

    def restore(self) -> None:
        """Put the folder back."""
        if self.world.root.exists() and self._listing() == self._untouched:
            return
        shutil.rmtree(self.world.root)
        self._copy(self._ready, self.world.root)

    def _copy(self, source: Path, target: Path) -> None:
        """Copy a folder with all its hard and symbolic links."""
        subprocess.run(["cp", "-a", source, target], check=True)

    def count(self, fault: Fault) -> int:
        """Return how many of the command's calls can have the fault."""
        self.restore()
        outcome = run(self._command, self.world.root, fault, 0)
        assert outcome.status == 0, outcome.output
        return outcome.calls

    def fail(self, fault: Fault, point: int) -> bool | None:
        """Run the command with a fault, and check all that must hold.

        Returns whether the command succeeded nonetheless; None if it ended before that point.

        Raises:
            Violation: Something does not hold.
        """
        self.restore()
        outcome = run(self._command, self.world.root, fault, point)
        if not outcome.struck:
            return None
        succeeded = outcome.status == 0
        # click looks at some paths itself, and tells in its own way that there is no such file.
        told = ("error[M", "corrupt ", "Error: Invalid value", "Error: Could not open")
        expected = succeeded or any(words in outcome.output for words in told)
        if "Traceback" in outcome.output or not expected or outcome.status not in (0, 1, 2):
            raise Violation(f"status {outcome.status}:\n{outcome.output}")
        if outcome.status and self._listing() == self._untouched:
            return succeeded  # nothing was written, so that running it again is as it was
        checked = run(lambda: self._check(outcome), self.world.root, None, 0)
        if checked.status:
            raise Violation(f"status {outcome.status}:\n{outcome.output}\n--\n{checked.output}")
        return succeeded

    def _check(self, outcome: Outcome) -> None:
        """Check the state, run the command again, and check that it has done everything."""
        state = self.world.state()
        for part, value in state.items():
            allowed = [self.after[part]]
            if outcome.status:
                allowed.append(self.before[part])
            grows = self.scenario.grows and part in OUTPUTS and outcome.status
            if value not in allowed and not grows:
                raise Violation(f"{part} is wrong: {value}\nnot {allowed}")
        if state != self.after or self.scenario.repeats:
            with contextlib.suppress(SystemExit):
                self._command()
            if self.scenario.in_app and self.world.state() != self.after:
                self.world.done("install")  # what manifest and lock have already
        self.world.settle()
        if (state := self.world.state()) != self.after:
            raise Violation(f"not what it should be: {state}\nbut {self.after}")
        if any(self.world.root.rglob(".tmp-*")):
            self.world.done("store", "gc")
            self.world.tidy()
        if left := [str(path) for path in self.world.root.rglob(".tmp-*")]:
            raise Violation(f"left: {left}")


def points(count: int, tries: int) -> Iterator[int]:
    """Yield at most ``tries`` numbers from 1 to ``count``, evenly spread."""
    tries = min(tries, count)
    yield from (1 + index * count // tries for index in range(tries))


def imports_of(trial: Trial) -> None:
    """Import what the command and the checks import, so that forked processes need not.

    No more than that: a process that has imported torch takes several times as long to fork.
    """
    for name in trial.imported():
        with contextlib.suppress(Exception):  # some only exist while another is imported
            importlib.import_module(name)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    gc.collect()
    gc.freeze()


def _tried(trial: Trial, fault: Fault, point: int) -> tuple[str, str]:
    """Return how a run with a fault ended, and what did not hold."""
    try:
        succeeded = trial.fail(fault, point)
    except Violation as violation:
        return "violated", str(violation)
    return {True: "succeeded", False: "refused", None: "missed"}[succeeded], ""


def main() -> None:
    """Try the faults; print a line of JSON per scenario and kind of fault."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenario", nargs="*", choices=[*SCENARIOS], default=[*SCENARIOS])
    parser.add_argument("--faults", type=int, default=10**9, help="most per scenario and kind")
    parser.add_argument("--kinds", default="", help="only kinds that contain this")
    parser.add_argument("--failures", type=Path, help="file for what did not hold")
    parser.add_argument("--rows", type=Path, help="file that gets the lines; one in it is not made")
    options = parser.parse_args()
    tempfile.tempdir = str(options.folder)
    os.environ["NO_COLOR"] = "1"
    made = set()
    if options.rows is not None and options.rows.exists():
        rows = map(json.loads, options.rows.read_text().splitlines())
        made = {(row["scenario"], row["kind"]) for row in rows}
    for name in options.scenario:
        if made >= {(name, kind) for kind in FAULTS}:
            continue
        folder = options.folder / name
        trial = Trial(name, folder)
        imports_of(trial)
        for kind, fault in FAULTS.items():
            if options.kinds not in kind or (name, kind) in made:
                continue
            begun, counts = time.monotonic(), Counter[str]()
            count = trial.count(fault)
            for point in points(count, options.faults):
                how, told = _tried(trial, fault, point)
                counts[how] += 1
                if told and options.failures is not None:
                    with open(options.failures, "a") as file:
                        file.write(f"=== {name}: {kind} at {point}\n{told}\n")
            row = {"scenario": name, "kind": kind, "calls": count, **counts}
            line = json.dumps({**row, "seconds": round(time.monotonic() - begun, 2)})
            print(line, flush=True)
            if options.rows is not None:
                with open(options.rows, "a") as file:
                    file.write(line + "\n")
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
