"""A lineage as a picture: one lane per module, releases from left to right, arcs between them."""

from __future__ import annotations

from html import escape

from modpkg.community.lineage.lineage import WORDS, Ancestor, Lineage, in_order
from modpkg.core.names import parse_version
from modpkg.core.records import Relation

_STEP, _LANE, _TOP, _SIDE, _RADIUS = 84, 62, 62, 16, 8
_LETTER = 6.6
"""Width of a letter of the labels, about."""
_COLOURS: dict[Relation, str] = {
    "built": "#9aa0a6",
    "merged": "#7b3294",
    "trained": "#e08214",
    "forked": "#1b7837",
    "patched": "#2166ac",
}
"""By relation; ColorBrewer's diverging ends, which differ in grey too."""


def family_picture(found: Lineage) -> str:
    """Return the lineage as an SVG; every release has what is known of it in its tooltip."""
    order = in_order(found.ancestors)
    lanes = _lanes(found, order)
    left = _SIDE + max(len(name) for name in lanes) * _LETTER + 24
    places = {
        digest: (
            left + column * _STEP,
            _TOP + lanes.index(found.ancestors[digest].name) * _LANE + 20,
        )
        for column, digest in enumerate(order)
    }
    used = [r for r in _COLOURS if any(_has(found.ancestors[d], r) for d in order)]
    marks = sorted({_mark(node) for node in found.ancestors.values()} - {"release"})
    title = f"Lineage of {found.name}"
    words = [*(WORDS[relation] for relation in used), *marks]
    legend = 2 * _SIDE + sum(44 + len(word) * _LETTER for word in words)
    width = max(left + len(order) * _STEP, 2 * _SIDE + len(title) * 8, legend, 320.0)
    height = _TOP + len(lanes) * _LANE + 44
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-family="sans-serif" font-size="11">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_SIDE}" y="24" font-size="14">{escape(title)}</text>',
    ]
    for row, name in enumerate(lanes):
        own = [d for d in order if found.ancestors[d].name == name]
        y = _TOP + row * _LANE + 20
        weight = ' font-weight="bold"' if name == found.name else ""
        lines.append(f'<text x="{_SIDE}" y="{y + 4}"{weight}>{escape(name)}</text>')
        ends = [places[digest][0] for digest in own]
        lines.append(
            f'<line x1="{min(ends):.1f}" y1="{y}" x2="{max(ends):.1f}" y2="{y}" '
            'stroke="#e3e3e3" stroke-width="6" stroke-linecap="round"/>'
        )
    lines += [
        _arc(places[parent.release], places[digest], _COLOURS[parent.relation])
        for digest in order
        for parent in found.ancestors[digest].parents
        if parent.release in places
    ]
    lines += [_release(found.ancestors[digest], places[digest]) for digest in order]
    return "\n".join([*lines, *_legend(used, marks, height - 22), "</svg>"]) + "\n"


def _lanes(found: Lineage, order: list[str]) -> list[str]:
    """Return the modules, the lineage's own first, the others as they come."""
    return list(dict.fromkeys([found.name, *(found.ancestors[d].name for d in order)]))


def _has(node: Ancestor, relation: Relation) -> bool:
    return any(parent.relation == relation for parent in node.parents)


def _arc(start: tuple[float, float], end: tuple[float, float], colour: str) -> str:
    """Return a curve between two releases; in one lane it goes above those between them."""
    (x1, y1), (x2, y2) = start, end
    if y1 == y2:
        rise = min(14 + abs(x2 - x1) / 12, _LANE * 0.7)
        path = f"M{x1:.1f} {y1} C{x1 + 20:.1f} {y1 - rise:.1f} {x2 - 20:.1f} {y1 - rise:.1f} "
    else:
        middle = (x1 + x2) / 2
        path = f"M{x1:.1f} {y1} C{middle:.1f} {y1} {middle:.1f} {y2} "
    return f'<path d="{path}{x2:.1f} {y2}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _mark(node: Ancestor) -> str:
    """Return how a release is drawn, by what is known of it."""
    if node.missing:
        return "missing"
    if node.yanked is not None:
        return "yanked"
    return "pre-release" if parse_version(node.version).is_prerelease else "release"


def _circle(x: float, y: float, mark: str) -> str:
    fill = {"release": "#333", "yanked": "#c9c9c9"}.get(mark, "white")
    dashes = ' stroke-dasharray="3 2"' if mark == "missing" else ""
    return f'<circle cx="{x:.1f}" cy="{y}" r="{_RADIUS}" fill="{fill}" stroke="#333"{dashes}/>'


def _release(node: Ancestor, place: tuple[float, float]) -> str:
    x, y = place
    shown = node.version if len(node.version) <= 12 else node.version[:11] + "…"
    return (
        f"<g><title>{escape(_tip(node))}</title>{_circle(x, y, _mark(node))}"
        f'<text x="{x:.1f}" y="{y + 22}" text-anchor="middle">{escape(shown)}</text></g>'
    )


def _tip(node: Ancestor) -> str:
    if node.missing:
        return f"{node.label}: {node.missing}\n{node.release}"
    lines = [f"{node.label} ({node.kind}, {node.license})", node.published, node.release]
    if node.yanked is not None:
        lines.append(f"yanked: {node.yanked}")
    if node.breaking:
        lines.append(f"breaks: {node.breaking}")
    return "\n".join(line for line in lines if line)


def _legend(used: list[Relation], marks: list[str], y: int) -> list[str]:
    lines, x = [], float(_SIDE)
    for relation in used:
        lines.append(
            f'<line x1="{x:.1f}" y1="{y}" x2="{x + 22:.1f}" y2="{y}" '
            f'stroke="{_COLOURS[relation]}" stroke-width="2"/>'
        )
        lines.append(f'<text x="{x + 28:.1f}" y="{y + 4}">{WORDS[relation]}</text>')
        x += 44 + len(WORDS[relation]) * _LETTER
    for mark in marks:
        lines.append(_circle(x + _RADIUS, y, mark))
        lines.append(f'<text x="{x + 22:.1f}" y="{y + 4}">{mark}</text>')
        x += 38 + len(mark) * _LETTER
    return lines
