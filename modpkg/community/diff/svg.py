"""Tensors as a heat map: one square per tensor, parts down, layers across."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from modpkg.community.diff.tensors import TensorDiff, WeightsDiff, layer_of, part_of
from modpkg.community.svg import LETTER, Drawing, LegendEntry, Point, legend_width

_CELL, _GAP, _TOP, _BOTTOM = 16, 2, 56, 48
_UNCHANGED = "#e8e8e8"
_NOT_MEASURED = "#f2c14e"
_LOW, _HIGH = (198, 219, 239), (8, 48, 107)
"""The ends of the palette: ColorBrewer's Blues, readable in grey too."""


class Cell(Struct, frozen=True):
    """One tensor of a heat map."""

    name: str
    value: float | None
    """What its shade stands for: 0 for unchanged, None where nothing can be measured."""
    tip: str
    """The tooltip, after the name."""


def diff_svg(diff: WeightsDiff, title: str) -> str:
    """Return a diff as an SVG.

    The darker a square, the larger ‖B − A‖ / ‖A‖ of its tensor, on a logarithmic scale from the
    smallest to the largest one. The numbers are in the tooltips.
    """
    return heat_map(
        [Cell(tensor.name, _value(tensor), _tip(tensor)) for tensor in diff.tensors],
        title,
        unchanged="same",
        not_measured="added, removed, reshaped",
        scale="relative change",
    )


def heat_map(
    cells: Sequence[Cell], title: str, *, unchanged: str, not_measured: str, scale: str
) -> str:
    """Return tensors as an SVG.

    Args:
        cells: The tensors.
        title: The heading.
        unchanged: Label of cells with value 0.
        not_measured: Label of cells without a value.
        scale: What the values are.
    """
    parts = list(dict.fromkeys(part_of(cell.name) for cell in cells))
    layer_by_name = {cell.name: layer_of(cell.name) for cell in cells}
    numbered = sorted({layer for layer in layer_by_name.values() if layer is not None})
    outside = any(layer is None for layer in layer_by_name.values())
    layers: list[int | None] = [None, *numbered] if outside else [*numbered]
    values = [cell.value for cell in cells if cell.value]
    low, high = (min(values), max(values)) if values else (1.0, 1.0)

    margin, step = Drawing.MARGIN, _CELL + _GAP
    left = margin + max((len(part) for part in parts), default=0) * LETTER + 8
    legend = [_sample(_UNCHANGED, unchanged), _sample(_NOT_MEASURED, not_measured)]
    if values and low != high:
        legend.append(_sample(_shade(0.0), f"{low:.2g}"))
    if values:
        legend.append(_sample(_shade(1.0), f"{high:.2g} ({scale})"))
    width = max(left + len(layers) * step + margin, legend_width(legend))
    drawing = Drawing(width, _TOP + len(parts) * step + _BOTTOM, title)
    for column, layer in enumerate(layers):
        if layer is None or layer % 5 == 0 or len(layers) <= 12:
            middle = Point(left + column * step + _CELL / 2, _TOP - 6)
            drawing.text(middle, "–" if layer is None else str(layer), centred=True)
    for row, part in enumerate(parts):
        drawing.text(Point(margin, _TOP + row * step + 12), part)
    column_of = {layer: number for number, layer in enumerate(layers)}
    row_of = {part: number for number, part in enumerate(parts)}
    for cell in cells:
        x = left + column_of[layer_by_name[cell.name]] * step
        y = _TOP + row_of[part_of(cell.name)] * step
        fill = _colour(cell.value, low, high)
        drawing.square(Point(x, y), _CELL, fill, f"{cell.name}: {cell.tip}")
    drawing.legend(legend)
    return drawing.svg()


def _sample(colour: str, label: str) -> LegendEntry:
    def draw(drawing: Drawing, at: Point) -> None:
        drawing.square(Point(at.x, at.y - _CELL / 2), _CELL, colour)

    return LegendEntry(label, draw, _CELL)


def _value(tensor: TensorDiff) -> float | None:
    if tensor.status == "same":
        return 0.0
    if tensor.status != "changed" or not 0 < tensor.relative < math.inf:
        return None
    return tensor.relative


def _colour(value: float | None, low: float, high: float) -> str:
    if value is None:
        return _NOT_MEASURED
    if value == 0:
        return _UNCHANGED
    span = math.log(high / low)
    return _shade(math.log(value / low) / span if span else 1.0)


def _shade(share: float) -> str:
    mixed = (round(a + (b - a) * share) for a, b in zip(_LOW, _HIGH, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _tip(tensor: TensorDiff) -> str:
    if tensor.status != "changed":
        return tensor.status
    return (
        f"{tensor.changed} of {tensor.elements} values, "
        f"relative change {tensor.relative:.3g}, largest {tensor.largest:.3g}"
    )
