"""Registries of many modules with many versions, and commands that fail with some of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from tests.command import modpkg
from tests.modules import publish_collection, publish_versions

Requires = Mapping[str, Mapping[str, Mapping[str, str]]]
"""By name and version, what a release requires."""

READ_LOCK = """
import os, re, signal, sys, time
from pathlib import Path
project = Path(os.environ["MODPKG_PROJECT"])
text = (project / "modpkg.lock").read_text()
found = re.findall(r'name = "(\\S+)"\\nversion = "(\\S+)"', text)
v = {name: tuple(map(int, version.split("."))) for name, version in found}
runs = Path(__file__).with_name(".runs")  # hidden: it is no change of the folder
with open(runs, "a") as file:
    file.write(f"{v}\\n")
count = len(runs.read_text().splitlines())
"""


def publish_many(registry: Path, names: list[str], versions: int) -> None:
    """Publish 1.1 … 1.<versions> of each name."""
    for name in names:
        publish_versions(registry, name, [f"1.{number}" for number in range(1, versions + 1)])


def publish_graph(registry: Path, graph: Requires) -> None:
    for name, releases in graph.items():
        for version, requires in releases.items():
            publish_collection(registry, name, version, dict(requires))


def write_app(
    folder: Path, requires: Mapping[str, str], constraints: Mapping[str, str] | None = None
) -> None:
    """Write an app's modpkg.toml."""
    lines = ["[app]", 'name = "app"', "[dependencies]"]
    lines += [f'{name} = "{text}"' for name, text in requires.items()]
    if constraints:
        lines += ["[constraints]", *(f'{name} = "{text}"' for name, text in constraints.items())]
    (folder / "modpkg.toml").write_text("\n".join(lines) + "\n")


def lock_as(
    name: str,
    folder: Path,
    requires: Mapping[str, str],
    constraints: Mapping[str, str] | None = None,
) -> Path:
    """Lock an app under constraints, and keep the lock under a name; modpkg.lock is gone then."""
    write_app(folder, requires, constraints)
    (folder / "modpkg.lock").unlink(missing_ok=True)
    modpkg("lock", cwd=folder)
    (folder / "modpkg.lock").rename(folder / name)
    write_app(folder, requires)
    return folder / name


def write_check(folder: Path, code: str) -> list[str]:
    """Write a command that may look at ``v``, versions by name as tuples; return its arguments."""
    (folder / "check.py").write_text(READ_LOCK + code + "\n")
    return [sys.executable, "check.py"]


def runs_of(folder: Path) -> int:
    """Return how often the command was run."""
    path = folder / ".runs"
    return len(path.read_text().splitlines()) if path.exists() else 0


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder but the command's own notes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".runs"
    }
