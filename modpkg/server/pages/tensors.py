"""The page of a release's tensors: a table grouped by layer, and where it differs from its base."""

from __future__ import annotations

from msgspec import Struct

from modpkg.core.errors import ModpkgError
from modpkg.core.records import ACTING_KINDS, IndexLine
from modpkg.server.pages.catalogue import Catalogue, ModuleReleases, no_page, required_line
from modpkg.server.pages.differences import DrawnComparison
from modpkg.server.pages.release_facts import ReleaseFacts
from modpkg.server.pages.tensor_groups import TensorGroup, TensorRow

GROUPS = 60
"""Groups of alike tensors on one page."""
ROWS = 120
"""Tensors on one page."""
_MOST_LAYERS = 128
"""Layers that a page links to."""


class ComparedWith(Struct, frozen=True):
    """The release that another is compared with."""

    name: str
    version: str
    how: str
    """``acts on``, ``forked from``, ``the version before`` …"""
    comparison: DrawnComparison


class TensorsPage(Struct, frozen=True, kw_only=True):
    """The tensors of a release."""

    line: IndexLine
    facts: ReleaseFacts
    compared: ComparedWith | None
    size: int
    stored: int
    groups: tuple[TensorGroup, ...]
    rows: tuple[TensorRow, ...]
    """Of one layer, if one was asked for; ``groups`` is empty then."""
    layer: str
    """The layer that was asked for: a number, ``other`` for the tensors of none, or empty."""
    layers: tuple[int, ...]
    layers_left: int
    has_others: bool
    """Whether there are tensors of no layer."""
    total: int
    """Groups or rows on all pages."""
    page: int
    """From 1."""
    pages: int


def tensors_page(
    catalogue: Catalogue, releases: ModuleReleases, line: IndexLine, layer: str, page: int
) -> TensorsPage:
    """Return the page of a release's tensors.

    Raises:
        NotFound: It has no such layer.
    """
    table = catalogue.table(line)
    rows: tuple[TensorRow, ...] = ()
    if layer:
        number = int(layer) if layer.isdecimal() and len(layer) < 10 else None
        if (number is None and layer != "other") or number not in table.layers:
            raise no_page(f"layer {layer} of {line.name} {line.version}")
        rows = table.layers[number]
    total, each = (len(rows), ROWS) if layer else (len(table.groups), GROUPS)
    pages = max(1, -(-total // each))
    page = min(max(1, page), pages)
    part = slice((page - 1) * each, page * each)
    numbers = [number for number in table.layers if number is not None]
    return TensorsPage(
        line=line,
        facts=catalogue.facts(line),
        compared=None if layer or page > 1 else compared_with(catalogue, releases, line),
        size=table.size,
        stored=table.stored,
        groups=() if layer else table.groups[part],
        rows=rows[part],
        layer=layer,
        layers=tuple(numbers[:_MOST_LAYERS]),
        layers_left=max(0, len(numbers) - _MOST_LAYERS),
        has_others=None in table.layers,
        total=total,
        page=page,
        pages=pages,
    )


def compared_with(
    catalogue: Catalogue, releases: ModuleReleases, line: IndexLine
) -> ComparedWith | None:
    """Return where a release differs from its base.

    That is what it acts on; else what it was made from; else the version before. Of none that the
    registry has, None is returned.
    """
    try:
        return (
            _base(catalogue, line) or _origin(catalogue, line) or _before(catalogue, releases, line)
        )
    except ModpkgError:
        return None


def _base(catalogue: Catalogue, line: IndexLine) -> ComparedWith | None:
    if line.kind not in ACTING_KINDS:
        return None
    built = {one.name: one.release for one in catalogue.facts(line).made_from}
    for name in line.expects:
        releases = catalogue.releases_or_none(name)
        if releases is None:
            continue
        base = next((one for one in releases.lines if one.release == built.get(name)), None)
        if base is None:
            texts = [text for text in line.requires if text.startswith(name)]
            base = required_line(releases, texts[0]) if texts else None
        if base is not None and (found := catalogue.touched(base, line)) is not None:
            return ComparedWith(base.name, base.version, "acts on", found)
    return None


def _origin(catalogue: Catalogue, line: IndexLine) -> ComparedWith | None:
    for one in catalogue.facts(line).made_from:
        releases = catalogue.releases_or_none(one.name)
        for origin in () if releases is None else releases.lines:
            if origin.release == one.release and catalogue.facts(origin).tensors:
                found = catalogue.compared(origin, line)
                return ComparedWith(origin.name, origin.version, one.relation, found)
    return None


def _before(catalogue: Catalogue, releases: ModuleReleases, line: IndexLine) -> ComparedWith | None:
    before = releases.before(line)
    if before is None or not catalogue.facts(line).tensors:
        return None
    found = catalogue.compared(before, line)
    return ComparedWith(before.name, before.version, "the version before", found)
