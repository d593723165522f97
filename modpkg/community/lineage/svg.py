"""A lineage as a graph: one lane per module, releases from left to right, arcs between them."""

from __future__ import annotations

from collections.abc import Sequence

from modpkg.community.lineage.lineage import RELATIONS, Ancestor, Lineage, in_order
from modpkg.community.svg import LETTER, Drawing, LegendEntry, Point, legend_width
from modpkg.core.names import parse_version
from modpkg.core.records import Relation

_STEP, _LANE, _TOP, _BOTTOM, _RADIUS = 84, 62, 62, 44, 8
_MOST_LETTERS = 12
"""Of a version that is written below its release; the tooltip has all of it."""
_COLOURS: dict[Relation, str] = {
    "built": "#9aa0a6",
    "merged": "#7b3294",
    "trained": "#e08214",
    "forked": "#1b7837",
    "patched": "#2166ac",
}
"""By relation; ColorBrewer's diverging ends, which differ in grey too."""
_FILLS = {"release": "#333", "yanked": "#c9c9c9"}


def lineage_svg(lineage: Lineage) -> str:
    """Return the lineage as an SVG; the tooltip of a release has everything known about it."""
    nodes = lineage.ancestors
    order = in_order(nodes)
    lanes = list(dict.fromkeys([lineage.name, *(nodes[digest].name for digest in order)]))
    left = Drawing.MARGIN + max(map(len, lanes)) * LETTER + 24
    places = {
        digest: Point(left + column * _STEP, _lane_y(lanes, nodes[digest].name))
        for column, digest in enumerate(order)
    }
    legend = _legend(list(nodes.values()))
    width = max(left + len(order) * _STEP, legend_width(legend))
    drawing = Drawing(width, _TOP + len(lanes) * _LANE + _BOTTOM, f"Lineage of {lineage.name}")
    for name in lanes:
        y = _lane_y(lanes, name)
        drawing.text(Point(Drawing.MARGIN, y + 4), name, bold=name == lineage.name)
        columns = [places[digest].x for digest in order if nodes[digest].name == name]
        drawing.line(Point(min(columns), y), Point(max(columns), y), "#e3e3e3", 6)
    for digest in order:
        for parent in nodes[digest].parents:
            if parent.release in places:
                curve = _arc(places[parent.release], places[digest])
                drawing.curve(curve, _COLOURS[parent.relation], 2)
    for digest in order:
        _draw_release(drawing, places[digest], nodes[digest])
    drawing.legend(legend)
    return drawing.svg()


def _lane_y(lanes: Sequence[str], name: str) -> float:
    return _TOP + lanes.index(name) * _LANE + 20


def _arc(start: Point, end: Point) -> list[Point]:
    """Return a curve between two releases; within a lane it passes above those between them."""
    if start.y != end.y:
        middle = (start.x + end.x) / 2
        return [start, Point(middle, start.y), Point(middle, end.y), end]
    top = start.y - min(14 + abs(end.x - start.x) / 12, _LANE * 0.7)
    return [start, Point(start.x + 20, top), Point(end.x - 20, top), end]


def _state(node: Ancestor) -> str:
    """Return the state of a release, which decides how it is drawn."""
    if node.missing:
        return "missing"
    if node.yanked is not None:
        return "yanked"
    return "pre-release" if parse_version(node.version).is_prerelease else "release"


def _draw_release(drawing: Drawing, at: Point, node: Ancestor) -> None:
    _draw_circle(drawing, at, _state(node), _tip(node))
    version = node.version
    if len(version) > _MOST_LETTERS:
        version = version[: _MOST_LETTERS - 1] + "…"
    drawing.text(Point(at.x, at.y + 22), version, centred=True)


def _draw_circle(drawing: Drawing, at: Point, state: str, tip: str = "") -> None:
    fill = _FILLS.get(state, "white")
    drawing.circle(at, _RADIUS, fill, dashed=state == "missing", tip=tip)


def _tip(node: Ancestor) -> str:
    if node.missing:
        return f"{node.label}: {node.missing}\n{node.release}"
    lines = [f"{node.label} ({node.kind}, {node.license})", node.published, node.release]
    if node.yanked is not None:
        lines.append(f"yanked: {node.yanked}")
    if node.breaking:
        lines.append(f"breaks: {node.breaking}")
    return "\n".join(line for line in lines if line)


def _legend(nodes: Sequence[Ancestor]) -> list[LegendEntry]:
    """Return the relations and the states that occur."""
    used = {parent.relation for node in nodes for parent in node.parents}
    states = sorted({_state(node) for node in nodes} - {"release"})
    return [
        *(_relation_entry(relation) for relation in _COLOURS if relation in used),
        *(_state_entry(state) for state in states),
    ]


def _relation_entry(relation: Relation) -> LegendEntry:
    def draw(drawing: Drawing, at: Point) -> None:
        drawing.line(at, Point(at.x + 22, at.y), _COLOURS[relation], 2)

    return LegendEntry(RELATIONS[relation], draw, 22)


def _state_entry(state: str) -> LegendEntry:
    def draw(drawing: Drawing, at: Point) -> None:
        _draw_circle(drawing, Point(at.x + _RADIUS, at.y), state)

    return LegendEntry(state, draw, 2 * _RADIUS)
