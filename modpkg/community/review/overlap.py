"""Which tensors two open candidates both change: by their records, without their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from modpkg.core.candidates import CandidateLine
from modpkg.core.errors import ModpkgError
from modpkg.core.names import parse_version
from modpkg.core.records import IndexLine, TensorEntry
from modpkg.core.tensors import identity_of
from modpkg.registry.reader import Registry
from modpkg.registry.select import earlier_release


class CandidateOverlap(Struct, frozen=True, kw_only=True):
    """What two candidates of a module change differently in one release."""

    other: str
    """The other candidate, as ``NAME#8``."""
    base: str
    """The release that both change, as ``NAME VERSION``."""
    tensors: list[str]
    """Those that both change, to different values; sorted."""


class CandidateConflict(Struct, frozen=True, kw_only=True):
    """What two candidates change differently, by value."""

    other: str
    """The other candidate, as ``NAME#8``."""
    base: str
    """The release that both change."""
    tensors: list[str]
    """Those that both change, to different values."""
    values: int
    """Values that both change to different ones."""
    opposite: int
    """Those of them that the two change in opposite directions."""


def base_of_candidate(lines: Sequence[IndexLine], one: CandidateLine) -> IndexLine | None:
    """Return the release that a candidate is compared with; None for a first release."""
    return earlier_release(lines, parse_version(one.line.version))


def changed_differently(
    base: Mapping[str, TensorEntry],
    first: Mapping[str, TensorEntry],
    second: Mapping[str, TensorEntry],
) -> list[str]:
    """Return the tensors of a base that two releases have both changed, and not to the same."""
    found = []
    for name in sorted({*base, *first, *second}):
        was, one, two = (
            None if name not in each else identity_of(each[name]) for each in (base, first, second)
        )
        if one not in (was, two) and two != was:
            found.append(name)
    return found


def overlaps_of(
    registry: Registry, one: CandidateLine, candidates: Sequence[CandidateLine]
) -> list[CandidateOverlap]:
    """Return what an open candidate and the other open ones of its module change differently.

    Those whose record cannot be read are left out, and all of them where there is no release
    before.

    Raises:
        RegistryUnreachable: The registry cannot be read now.
    """
    if one.status != "open":
        return []
    line = base_of_candidate(registry.index(one.line.name), one)
    others = [other for other in candidates if other.status == "open"]
    others = [other for other in others if other.line.release != one.line.release]
    if line is None or not others:
        return []
    try:
        base, own = registry.record(line).tensors, registry.record(one.line).tensors
    except ModpkgError:
        return []
    found = []
    for other in others:
        try:
            tensors = changed_differently(base, own, registry.record(other.line).tensors)
        except ModpkgError:
            continue
        if tensors:
            label = f"{line.name} {line.version}"
            found.append(CandidateOverlap(other=other.label, base=label, tensors=tensors))
    return found
