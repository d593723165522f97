"""Process CPU time of the command line: help, and an install that has nothing to do.

usage: python -m benchmarks.cli [--runs N]

Compared, in the same run, with a Python that does nothing and ``pip --help``. Writes
benchmarks/results/cli.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import described
from tests import tiny
from tests.command import modpkg

RESULTS = Path(__file__).parent / "results" / "cli.md"


def cpu_seconds(command: Sequence[str], folder: Path) -> float:
    """Run a command to its end and return its user and system time."""
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.execv(command[0], command)
    _, status, usage = os.wait4(child, 0)
    if status != 0:
        raise SystemExit(f"{command} failed")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure in turn, so that a drift of the machine affects all commands alike."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MODPKG_HOME"] = str(folder / "home")
        tiny.publish_talker(folder / "home" / "registry", folder / "projects")
        (folder / "app").mkdir()
        (folder / "app" / "modpkg.toml").write_text(
            '[app]\nname = "app"\n[dependencies]\ntalker = "*"\n'
        )
        modpkg("install", cwd=folder / "app")
        entry = str(Path(sys.executable).parent / "modpkg")
        commands = {
            "`python -c pass`": [sys.executable, "-c", "pass"],
            "`pip --help`": [str(Path(sys.executable).parent / "pip"), "--help"],
            "`modpkg --help`": [entry, "--help"],
            "`modpkg install`, nothing to do": [entry, "install"],
        }
        times: dict[str, list[float]] = {label: [] for label in commands}
        for _ in range(runs + 1):
            for label, command in commands.items():
                times[label].append(cpu_seconds(command, folder / "app"))
    lines = [
        "# The command line",
        "",
        f"`python -m benchmarks.cli`; {described()}; process CPU time (user and system), "
        f"{runs} runs in turn after one warm-up run.",
        "",
        "| command | median, ms | lowest | highest |",
        "|---|---:|---:|---:|",
    ]
    for label, found in times.items():
        kept = [1000 * seconds for seconds in found[1:]]
        middle = statistics.median(kept)
        lines.append(f"| {label} | {middle:.0f} | {min(kept):.0f} | {max(kept):.0f} |")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
