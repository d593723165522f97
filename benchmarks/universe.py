"""Graphs to resolve: one random graph as a modpkg registry and as a PEP 691/658 simple index.

`tight` has a hidden solution (one version of each name), so it is solvable, and newer releases that
want older partners, so that newest first runs into conflicts. `easy` never conflicts.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

Table = dict[str, list[tuple[str, list[str]]]]


def tight(names: int, versions: int, deps: int, tightness: float, seed: int) -> Table:
    """Return a graph with conflicts and a hidden solution."""
    rng = random.Random(seed)
    known = [f"m{number:05d}" for number in range(names)]
    hidden = {name: rng.randint(versions // 2, versions - 1) for name in known}
    table: Table = {}
    for number, name in enumerate(known):
        rows = []
        base = _partners(rng, number, names, deps)
        for version in range(versions):
            needs = []
            for other in base:
                at = hidden[known[other]]
                if version == hidden[name]:
                    low, high = rng.randint(0, at), rng.randint(at + 1, versions)
                elif version > hidden[name] and rng.random() < tightness:
                    low, high = 0, max(1, at - rng.randint(0, 3))
                else:
                    low = rng.randint(0, versions - 1)
                    high = rng.randint(low + 1, versions)
                needs.append(f"{known[other]}>=1.{low},<1.{high}")
            rows.append((f"1.{version}", needs))
        table[name] = rows
    return table


def easy(names: int, versions: int, deps: int, seed: int) -> Table:
    """Return a graph on which newest first never conflicts: it has only lower bounds."""
    rng = random.Random(seed)
    table: Table = {}
    for number in range(names):
        base = _partners(rng, number, names, deps)
        table[f"m{number:05d}"] = [
            (f"1.{v}", [f"m{other:05d}>=1.{rng.randint(0, v)}" for other in base])
            for v in range(versions)
        ]
    return table


def _partners(rng: random.Random, number: int, names: int, deps: int) -> list[int]:
    later = range(number + 1, min(names, number + 401))
    return rng.sample(later, min(rng.randint(1, deps), len(later))) if later else []


def write_registry(table: Table, folder: Path) -> None:
    """Write a registry, and next to it an app that requires the first names."""
    index = folder / "registry" / "index"
    index.mkdir(parents=True)
    (folder / "registry" / "registry.json").write_text('{"spec":1,"name":"universe"}')
    for name, rows in table.items():
        lines = [
            {
                "name": name,
                "version": version,
                "kind": "collection",
                "requires": needs,
                "release": "sha256:" + hashlib.sha256(f"{name}{version}".encode()).hexdigest(),
                "size": 1,
                "published": "2026-01-01T00:00:00Z",
            }
            for version, needs in rows
        ]
        (index / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    wanted = "".join(f'{name} = "*"\n' for name in roots(table))
    (folder / "modpkg.toml").write_text(f'[app]\nname = "bench"\n[dependencies]\n{wanted}')


def write_simple(table: Table, folder: Path) -> None:
    """Write a simple index, and next to it the same requirements."""
    for name, rows in table.items():
        place = folder / "simple" / name
        place.mkdir(parents=True)
        files = []
        for version, needs in rows:
            wheel = f"{name}-{version}-py3-none-any.whl"
            text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            text += "".join(f"Requires-Dist: {need}\n" for need in needs)
            (place / f"{wheel}.metadata").write_text(text)
            digest = {"sha256": hashlib.sha256(text.encode()).hexdigest()}
            files.append({"filename": wheel, "url": wheel, "hashes": {}, "core-metadata": digest})
        (place / "index.json").write_text(
            json.dumps(
                {
                    "meta": {"api-version": "1.1"},
                    "name": name,
                    "versions": [version for version, _ in rows],
                    "files": files,
                }
            )
        )
    (folder / "requirements.in").write_text("\n".join(roots(table)) + "\n")


def roots(table: Table) -> list[str]:
    """Return the names that the app requires."""
    return list(table)[: max(5, len(table) // 100)]
