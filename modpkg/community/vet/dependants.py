"""Reverse dependants: what is published that a new release of a module would run with."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from modpkg.core.errors import ModpkgError
from modpkg.core.names import read_requirement
from modpkg.core.records import IndexLine
from modpkg.registry.reader import Registry
from modpkg.registry.select import newest_release

KINDS = ("adapter", "head", "expert", "patch", "model")


class Dependant(Struct, frozen=True):
    """The newest release of a name that requires the module."""

    line: IndexLine
    allows: bool
    """Whether its requirement allows the candidate."""
    asks: str
    """Its requirement's specifier."""
    popularity: int
    """How many other names require it."""
    touched: float
    """Of the tensors that it touches, the share that the candidate changes."""


def dependants_of(
    name: str,
    version: str,
    registry: Registry,
    tensors: Mapping[str, str],
) -> list[Dependant] | None:
    """Return what depends on a module, the most relevant first; None where nothing can list it.

    Of each name the newest release counts (`newest_release`). Relevant is what
    many others require, then what touches most of the tensors that the candidate (whose tensors'
    digests are ``tensors``) has otherwise, then the alphabet.
    """
    names = registry.names()
    if names is None:
        return None
    newest = {
        other: line
        for other in names
        if (line := newest_release(registry.index(other))) is not None
    }
    asked: dict[str, set[str]] = {}
    for other, line in newest.items():
        for text in line.requires:
            asked.setdefault(read_requirement(text).name, set()).add(other)
    found = []
    for other in sorted(asked.get(name, ())):
        line = newest[other]
        if line.kind not in KINDS or other == name:
            continue
        specifier = next(
            r for r in map(read_requirement, line.requires) if r.name == name
        ).specifier
        found.append(
            Dependant(
                line=line,
                allows=specifier.contains(version, prereleases=True),
                asks=str(specifier) or "any",
                popularity=len(asked.get(other, ())),
                touched=_touched(line, name, registry, tensors),
            )
        )
    return sorted(found, key=lambda d: (-d.popularity, -d.touched, d.line.name))


def _touched(line: IndexLine, name: str, registry: Registry, tensors: Mapping[str, str]) -> float:
    if (digest := line.expects.get(name)) is None:
        return 0.0
    try:
        expects = registry.expects(digest)
    except ModpkgError:
        return 0.0
    if not expects.tensors:
        return 0.0
    moved = sum(tensors.get(key) != item.digest for key, item in expects.tensors.items())
    return moved / len(expects.tensors)
