"""Fuzzing of what reads bytes of others: no traceback, no hang, no memory over the bound.

usage: python -m benchmarks.fuzz [--minutes N] [--seed S] [TARGET…]

With Atheris (`pip install atheris`) inputs are guided by the coverage of modpkg's code, without it
they are mutations of the seeds. Each target gets an equal part of the time in a process of its own;
inputs at fault are written to build/fuzz. The tests run a small part.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "fuzz.md"
FAULTS = ROOT / "build" / "fuzz"
SECONDS = 10
"""Most processor time of one input."""
MEBIBYTES = 500
"""Most memory of a target, beside what is imported."""
LARGEST = 1 << 16
"""Most bytes of an input."""


class Slow(BaseException):
    """An input took longer than `SECONDS`."""


def _engine() -> Any:
    """Return Atheris, or None where it is not installed."""
    try:
        return importlib.import_module("atheris")
    except ImportError:
        return None


class Session:
    """One target in this process."""

    def __init__(self, name: str, seconds: float, report: Path) -> None:
        from tests.hostile import fuzzing

        self.target = fuzzing.TARGETS[name]
        self.seeds = fuzzing.corpus(name)
        self._name, self._report = name, report
        self._ends = time.monotonic() + seconds
        self._written = 0.0
        self._folder = tempfile.TemporaryDirectory()
        self._inputs, self._slowest = 0, 0.0
        self._faults: dict[str, str] = {}
        self._memory = 0
        signal.signal(signal.SIGPROF, self._late)

    def run(self, data: bytes) -> None:
        """Run an input, and keep what it shows."""
        begun, before = time.monotonic(), _peak()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # a busy machine may be slow
        try:
            error = self.target.fault(data, Path(self._folder.name))
        except Slow as slow:
            error = slow
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        self._inputs += 1
        self._slowest = max(self._slowest, time.monotonic() - begun)
        self._memory = max(self._memory, _peak() - before)
        if error is None and _peak() - before > MEBIBYTES << 20:
            error = MemoryError(f"over {MEBIBYTES} MiB")
        if error is not None:
            self._keep(data, error)
        if begun > self._written + 2 or error is not None:
            self._write()
        if begun > self._ends:
            self._write()
            self._folder.cleanup()
            os._exit(0)

    def _keep(self, data: bytes, error: BaseException) -> None:
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        place = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
        label = f"{type(error).__name__} at {place}"
        if label not in self._faults:
            FAULTS.mkdir(parents=True, exist_ok=True)
            path = FAULTS / f"{self._name}-{sha256(data).hexdigest()[:12]}"
            path.write_bytes(data)
            self._faults[label] = path.name
            print(f"{self._name}: {label}: {error!s:.200} ({path})", flush=True)

    def _write(self) -> None:
        self._written = time.monotonic()
        self._report.write_text(
            json.dumps(
                {
                    "inputs": self._inputs,
                    "slowest": self._slowest,
                    "memory": self._memory,
                    "faults": self._faults,
                }
            )
        )

    def _late(self, number: int, frame: object) -> None:
        raise Slow(f"over {SECONDS} s")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def child(name: str, seconds: float, seed: int, report: Path) -> None:
    """Fuzz one target in this process until its time is over."""
    atheris = _engine()
    with atheris.instrument_imports(include=["modpkg"]) if atheris else contextlib.nullcontext():
        session = Session(name, seconds, report)
    mutated = session.target.mutated
    if atheris is None:
        rng = random.Random(f"{seed}/{name}")
        while True:
            session.run(mutated(rng.choice(session.seeds), rng)[:LARGEST])

    def mutator(data: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.3:
            return bytes(atheris.Mutate(data, most))
        return mutated(data, rng)[:most]

    corpus = Path(tempfile.mkdtemp(prefix="modpkg-fuzz-"))
    for number, data in enumerate(session.seeds):
        (corpus / str(number)).write_bytes(data)
    options = [
        f"-max_len={LARGEST}",
        f"-seed={seed}",
        "-rss_limit_mb=4096",
        "-verbosity=0",
        "-timeout=120",
    ]
    run: Callable[[bytes], None] = session.run
    atheris.Setup([sys.argv[0], *options, str(corpus)], run, custom_mutator=mutator)
    atheris.Fuzz()


def main() -> None:
    """Fuzz every target in a process of its own, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", default=[])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", metavar="REPORT", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:  # which imports modpkg, and counts what of it runs
        child(given.targets[0], given.minutes * 60, given.seed, given.child)
    from tests.hostile.fuzzing import TARGETS

    names = given.targets or list(TARGETS)
    seconds = given.minutes * 60 / len(names)
    rows, inputs, faults = [], 0, 0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.json"
            command = [sys.executable, "-m", "benchmarks.fuzz", name, "--child", str(report)]
            command += ["--minutes", str(seconds / 60), "--seed", str(given.seed)]
            done = subprocess.run(command, cwd=ROOT, timeout=seconds + 300, check=False)
            found = json.loads(report.read_text())
        if done.returncode:
            found["faults"][f"the process ended with {done.returncode}"] = ""
        inputs += found["inputs"]
        faults += len(found["faults"])
        rows.append(
            f"| {name} | {found['inputs']:,} | {len(found['faults'])} | {found['slowest']:.2f} s "
            f"| {found['memory'] >> 20} MB |"
        )
        print(rows[-1], flush=True)
    _write(rows, given.minutes, inputs, faults)


def _write(rows: list[str], minutes: float, inputs: int, faults: int) -> None:
    from benchmarks.machine import described

    engine = "Atheris, guided by coverage" if _engine() else "mutations of the seeds"
    table = "\n".join(rows)
    RESULTS.write_text(
        f"""# Fuzzing

`python -m benchmarks.fuzz --minutes {minutes:g}`: {engine}; {inputs:,} inputs. A fault is anything
but a result or an error with a code: a traceback, {SECONDS} s of the processor, {MEBIBYTES} MB
beside the imports, or control characters in a sentence. {described()}

| target | inputs | faults | slowest | memory |
|---|--:|--:|--:|--:|
{table}

{faults} faults.
"""
    )


if __name__ == "__main__":
    main()
