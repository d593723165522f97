"""Finding modules by words."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from modpkg.core.records import ModuleLine
from modpkg.environment.search import found_at, texts_about

PAGE = 25
"""Results on one page."""
_NEAR, _COMPARED_NAMES = 5, 2000
_WORDS = 16
"""Words of a query that are looked for."""


class SearchPage(Struct, frozen=True, kw_only=True):
    """What a search found, page by page."""

    query: str
    kind: str
    """The kind that was asked for; empty for any."""
    modules: tuple[ModuleLine, ...]
    total: int
    page: int
    """From 1."""
    pages: int


class SearchedModules:
    """All modules of a registry, with their texts prepared for searches."""

    def __init__(self, lines: dict[str, ModuleLine]) -> None:
        lines = {name: line for name, line in lines.items() if line.removed is None}
        self.lines = lines
        self._about = [(line, texts_about(line)) for line in lines.values()]
        self.newest = sorted(lines.values(), key=lambda line: line.published, reverse=True)[:100]
        """The modules with the newest releases."""
        self.kinds = tuple(Counter(line.kind for line in lines.values()).most_common())
        """With how many modules are of each."""

    def search(
        self, query: str, kind: str = "", page: int = 1, also: Sequence[ModuleLine] = ()
    ) -> SearchPage:
        """Return the modules in which each word of a query is found, the best first.

        ``also`` has modules that are not in the list of all, and that who asks may see.
        """
        words = query.casefold().split()[:_WORDS]
        found = []
        for line, about in [*self._about, *((line, texts_about(line)) for line in also)]:
            if kind not in ("", line.kind):
                continue
            rank = found_at(line.name, about, words)
            if rank is not None:
                found.append((rank, line.name, line))
        found.sort(key=lambda item: item[:2])
        pages = max(1, -(-len(found) // PAGE))
        page = min(max(1, page), pages)
        shown = found[(page - 1) * PAGE : page * PAGE]
        return SearchPage(
            query=query,
            kind=kind,
            modules=tuple(line for _, _, line in shown),
            total=len(found),
            page=page,
            pages=pages,
        )

    def near(self, wanted: str) -> list[str]:
        """Return the names of modules that may be meant by a word."""
        found = [line.name for line in self.search(wanted).modules[:_NEAR]] if wanted else []
        names = [*self.lines][:_COMPARED_NAMES]
        return found or difflib.get_close_matches(wanted, names, n=_NEAR, cutoff=0.6)
