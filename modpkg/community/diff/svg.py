"""Tensors as a picture: one square for each, parts down, layers across."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from msgspec import Struct

from modpkg.community.diff.tensors import Difference, TensorDifference, layer_of, part_of

_CELL, _GAP, _TOP, _SIDE = 16, 2, 56, 12
_LETTER = 6.2
"""Width of a letter of the labels, about."""
_SAME = "#e8e8e8"
_OTHER = "#f2c14e"
"""Added, removed or of another shape."""
_LOW, _HIGH = (198, 219, 239), (8, 48, 107)
"""The palette's ends: ColorBrewer's Blues, readable in grey too."""


class Square(Struct, frozen=True):
    """One tensor of a picture."""

    name: str
    shade: float | None
    """How dark it is; 0 for one that is the same, None for what cannot be measured."""
    tip: str
    """What is told of it, beside its name."""


def picture(found: Difference, title: str) -> str:
    """Return the difference as an SVG.

    The darker a square, the larger ‖B − A‖ / ‖A‖ of its tensor, on a logarithmic scale from the
    smallest to the largest that there is. Each square has the numbers in its tooltip.
    """
    return draw(
        [Square(tensor.name, _shade(tensor), _tip(tensor)) for tensor in found.tensors],
        title,
        same="same",
        other="added, removed, reshaped",
        scale="relative change",
    )


def draw(squares: Sequence[Square], title: str, *, same: str, other: str, scale: str) -> str:
    """Return tensors as an SVG; the words are the legend's, ``scale`` that of the shades."""
    parts = list(dict.fromkeys(part_of(square.name) for square in squares))
    placed = {square.name: layer_of(square.name) for square in squares}
    numbered = sorted({layer for layer in placed.values() if layer is not None})
    without = any(layer is None for layer in placed.values())
    layers: list[int | None] = [None, *numbered] if without else [*numbered]
    measured = [square.shade for square in squares if square.shade]
    low, high = (min(measured), max(measured)) if measured else (1.0, 1.0)
    left = _SIDE + max((len(part) for part in parts), default=0) * _LETTER + 8
    step = _CELL + _GAP
    width = max(left + len(layers) * step + _SIDE, _SIDE * 2 + len(title) * 7.5, 420.0)
    height = _TOP + len(parts) * step + 48
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-family="sans-serif" font-size="11">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_SIDE}" y="22" font-size="14">{escape(title)}</text>',
    ]
    for column, layer in enumerate(layers):
        if layer is None or (layer % 5 == 0 or len(layers) <= 12):
            middle = left + column * step + _CELL / 2
            label = "–" if layer is None else str(layer)
            lines.append(f'<text x="{middle:.1f}" y="{_TOP - 6}" {_MIDDLE}>{label}</text>')
    for row, part in enumerate(parts):
        y = _TOP + row * step
        lines.append(f'<text x="{_SIDE}" y="{y + 12}">{escape(part)}</text>')
    column_of = {layer: number for number, layer in enumerate(layers)}
    row_of = {part: number for number, part in enumerate(parts)}
    for square in squares:
        x = left + column_of[placed[square.name]] * step
        y = _TOP + row_of[part_of(square.name)] * step
        tip = escape(f"{square.name}: {square.tip}")
        lines.append(
            f'<rect x="{x:.1f}" y="{y}" width="{_CELL}" height="{_CELL}" '
            f'fill="{_colour(square.shade, low, high)}"><title>{tip}</title></rect>'
        )
    entries = [(_SAME, same), (_OTHER, other)]
    if measured:
        ends = [(_mix(0.0), f"{low:.2g}"), (_mix(1.0), f"{high:.2g} ({scale})")]
        entries += ends if low != high else ends[1:]
    lines += _legend(height - 30, entries)
    return "\n".join([*lines, "</svg>"]) + "\n"


_MIDDLE = 'text-anchor="middle"'


def _shade(tensor: TensorDifference) -> float | None:
    if tensor.status == "same":
        return 0.0
    if tensor.status != "changed" or not 0 < tensor.relative < math.inf:
        return None
    return tensor.relative


def _colour(shade: float | None, low: float, high: float) -> str:
    if shade is None:
        return _OTHER
    if shade == 0:
        return _SAME
    span = math.log(high / low)
    return _mix(math.log(shade / low) / span if span else 1.0)


def _mix(share: float) -> str:
    mixed = (round(a + (b - a) * share) for a, b in zip(_LOW, _HIGH, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)


def _tip(tensor: TensorDifference) -> str:
    if tensor.status != "changed":
        return tensor.status
    return (
        f"{tensor.changed} of {tensor.elements} values, "
        f"relative change {tensor.relative:.3g}, largest {tensor.largest:.3g}"
    )


def _legend(y: int, entries: Sequence[tuple[str, str]]) -> list[str]:
    lines, x = [], float(_SIDE)
    for colour, text in entries:
        lines.append(
            f'<rect x="{x:.1f}" y="{y}" width="{_CELL}" height="{_CELL}" fill="{colour}"/>'
        )
        lines.append(f'<text x="{x + _CELL + 4:.1f}" y="{y + 12}">{text}</text>')
        x += _CELL + 16 + len(text) * _LETTER
    return lines
