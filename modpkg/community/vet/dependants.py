"""Reverse dependants: the published modules that would run with a new release of a module."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from modpkg.core.errors import ModpkgError
from modpkg.core.names import read_requirement
from modpkg.core.records import IndexLine
from modpkg.registry.reader import Registry
from modpkg.registry.select import newest_release
from modpkg.registry.upkeep import fetch_indexes

KINDS = ("adapter", "head", "expert", "patch", "model")
"""The kinds of modules that can be dependants."""


class Dependant(Struct, frozen=True):
    """The newest release of a module that requires another one."""

    line: IndexLine
    allows: bool
    """Whether its requirement allows the candidate."""
    specifier: str
    """Its requirement's version specifier, or ``any version``."""
    popularity: int
    """Number of modules that require it."""
    touched: float
    """Share of the tensors that it uses that the candidate changes."""


def dependants_of(
    name: str,
    version: str,
    registry: Registry,
    tensors: Mapping[str, str],
) -> list[Dependant] | None:
    """Return the dependants of a module, most relevant first; None if names cannot be listed.

    Of each name the newest release counts (`newest_release`). Most relevant are those that many
    others require, then those that use most of the tensors that the candidate changed, then by
    name.

    Args:
        name: The module.
        version: The candidate's version.
        registry: Where dependants are looked for.
        tensors: The digest of each tensor of the candidate, by name.
    """
    names = registry.names()
    if names is None and not registry.offline and (listed := registry.modules()) is not None:
        names = sorted(listed)
        fetch_indexes(registry, names)
    if names is None:
        return None
    newest = {
        other: line
        for other in names
        if (line := newest_release(registry.index(other))) is not None
    }
    required_by: dict[str, set[str]] = {}
    for other, line in newest.items():
        for text in line.requires:
            required_by.setdefault(read_requirement(text).name, set()).add(other)
    dependants = []
    for other in sorted(required_by.get(name, ())):
        line = newest[other]
        if line.kind not in KINDS or other == name:
            continue
        requirements = map(read_requirement, line.requires)
        specifier = next(item.specifier for item in requirements if item.name == name)
        dependants.append(
            Dependant(
                line=line,
                allows=specifier.contains(version, prereleases=True),
                specifier=str(specifier) or "any version",
                popularity=len(required_by.get(other, ())),
                touched=_touched(line, name, registry, tensors),
            )
        )
    return sorted(dependants, key=lambda d: (-d.popularity, -d.touched, d.line.name))


def _touched(line: IndexLine, name: str, registry: Registry, tensors: Mapping[str, str]) -> float:
    """Return the share of the tensors that a release expects that differ in the candidate."""
    if (digest := line.expects.get(name)) is None:
        return 0.0
    try:
        expects = registry.expects(digest)
    except ModpkgError:
        return 0.0  # only the order depends on it
    if not expects.tensors:
        return 0.0
    changed = sum(tensors.get(key) != item.digest for key, item in expects.tensors.items())
    return changed / len(expects.tensors)
