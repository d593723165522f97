"""A picture of where two releases differ: parts down, layers across, one square for each.

It is drawn inside the page, from classes that the style sheet colours for light and dark. Squares
of one colour are one path, so that thousands of them take some ten kilobytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from modpkg.server.pages.tensor_groups import without_numbers

Difference = Literal["same", "changed", "reshaped", "added", "removed"]

_CELL, _STEP, _TOP, _LETTER = 14, 16, 22, 6.7
_MOST_PARTS, _MOST_COLUMNS = 32, 64
_LONGEST = 44
"""Characters of a part's name that are shown."""
_COMMON = ".weight"
"""Left out where all parts end with it."""

SHADES = (
    ("same", "unchanged"),
    ("few", "up to 10 % new"),
    ("some", "up to a third"),
    ("many", "up to two thirds"),
    ("all", "more, or all"),
    ("moved", "added, removed or reshaped"),
)
"""The classes of squares, and what they mean; in the order of the legend."""


class PictureCell(Struct, frozen=True):
    """A tensor of a picture."""

    name: str
    difference: Difference
    share: float
    """How much of it is new: the share of its bytes that an update fetches; 0 for ``same``."""


class Label(Struct, frozen=True):
    """A text in a picture."""

    x: float
    y: float
    text: str


class Squares(Struct, frozen=True):
    """The squares of one class, as an SVG path."""

    shade: str
    path: str


class Picture(Struct, frozen=True):
    """A picture to draw; lengths are in pixels."""

    width: float
    height: float
    rows: tuple[Label, ...]
    columns: tuple[Label, ...]
    squares: tuple[Squares, ...]
    legend: tuple[tuple[str, str], ...]
    """Class and meaning of the shades that occur."""
    parts_left: int
    """Parts that are left out."""
    together: int
    """Layers that one square stands for."""


def picture_of(cells: Iterable[PictureCell], everything: str = "more, or all") -> Picture | None:
    """Return the picture of a comparison; None where there is nothing to draw.

    ``everything`` is what the darkest squares mean.
    """
    found: dict[str, dict[int | None, list[PictureCell]]] = {}
    for cell in cells:
        part, of = without_numbers(cell.name)
        found.setdefault(part, {}).setdefault(of[0] if of else None, []).append(cell)
    if not found:
        return None
    rows_of = found.values()
    numbers = sorted({layer for row in rows_of for layer in row if layer is not None})
    together = -(-len(numbers) // _MOST_COLUMNS) or 1
    column_of = {layer: at // together for at, layer in enumerate(numbers)}
    parts = list(found)[:_MOST_PARTS]
    outside = any(None in found[part] for part in parts)
    first = int(outside)
    common = _COMMON if all(part.endswith(_COMMON) for part in parts) else ""
    names = [_shortened(part.removesuffix(common)) for part in parts]
    left = max(map(len, names)) * _LETTER + 8
    paths: dict[str, list[str]] = {}
    for row, part in enumerate(parts):
        columns: dict[int, list[PictureCell]] = {}
        for layer, ones in found[part].items():
            at = 0 if layer is None else first + column_of[layer]
            columns.setdefault(at, []).extend(ones)
        for at, ones in sorted(columns.items()):
            move = f"M{left + at * _STEP:g} {_TOP + row * _STEP}h{_CELL}v{_CELL}h-{_CELL}z"
            paths.setdefault(_shade(ones), []).append(move)
    meanings = dict(SHADES) | {"all": everything}
    count = first + len(set(column_of.values()))
    every = 1 if count <= 16 else 5
    marks = {first + at: numbers[at * together] for at in range(0, count - first, every)}
    return Picture(
        width=left + count * _STEP + 4,
        height=_TOP + len(parts) * _STEP,
        rows=tuple(Label(0, _TOP + row * _STEP + 11, name) for row, name in enumerate(names)),
        columns=tuple(
            Label(left + at * _STEP + _CELL / 2, 14, str(of)) for at, of in marks.items()
        ),
        squares=tuple(Squares(name, "".join(paths[name])) for name, _ in SHADES if name in paths),
        legend=tuple((name, meanings[name]) for name, _ in SHADES if name in paths),
        parts_left=len(found) - len(parts),
        together=together,
    )


def _shade(cells: list[PictureCell]) -> str:
    if any(cell.difference not in ("same", "changed") for cell in cells):
        return "moved"
    share = sum(cell.share for cell in cells) / len(cells)
    if not share:
        return "same"
    if share <= 0.1:
        return "few"
    return "some" if share <= 1 / 3 else "many" if share <= 2 / 3 else "all"


def _shortened(part: str) -> str:
    return part if len(part) <= _LONGEST else "…" + part[1 - _LONGEST :]
