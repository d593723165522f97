"""How many runs bisecting takes, over random plantings, compared with ddmin and QuickXplain.

usage: python -m benchmarks.bisecting [--plantings N]     (writes benchmarks/results/bisect.md)

40 modules, each with 20 versions; one to three of them only break together, each from a random
version on. Everything but the command is real: locks, resolutions, the saved runs on disk.
"""

from __future__ import annotations

import argparse
import collections
import math
import os
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from modpkg.community.bisect.bisect import bisect
from modpkg.community.bisect.lock_mixes import Mix
from modpkg.community.bisect.minimize import Verdict, smallest_bad
from modpkg.community.bisect.session import TrialSession
from modpkg.community.bisect.trials import Command, Trials
from modpkg.core.progress import Progress
from modpkg.core.tree import BlobTree
from modpkg.environment.locking import make_lock
from modpkg.environment.open_registries import OpenRegistries
from modpkg.environment.plan import InstallRequest
from modpkg.environment.project import Project
from modpkg.environment.registries import Registries
from modpkg.resolve.lock import Lock

MODULES, VERSIONS = 40, 20
RESULTS = Path(__file__).parent / "results" / "bisect.md"
Planting = dict[str, int]
"""By module, the first version that breaks, together with all others of the planting."""


class PlantedJudge:
    """Fails where all modules of a planting are at their version or beyond."""

    def __init__(self, planting: Planting) -> None:
        self._planting = planting
        self._bad = False

    def prepare(self, mix: Mix) -> None:
        at = {module.name: int(module.version.split(".")[1]) for module in mix.lock.module}
        self._bad = all(at[name] >= first for name, first in self._planting.items())

    def judge(self, output: IO[bytes]) -> int:
        return int(self._bad)

    def clear(self) -> None:
        pass


def write_registry(folder: Path, chained: bool) -> None:
    """Write an index; when ``chained``, three modules in four are released in step with others."""
    index = folder / "registry" / "index"
    index.mkdir(parents=True)
    (folder / "registry" / "registry.json").write_text('{"spec":1,"name":"planted"}')
    for number in range(MODULES):
        lines = []
        for version in range(1, VERSIONS + 1):
            needs = f'"m{number - 1:02d}>=1.{version}"' if chained and number % 4 else ""
            lines.append(
                f'{{"name":"m{number:02d}","version":"1.{version}","kind":"collection",'
                f'"requires":[{needs}],"release":"sha256:{number:032x}{version:032x}","size":1,'
                '"published":"2026-01-01T00:00:00Z"}'
            )
        (index / f"m{number:02d}.jsonl").write_text("\n".join(lines) + "\n")


def manifest(bound: str | None = None) -> str:
    """Return an app that requires all modules within a range."""
    names = [f"m{number:02d}" for number in range(MODULES)]
    text = '[app]\nname = "bench"\n[dependencies]\n' + "".join(f'{n} = "*"\n' for n in names)
    if bound is not None:
        text += "[constraints]\n" + "".join(f'{name} = "{bound}"\n' for name in names)
    return text


def plantings(count: int, size: int, seed: int) -> list[Planting]:
    rng = random.Random(f"{seed}/{size}")
    return [
        {
            f"m{number:02d}": rng.randint(2, VERSIONS)
            for number in sorted(rng.sample(range(MODULES), size))
        }
        for _ in range(count)
    ]


def runs(folder: Path, planting: Planting, *, chained: bool) -> int:
    """Bisect one planting; return how often the command would have run."""
    project = Project(folder / "modpkg.toml")
    registries = Registries(project.parse(manifest()), OpenRegistries(BlobTree(folder / "cache")))
    locks: list[Lock] = [
        make_lock(project.parse(manifest(bound)), registries, None).lock
        for bound in ("==1.1", None)
    ]
    command = Command(arguments=["planted"], shown=str(planting), folder=str(folder))
    trials = Trials(command, PlantedJudge(planting), Progress(), lambda line: None)
    with trials.held(fresh=True):
        session = TrialSession(
            project,
            project,
            manifest(),
            registries,
            InstallRequest(),
            trials,
            lambda line: None,
        )
        found = bisect(session, *locks)
    blamed = {one.name: one.bad for one in found.blamed}
    assert blamed == {name: f"1.{first}" for name, first in planting.items()} or chained, planting
    return found.runs


# The alternatives, on modules alone -------------------------------------------------------------

Test = Callable[[frozenset[int]], bool]


def ddmin(count: int, fails: Test) -> frozenset[int]:
    """Search with Zeller and Hildebrandt's ddmin (IEEE TSE 28(2), 2002), without a cache."""
    units, parts = list(range(count)), 2
    while len(units) >= 2:
        size = math.ceil(len(units) / parts)
        chunks = [units[at : at + size] for at in range(0, len(units), size)]
        for chunk in chunks:
            if fails(frozenset(chunk)):
                units, parts = chunk, 2
                break
        else:
            for chunk in chunks:
                rest = [unit for unit in units if unit not in chunk]
                if parts > 2 and fails(frozenset(rest)):
                    units, parts = rest, max(parts - 1, 2)
                    break
            else:
                if parts >= len(units):
                    break
                parts = min(2 * parts, len(units))
    return frozenset(units)


def quickxplain(count: int, fails: Test) -> frozenset[int]:
    """Search with Junker's QuickXplain (AAAI 2004)."""

    def search(around: frozenset[int], new: bool, units: Sequence[int]) -> frozenset[int]:
        if new and fails(around):
            return frozenset()
        if len(units) == 1:
            return frozenset(units)
        first, second = units[: len(units) // 2], units[len(units) // 2 :]
        late = search(around.union(first), True, second)
        return late | search(around | late, bool(late), first)

    return search(frozenset(), False, range(count))


def prefixes(count: int, fails: Test) -> frozenset[int]:
    """Search as modpkg does."""

    def test(units: frozenset[int]) -> Verdict:
        return Verdict.BAD if fails(units) else Verdict.GOOD

    return smallest_bad([frozenset()] * count, test).units


def tests(search: Callable[[int, Test], frozenset[int]], planting: Planting) -> int:
    """Return how many different sets a search tests, except the empty and the full set."""
    wanted = frozenset(int(name[1:]) for name in planting)
    asked: set[frozenset[int]] = set()

    def fails(units: frozenset[int]) -> bool:
        asked.add(units)
        return wanted <= units

    assert search(MODULES, fails) == wanted
    return len(asked - {frozenset(), frozenset(range(MODULES))})


def shown(counts: Sequence[int]) -> str:
    return f"{statistics.mean(counts):.1f} | {max(counts)}"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--plantings", type=int, default=50)
    given = parser.parse_args()
    rows: dict[str, list[str]] = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as work:
        os.environ["MODPKG_HOME"] = str(Path(work, "home"))
        for chained in (False, True):
            folder = Path(work, str(chained))
            write_registry(folder, chained)
            os.environ["MODPKG_REGISTRY"] = str(folder / "registry")
            for size in (1, 2, 3):
                counts = [
                    runs(folder, planting, chained=chained)
                    for planting in plantings(given.plantings, size, 1)
                ]
                what = "in chains of four" if chained else "separately"
                rows["runs"].append(f"| {what} | {size} | {shown(counts)} |")
    for size in (1, 2, 3):
        drawn = plantings(given.plantings, size, 1)
        cells = [
            shown([tests(search, planting) for planting in drawn])
            for search in (prefixes, quickxplain, ddmin)
        ]
        rows["tests"].append(f"| {size} | {' | '.join(cells)} |")
    RESULTS.write_text(
        "# Bisecting: how many runs it takes\n\n"
        f"`python -m benchmarks.bisecting --plantings {given.plantings}`: {MODULES} changed "
        f"modules with {VERSIONS} versions each; one to three of them\nonly break together, each "
        f"from a random version on; {given.plantings} random plantings per row. Counts, not times: "
        "the same on\nevery machine.\n\n"
        "All runs of the command: both locks, the set of modules, the versions, the remedy. "
        "Released\nseparately, every planting was found with its exact versions; in chains of "
        "four, a new version needs the new\nversion of the previous module.\n\n"
        "| modules released | culprits | runs, mean | runs, most |\n|---|---:|---:|---:|\n"
        + "\n".join(rows["runs"])
        + "\n\nThe set of modules alone, compared with other search methods (different sets "
        "tested, except the two ends):\n\n"
        "| culprits | modpkg, mean | most | QuickXplain, mean | most | ddmin, mean | most |\n"
        "|---:|---:|---:|---:|---:|---:|---:|\n" + "\n".join(rows["tests"]) + "\n"
    )
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
