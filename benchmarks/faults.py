"""What survives kills at every change that a command makes, and calls of the system that fail.

usage: python -m benchmarks.faults [--every N] [SCENARIO…]
       python -m benchmarks.faults --failing [--tries N] [--workers N] [--rows FILE]
       [--again SCENARIO…]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.machine import described
from tests.e2e.disk_scenarios import SCENARIOS as WRITING
from tests.e2e.scenarios import SCENARIOS, Killings
from tests.failing_disk import build_library


def main() -> None:
    """Kill each command before each of its changes, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", choices=[[], *SCENARIOS], default=[])
    parser.add_argument("--every", type=int, default=1, help="try every N-th point only")
    parser.add_argument("--failing", action="store_true", help="failing calls instead of kills")
    parser.add_argument("--tries", type=int, default=44, help="of each command and kind of fault")
    parser.add_argument("--rows", type=Path, help="file of the rows so far: a run goes on from it")
    parser.add_argument(
        "--again", nargs="*", choices=[*WRITING], default=[], help="commands whose rows to forget"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="commands at a time")
    options = parser.parse_args()
    if options.failing:
        rows = options.rows or Path(tempfile.gettempdir(), f"modpkg-failing-{os.getpid()}.jsonl")
        write_failing(_fail_all(options.tries, options.workers, rows, options.again))
        return
    rows = []
    for name in options.scenarios or SCENARIOS:
        folder = Path(tempfile.mkdtemp(prefix="modpkg-faults-"))
        begun = time.monotonic()
        try:
            killings = Killings(name, folder / "kills")
            points = range(1, killings.points + 1, options.every)
            outcomes = [killings.kill(point) for point in points]
        finally:
            shutil.rmtree(folder)
        after = Counter(version for version in outcomes if version is not None)
        tried = after.total()
        *befores, last = SCENARIOS[name].versions
        outcome = f"{sum(after[v] for v in befores)} / {after[last]}" if befores else "-"
        minutes = (time.monotonic() - begun) / 60
        rows.append(
            f"| {name} | {killings.points} | {tried} | {outcome} | {tried} | {minutes:.1f} |"
        )
        print(rows[-1], flush=True)
    _write(rows)


RESULTS = Path(__file__).parent / "results"
FAILING = "# Failing calls\n"
"""Where the second part of the results begins."""


def _write(rows: list[str]) -> None:
    text = f"""# Kills

`python -m benchmarks.faults` kills each command (SIGKILL) just before each change that it makes to
the file system, as Python's audit events show them, then loads the installed model, runs the
command again, and checks every byte of store, registry and environment. A row is written only if
all of these checks passed at every point. {described()}

| command | changes | points tried | old / new version after the kill | all held | minutes |
|---|--:|--:|--:|--:|--:|
"""
    path = RESULTS / "faults.md"
    rest = path.read_text().partition(FAILING)[2] if path.exists() else ""
    path.write_text(text + "\n".join(rows) + "\n" + (f"\n{FAILING}{rest}" if rest else ""))


def _fail_all(tries: int, workers: int, rows: Path, again: Sequence[str]) -> list[dict[str, Any]]:
    """Return how every command that writes ended, by command and kind of fault.

    Each row is written to ``rows`` when it is known, and one that is there is not made again,
    unless its command is in ``again``.
    """
    folder = Path(tempfile.mkdtemp(prefix="modpkg-failing-"))
    library = build_library(folder)
    if library is None:
        sys.exit("needs Linux and a C compiler")
    lines = rows.read_text().splitlines() if rows.exists() else []
    kept = [line for line in lines if json.loads(line)["scenario"] not in again]
    rows.write_text("".join(f"{line}\n" for line in kept))

    def run(name: str) -> None:
        command = [sys.executable, "-m", "tests.failing_disk", folder, "--faults", str(tries)]
        command += ["--failures", folder / f"{name}.failures", "--scenario", name, "--rows", rows]
        env = os.environ | {"LD_PRELOAD": str(library)}
        subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)
        for path in folder.glob(f"{name}.failures"):
            print(path.read_text(), flush=True)

    try:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(run, WRITING))
    finally:
        shutil.rmtree(folder)
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    return sorted(found, key=lambda row: [*WRITING].index(row["scenario"]))


def write_failing(rows: Sequence[dict[str, Any]]) -> None:
    """Write the second part of the results: a row for each command, and one for each kind."""
    outcomes = ("succeeded", "refused", "violated")
    tables = {}
    for key in ("scenario", "kind"):
        counts: dict[str, Counter[str]] = {}
        for row in rows:
            counts.setdefault(row[key], Counter()).update({o: row.get(o, 0) for o in outcomes})
        counts["**all**"] = sum(counts.values(), Counter[str]())
        tables[key] = "\n".join(
            f"| {name} | {sum(of[o] for o in outcomes)} | {of['succeeded']} | {of['refused']} "
            f"| {of['violated']} |"
            for name, of in counts.items()
        )
    text = f"""{FAILING}
`python -m benchmarks.faults --failing` runs each command that writes on a disk of which one call
fails, or all from one on: a library that is preloaded (`tests/failing_disk.c`) counts the calls
under the world's folder, those of Python and those of SQLite, torch and Rust, and lets one return
an error, half of the bytes, or none. After each, manifest, lock, environment, registry and output
are as before the command or as it makes them, and as it makes them if it reported success; an error
has a code and no traceback; the same command, run again on a sound disk, makes all of it, every
byte of store and registry matches its digest, and no temporary file is left. What did not hold is
counted in the last column. {described()}

| command | faults | succeeded all the same | refused | did not hold |
|---|--:|--:|--:|--:|
{tables["scenario"]}

| fault | faults | succeeded all the same | refused | did not hold |
|---|--:|--:|--:|--:|
{tables["kind"]}
"""
    path = RESULTS / "faults.md"
    kills = path.read_text().partition(FAILING)[0].rstrip() if path.exists() else ""
    path.write_text(f"{kills}\n\n{text}")


if __name__ == "__main__":
    main()
