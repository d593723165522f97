"""The dependency graph of a release, drawn from left to right."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from modpkg.core.errors import ModpkgError
from modpkg.core.names import parse_requirement
from modpkg.core.records import IndexLine
from modpkg.server.pages.catalogue import Catalogue, required_line

_MOST_NODES, _DEEPEST = 40, 5
_WIDTH, _HEIGHT, _ACROSS, _DOWN, _MARGIN = 168, 42, 60, 14, 4
_BELOW = 48
"""How far down the middle of an edge is drawn that passes others."""
_LONGEST = 22
"""Characters of a name that are shown."""


class GraphNode(Struct, frozen=True, kw_only=True):
    """A module in a graph; lengths are in pixels."""

    name: str
    label: str
    """The name, shortened if need be."""
    version: str
    """Empty where the registry does not have a release that is allowed."""
    kind: str
    x: float
    y: float


class DependencyGraph(Struct, frozen=True, kw_only=True):
    """A graph to draw."""

    nodes: tuple[GraphNode, ...]
    edges: tuple[str, ...]
    """As SVG paths, from what needs to what is needed."""
    width: float
    height: float
    node_width: float
    node_height: float
    cut: bool
    """Whether modules are left out."""


def dependency_graph(catalogue: Catalogue, line: IndexLine) -> DependencyGraph | None:
    """Return what a release needs, and what that needs; None if it needs nothing.

    Of each module, the newest release is shown that the first requirement of it allows: an install
    may select others, where requirements of different modules meet.
    """

    def newest(requirement: str) -> IndexLine | None:
        try:
            releases = catalogue.releases_or_none(parse_requirement(requirement).name)
            return None if releases is None else required_line(releases, requirement)
        except ModpkgError:
            return None

    return lay_out(line, newest)


def lay_out(line: IndexLine, newest: Callable[[str], IndexLine | None]) -> DependencyGraph | None:
    """Return the graph below a release; ``newest`` returns the release for a requirement."""
    lines: dict[str, IndexLine | None] = {line.name: line}
    depth = {line.name: 0}
    pairs: list[tuple[str, str]] = []
    cut = False
    level: Iterable[str] = [line.name]
    for deep in range(1, _DEEPEST + 2):
        following: list[str] = []
        for name in level:
            above = lines[name]
            for text in () if above is None else above.requires:
                needed = str(parse_requirement(text).name)
                if needed not in lines:
                    if deep > _DEEPEST or len(lines) == _MOST_NODES:
                        cut = True
                        continue
                    lines[needed], depth[needed] = newest(text), deep
                    following.append(needed)
                pairs.append((name, needed))
        level = following
    if len(lines) == 1:
        return None
    # What is needed stands to the right of all that need it; circles end at the depth found first.
    for _ in range(_DEEPEST):
        for one, other in pairs:
            if depth[other] <= depth[one] < _DEEPEST and (other, one) not in pairs:
                depth[other] = depth[one] + 1
    columns: dict[int, list[str]] = {}
    for name in lines:
        columns.setdefault(depth[name], []).append(name)
    tallest = max(map(len, columns.values()))
    nodes = {}
    for column, names in columns.items():
        top = (tallest - len(names)) * (_HEIGHT + _DOWN) / 2
        for row, name in enumerate(names):
            nodes[name] = _node(name, lines[name], column, top + row * (_HEIGHT + _DOWN))
    bends = _ACROSS if any(depth[other] <= depth[one] for one, other in pairs) else 0
    below = _BELOW / 2 if any(depth[other] > depth[one] + 1 for one, other in pairs) else 0
    return DependencyGraph(
        nodes=tuple(nodes.values()),
        edges=tuple(_edge(nodes[one], nodes[other]) for one, other in dict.fromkeys(pairs)),
        width=2 * _MARGIN + max(columns) * (_WIDTH + _ACROSS) + _WIDTH + bends,
        height=2 * _MARGIN + tallest * (_HEIGHT + _DOWN) - _DOWN + below,
        node_width=_WIDTH,
        node_height=_HEIGHT,
        cut=cut,
    )


def _node(name: str, line: IndexLine | None, column: int, y: float) -> GraphNode:
    return GraphNode(
        name=name,
        label=name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…",
        version="" if line is None else line.version,
        kind="" if line is None else line.kind,
        x=_MARGIN + column * (_WIDTH + _ACROSS),
        y=_MARGIN + y,
    )


def _edge(start: GraphNode, end: GraphNode) -> str:
    middle = _HEIGHT / 2
    if end.x > start.x:
        left, right = start.x + _WIDTH, end.x - 5
        bend = (left + right) / 2
        y, to = start.y + middle, end.y + middle
        if right - left > _ACROSS:  # below what stands between them
            low = max(y, to) + _BELOW
            return f"M{left:g} {y:g}C{left + 70:g} {low:g} {right - 70:g} {low:g} {right:g} {to:g}"
        return f"M{left:g} {y:g}C{bend:g} {y:g} {bend:g} {to:g} {right:g} {to:g}"
    # In one column, or back to the left: around the right side.
    left, y, to = start.x + _WIDTH, start.y + middle, end.y + middle
    right, bend = end.x + _WIDTH + 5, start.x + _WIDTH + _ACROSS
    return f"M{left:g} {y:g}C{bend:g} {y:g} {bend:g} {to:g} {right:g} {to:g}"
