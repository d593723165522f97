"""Where two candidates change the same weights: how many, and how many of them apart."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from modpkg.community.modules.reference import parse_reference
from modpkg.community.modules.view import view_of_release
from modpkg.community.patch.conflicts import find_overlaps
from modpkg.community.review.overlap import CandidateOverlap, base_of_candidate
from modpkg.core.candidates import CandidateLine
from modpkg.environment.workspace import Workspace


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


def measured(
    workspace: Workspace,
    one: CandidateLine,
    candidates: Sequence[CandidateLine],
    overlaps: Sequence[CandidateOverlap],
) -> list[CandidateConflict]:
    """Return overlaps with their values; the weights that they need are fetched.

    Raises:
        What fetching can raise.
    """
    registry = workspace.registries.of(one.line.name)
    line = base_of_candidate(registry.index(one.line.name), one)
    by_number = {other.number: other for other in candidates}
    found = []
    for overlap in overlaps if line is not None else ():
        if line is None:
            break
        number = parse_reference(overlap.other).candidate
        other = by_number[number or 0]
        names = set(overlap.tensors)
        base, own, theirs = (
            {name: ref for name, ref in view.locate(names & view.tensors.keys()).items()}
            for view in (view_of_release(each, workspace) for each in (line, one.line, other.line))
        )
        tensors = find_overlaps(base, [own, theirs]).tensors
        found.append(
            CandidateConflict(
                other=overlap.other,
                base=overlap.base,
                tensors=overlap.tensors,
                values=sum(tensor.different for tensor in tensors),
                opposite=sum(tensor.opposite for tensor in tensors),
            )
        )
    return found
