"""The solver's work is bounded, by a count that is the same on every machine."""

from __future__ import annotations

import json
from pathlib import Path

from packaging.specifiers import SpecifierSet

from modpkg.manifest.config import Settings
from modpkg.manifest.limits import DEFAULTS
from modpkg.registry.reader import Registry
from modpkg.resolve.catalog import Catalog
from modpkg.resolve.need import Need, root_needs
from modpkg.resolve.resolve import resolve
from tests.raising import raises


def write_pigeons(registry: Path, count: int) -> list[Need]:
    """Write a registry in which each of some modules needs one of too few others for itself."""
    (registry / "index").mkdir(parents=True)
    (registry / "registry.json").write_text('{"spec":1,"name":"r"}')
    holes = range(count - 1)
    table = {f"hole{at}": [[] for _ in range(count)] for at in holes} | {
        f"pigeon{own}": [[f"hole{at}==1.{own}"] for at in holes] for own in range(count)
    }
    for name, rows in table.items():
        lines = [
            {"name": name, "version": f"1.{at}", "kind": "collection", "requires": needs}
            | {"release": f"sha256:{0:064}"}
            for at, needs in enumerate(rows)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (registry / "index" / f"{name}.jsonl").write_text(text)
    return [
        need
        for own in range(count)
        for need in root_needs(f"pigeon{own}", (), SpecifierSet(), "modpkg.toml:3")
    ]


def test_a_search_ends_when_its_work_is_done(tmp_path: Path) -> None:
    roots = write_pigeons(tmp_path / "r", 8)

    def solve(work: int) -> None:
        settings = Settings(limits={**DEFAULTS, "solver-work": work})
        resolve(roots, Catalog(Registry(str(tmp_path / "r"), settings=settings)))

    for _ in range(2):
        with raises("M403", match="In 500 steps, .* pigeon0, pigeon1, pigeon2 and 5 more"):
            solve(500)
    with raises("M401"):
        solve(10_000)
