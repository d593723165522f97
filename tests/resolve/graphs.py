"""Random registries in memory: cycles, extras, yanked, pre-releases, pins, fit, drift, policies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modpkg.core.names import module_name, parse_requirement
from modpkg.core.records import (
    Expects,
    IndexLine,
    Provenance,
    Provides,
    ReleaseRecord,
    TensorEntry,
    TensorType,
    TouchedTensor,
)
from modpkg.manifest.limits import DEFAULTS
from modpkg.registry.allowance import Allowance
from modpkg.resolve.catalog import Catalog
from modpkg.resolve.need import Need, root_needs
from modpkg.resolve.policy import Policy

DIGEST, OTHER = ("sha256:" + digit * 64 for digit in "06")
"""Of a release: its one tensor, which all others are made for or not, has the same digest."""
SMALL, LARGE = ("sha256:" + digit * 64 for digit in "12")
EXPECTS_SMALL, EXPECTS_LARGE, EXPECTS_NOTHING = ("sha256:" + digit * 64 for digit in "345")
EXPECTS_OTHER = "sha256:" + "7" * 64
PROVIDES = {
    SMALL: Provides(tensors={"w": TensorType("F32", [2])}, ports={}),
    LARGE: Provides(tensors={"w": TensorType("F32", [4])}, ports={}),
}
EXPECTS = {
    EXPECTS_SMALL: Expects(tensors={"w": TouchedTensor("F32", [2], DIGEST)}),
    EXPECTS_LARGE: Expects(tensors={"w": TouchedTensor("F32", [4], DIGEST)}),
    EXPECTS_OTHER: Expects(tensors={"w": TouchedTensor("F32", [2], OTHER)}),
    EXPECTS_NOTHING: Expects(),
}


class MemoryRegistry:
    """What a catalog asks of a registry, without files."""

    url = shown = "memory"
    name = "memory"
    folder = Path()
    listing = ""

    def __init__(self, lines: Sequence[IndexLine]) -> None:
        self.lines: dict[str, list[IndexLine]] = {}
        for line in lines:
            self.lines.setdefault(line.name, []).append(line)
        self.allowance = Allowance("memory", DEFAULTS)

    def resolved_index(self, name: str) -> list[IndexLine]:
        return self.lines.get(name, [])

    def knows(self, name: str) -> bool:
        return name in self.lines

    def lost(self, name: str) -> str:
        return ""

    def warn_of_lost(self) -> None:
        pass

    def likely_names(self) -> list[str]:
        return sorted(self.lines)

    def record(self, line: IndexLine) -> ReleaseRecord:
        digest = line.release
        return ReleaseRecord(
            name=line.name,
            version=line.version,
            kind=line.kind,
            license="MIT",
            manifest={},
            tensors={"w": TensorEntry("F32", [2], digest, pack=digest, offset=0, length=8)},
            provenance=Provenance(built_with="hand"),
        )

    def provides(self, digest: str) -> Provides:
        return PROVIDES[digest]

    def expects(self, digest: str) -> Expects:
        return EXPECTS[digest]


@dataclass
class Graph:
    """A registry and what is asked of it."""

    roots: list[str]
    lines: list[IndexLine]
    locked: dict[str, str] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)

    def catalog(self) -> Catalog:
        return Catalog(MemoryRegistry(self.lines))

    def needs(self) -> list[Need]:
        found = []
        for number, text in enumerate(self.roots, 1):
            wanted = parse_requirement(text)
            found += root_needs(
                wanted.name, wanted.extras, wanted.specifier, f"modpkg.toml:{number}"
            )
        return found

    def __str__(self) -> str:
        rows = "\n".join(
            f"  {line.name} {line.version} -> {', '.join(line.requires)}"
            f" {line.extras or ''} {'yanked' if line.yanked is not None else ''}"
            f" {line.provides or ''} {line.expects or ''} {line.release}"
            for line in self.lines
        )
        return f"roots {', '.join(self.roots)}; locked {self.locked}; {self.policy}\n{rows}"


def line(name: str, version: str, *requires: str, **fields: object) -> IndexLine:
    return IndexLine(
        name=name,
        version=version,
        kind="collection",
        requires=list(requires),
        **{"release": DIGEST, **fields},
    )


def plain(table: str, *roots: str) -> Graph:
    """Return a graph from ``name version -> need, need; …``."""
    lines = []
    for row in table.split(";"):
        head, _, needs = row.partition("->")
        name, version = head.split()
        # "p5>=2,<=3" contains a comma: needs are separated by ", ".
        lines.append(
            line(name, version, *(need.strip() for need in needs.split(", ") if need.strip()))
        )
    return Graph(list(roots), lines)


FINAL = ["1", "1.1", "2", "2.1", "3", "3.0.1", "4", "5"]
ODD = ["2rc1", "3a1", "2.dev1", "3.post1", "1!1", "2.1b2.post1"]
EXTRAS = ["x", "y"]


def random_graph(rng: random.Random, *, names: int, versions: int, tightness: float = 0.5) -> Graph:
    """Return a random graph; ``rng`` may be hypothesis's, so that failures shrink."""
    count = rng.randint(max(1, names // 2), names)
    cyclic = rng.random() < 0.5
    fits = rng.random() < 0.4
    odd = rng.random() < 0.4
    pool = FINAL[: versions + 1] + (ODD if odd else [])
    known = [f"n{number}" for number in range(count)]

    def bound() -> str:
        operator = rng.choice([">=", "<=", "<=", "<", "<", ">", "!=", "~=", "=="])
        version = rng.choice(pool)
        if operator == "~=" and "." not in version.replace(".dev", "").replace(".post", ""):
            version = "2.0"
        if operator in ("==", "!=") and version in FINAL and rng.random() < 0.2:
            version += ".*"
        return operator + version

    def need(targets: Sequence[str]) -> str:
        name = rng.choice(list(targets)) if rng.random() > 0.005 else "missing"
        extra = f"[{rng.choice(EXTRAS)}]" if rng.random() < 0.15 else ""
        bounds = [
            bound() for _ in range(rng.choice([1, 1, 1, 2]) if rng.random() < tightness else 0)
        ]
        return f"{name}{extra}{','.join(bounds)}"

    lines = []
    for number, name in enumerate(known):
        targets = known if cyclic else known[number + 1 :]
        for version in rng.sample(pool, rng.randint(1, min(versions, len(pool)))):
            wanted = [need(targets) for _ in range(rng.choice([0, 1, 2, 2]))] if targets else []
            extras = {
                extra: [need(targets) for _ in range(rng.randint(0, 2))] if targets else []
                for extra in EXTRAS
                if rng.random() < 0.3
            }
            expects = {}
            if fits and targets and rng.random() < 0.25:
                expects[rng.choice(list(targets))] = rng.choice(list(EXPECTS))
            lines.append(
                line(
                    name,
                    version,
                    *wanted,
                    extras=extras,
                    expects=expects,
                    provides=rng.choice([SMALL, SMALL, SMALL, LARGE, None]) if fits else None,
                    release=rng.choice([DIGEST, OTHER]) if fits else DIGEST,
                    yanked="" if rng.random() < 0.05 else None,
                )
            )
    roots = [
        need(known) if rng.random() < 0.3 else rng.choice(known) for _ in range(rng.randint(1, 3))
    ]
    roots = [root for root in roots if not root.startswith("missing")] or [known[0]]
    locked = {}
    if rng.random() < 0.3:
        some = rng.choice(lines)
        locked[some.name] = some.version
    assert all(module_name(name) == name for name in known)
    return Graph(roots, lines, locked, random_policy(rng, known))


def random_policy(rng: random.Random, names: Sequence[str]) -> Policy:
    """Return a policy, most often the default."""
    return Policy(
        strategy=rng.choice(["highest"] * 5 + ["lowest", "lowest-direct"]),
        prereleases=frozenset(name for name in names if rng.random() < 0.1),
        fit="any" if rng.random() < 0.2 else "exact-first",
        strict=rng.random() < 0.2,
    )
