"""Where two releases differ, tensor by tensor, without reading a weight: by digests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec import Struct

from modpkg.core.records import Expects, Provides, TensorEntry
from modpkg.core.tensors import HashedTensor, identity_of
from modpkg.server.pages.picture import Difference, Picture, PictureCell, picture_of
from modpkg.server.pages.release_facts import changed_share
from modpkg.server.pages.tensor_groups import without_numbers

_MOST_PARTS = 40
"""Parts of a comparison that are kept to be shown."""


class DifferingPart(Struct, frozen=True):
    """The tensors of one part, over all layers."""

    part: str
    tensors: int
    counts: dict[Difference, int]


class TensorComparison(Struct, frozen=True):
    """How the tensors of two releases differ."""

    counts: dict[Difference, int]
    parts: tuple[DifferingPart, ...]
    """Those with a difference, the most differences first."""
    cells: tuple[PictureCell, ...]


class DrawnComparison(Struct, frozen=True):
    """A comparison as pages show it: without its single tensors."""

    counts: dict[Difference, int]
    parts: tuple[DifferingPart, ...]
    parts_left: int
    picture: Picture | None

    @property
    def differs(self) -> bool:
        return any(count for what, count in self.counts.items() if what != "same")


def drawn(comparison: TensorComparison, everything: str = "more, or all") -> DrawnComparison:
    """Return a comparison as pages show it; ``everything`` is what the darkest squares mean."""
    return DrawnComparison(
        comparison.counts,
        comparison.parts[:_MOST_PARTS],
        max(0, len(comparison.parts) - _MOST_PARTS),
        picture_of(comparison.cells, everything),
    )


def compare(
    before: Mapping[str, HashedTensor], after: Mapping[str, TensorEntry]
) -> TensorComparison:
    """Compare the tensors of two releases by name, type and digest."""
    return _comparison(_cell(name, before, after) for name in sorted({*before, *after}))


def touched(base: Provides, expects: Expects) -> TensorComparison:
    """Return which tensors of its base a module acts on."""
    return _comparison(
        PictureCell(name, "changed", 1.0)
        if name in expects.tensors
        else PictureCell(name, "same", 0.0)
        for name in sorted({*base.tensors, *expects.tensors})
    )


def _comparison(cells: Iterable[PictureCell]) -> TensorComparison:
    found = tuple(cells)
    parts: dict[str, Counter[Difference]] = {}
    for cell in found:
        parts.setdefault(without_numbers(cell.name)[0], Counter())[cell.difference] += 1
    rows = [
        DifferingPart(part, counts.total(), dict(counts))
        for part, counts in parts.items()
        if counts["same"] != counts.total()
    ]
    rows.sort(key=lambda row: (row.counts.get("same", 0) - row.tensors, row.part))
    return TensorComparison(dict(Counter(cell.difference for cell in found)), tuple(rows), found)


def _cell(
    name: str, before: Mapping[str, HashedTensor], after: Mapping[str, TensorEntry]
) -> PictureCell:
    if name not in after:
        return PictureCell(name, "removed", 1.0)
    if name not in before:
        return PictureCell(name, "added", 1.0)
    old, new = before[name], after[name]
    if identity_of(old) == identity_of(new):
        return PictureCell(name, "same", 0.0)
    if tuple(old.shape) != tuple(new.shape):
        return PictureCell(name, "reshaped", 1.0)
    return PictureCell(name, "changed", changed_share(new) or 1.0)
