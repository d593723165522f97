"""Every hostile input of `tests/hostile`, those too that take longer than tests may.

usage: python -m benchmarks.hostile [CLASS…]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tests import forkserver
from tests.command import modpkg
from tests.hostile.inputs import KINDS
from tests.hostile.world import World

RESULTS = Path(__file__).parent / "results" / "hostile.md"


def main() -> None:
    """Run the inputs class by class, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("classes", nargs="*", choices=[[], *KINDS], default=[])
    given = parser.parse_args()
    rows, problems = [], []
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "world")
        world.build()
        world.keep("new")
        environment = {"MODPKG_HOME": str(world.home), "MODPKG_REGISTRY": str(world.registry)}
        modpkg("install", "talker", cwd=world.project, **environment)
        world.keep("installed")
        for kind in given.classes or KINDS:
            outcomes = _run(kind, world.root, Path(folder) / "report.json")
            wrong = [f"{kind}: {o['name']}: {o['problem'][:200]}" for o in outcomes if o["problem"]]
            worked = sum(o["status"] == 0 for o in outcomes)
            rows.append(
                f"| {kind} | {len(outcomes)} | {len(outcomes) - worked} | {worked} | {len(wrong)} "
                f"| {max(o['processor'] for o in outcomes):.1f} s "
                f"| {max(o['mebibytes'] for o in outcomes)} MB |"
            )
            problems += wrong
            print(rows[-1], *wrong, sep="\n", flush=True)
    _write(rows, problems)


def _run(kind: str, root: Path, report: Path) -> list[dict[str, Any]]:
    command = ("-m", "tests.hostile.runner", str(root), kind, str(report), "--heavy")
    done = forkserver.run(*command, cwd=forkserver.ROOT, env=os.environ, timeout=7200)
    if done.returncode:
        raise SystemExit(done.stderr)
    outcomes: list[dict[str, Any]] = json.loads(report.read_text())
    return outcomes


def _write(rows: list[str], problems: list[str]) -> None:
    from benchmarks.machine import described

    table = "\n".join(rows)
    told = "\n".join(f"- {problem}" for problem in problems) or "No problem."
    RESULTS.write_text(
        f"""# Hostile inputs

`python -m benchmarks.hostile`: what each input of `tests/hostile` ends with. *Most* is of one
input: time of the processor, and memory beside what is imported. {described()}

| class | inputs | refused | worked | problems | most time | most memory |
|---|--:|--:|--:|--:|--:|--:|
{table}

{told}
"""
    )


if __name__ == "__main__":
    main()
