"""Drawing SVG: one title, shapes with tooltips, and a legend below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from msgspec import Struct

LETTER = 6.4
"""Approximate width of a character of the labels, in pixels."""


class Point(NamedTuple):
    """A place in a drawing, in pixels from the top left corner."""

    x: float
    y: float


class LegendEntry(Struct, frozen=True):
    """A sample and what it stands for."""

    label: str
    draw: Callable[[Drawing, Point], None]
    """Draws the sample to the right of a point, vertically centred on it."""
    width: float
    """Of the sample."""


class Drawing:
    """An SVG under construction; what is drawn later covers what was drawn before."""

    MARGIN = 12

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width = max(width, 2 * self.MARGIN + len(title) * 8.0, 420.0)
        self.height = height
        self._root = ElementTree.Element(
            "svg",
            {
                "xmlns": "http://www.w3.org/2000/svg",
                "width": _number(self.width),
                "height": _number(height),
                "viewBox": f"0 0 {_number(self.width)} {_number(height)}",
                "font-family": "sans-serif",
                "font-size": "11",
            },
        )
        self._add("title", {}, text=title)
        self._add("rect", {"width": "100%", "height": "100%", "fill": "white"})
        self.text(Point(self.MARGIN, 22), title, size=14)

    def text(
        self,
        at: Point,
        text: str,
        *,
        size: float | None = None,
        centred: bool = False,
        bold: bool = False,
    ) -> None:
        """Write text with its baseline at a point."""
        attributes: dict[str, str | float] = {"x": at.x, "y": at.y}
        if size is not None:
            attributes["font-size"] = size
        if centred:
            attributes["text-anchor"] = "middle"
        if bold:
            attributes["font-weight"] = "bold"
        self._add("text", attributes, text=text)

    def square(self, corner: Point, side: float, fill: str, tip: str = "") -> None:
        """Fill a square whose top left corner is given."""
        place: dict[str, str | float] = {"x": corner.x, "y": corner.y}
        self._add("rect", place | {"width": side, "height": side, "fill": fill}, tip=tip)

    def circle(
        self, centre: Point, radius: float, fill: str, *, dashed: bool = False, tip: str = ""
    ) -> None:
        """Draw a filled circle with an outline."""
        attributes: dict[str, str | float] = {
            "cx": centre.x,
            "cy": centre.y,
            "r": radius,
            "fill": fill,
        }
        attributes["stroke"] = "#333"
        if dashed:
            attributes["stroke-dasharray"] = "3 2"
        self._add("circle", attributes, tip=tip)

    def line(self, start: Point, end: Point, colour: str, width: float) -> None:
        """Draw a straight line with round ends."""
        attributes: dict[str, str | float] = {
            "x1": start.x,
            "y1": start.y,
            "x2": end.x,
            "y2": end.y,
        }
        attributes |= {"stroke": colour, "stroke-width": width, "stroke-linecap": "round"}
        self._add("line", attributes)

    def curve(self, points: Sequence[Point], colour: str, width: float) -> None:
        """Draw a cubic Bézier curve: its start, two control points and its end."""
        start, *rest = (f"{_number(x)} {_number(y)}" for x, y in points)
        path = f"M{start} C{' '.join(rest)}"
        self._add("path", {"d": path, "fill": "none", "stroke": colour, "stroke-width": width})

    def legend(self, entries: Sequence[LegendEntry]) -> None:
        """Draw samples with their labels along the lower edge."""
        x, y = float(self.MARGIN), self.height - 22
        for entry in entries:
            entry.draw(self, Point(x, y))
            self.text(Point(x + entry.width + 4, y + 4), entry.label)
            x += entry.width + 16 + len(entry.label) * LETTER

    def _add(
        self, tag: str, attributes: Mapping[str, str | float], *, tip: str = "", text: str = ""
    ) -> None:
        element = ElementTree.SubElement(
            self._root,
            tag,
            {
                name: _number(value) if isinstance(value, (int, float)) else str(value)
                for name, value in attributes.items()
            },
        )
        if text:
            element.text = text
        if tip:
            ElementTree.SubElement(element, "title").text = tip

    def svg(self) -> str:
        """Return the document."""
        ElementTree.indent(self._root, "")
        return ElementTree.tostring(self._root, encoding="unicode") + "\n"


def legend_width(entries: Sequence[LegendEntry]) -> float:
    """Return how wide a drawing has to be for a legend."""
    needed = sum(entry.width + 16 + len(entry.label) * LETTER for entry in entries)
    return 2 * Drawing.MARGIN + needed


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
