"""Kills at every change that a command makes to the file system, and what survives them.

usage: python -m benchmarks.faults [--every N] [SCENARIO…]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.machine import described
from tests.e2e.scenarios import SCENARIOS, Killings


def main() -> None:
    """Kill each command before each of its changes, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", choices=[[], *SCENARIOS], default=[])
    parser.add_argument("--every", type=int, default=1, help="try every N-th point only")
    options = parser.parse_args()
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


def _write(rows: list[str]) -> None:
    text = f"""# Kills

`python -m benchmarks.faults` kills each command (SIGKILL) just before each change that it makes to
the file system, as Python's audit events show them, then loads the installed model, runs the
command again, and checks every byte of store, registry and environment. A row is written only if
all of these checks passed at every point. {described()}

| command | changes | points tried | old / new version after the kill | all held | minutes |
|---|--:|--:|--:|--:|--:|
"""
    (RESULTS / "faults.md").write_text(text + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
