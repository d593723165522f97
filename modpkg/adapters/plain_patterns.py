"""Patterns that are plain text, looked up together instead of being matched one by one.

Trainers and converters write a pattern for each module, thousands of them:
``layers.0.mlp.up_proj``. It is plain text but for its full stops, which stand for any character.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from modpkg.adapters.patterns import Work
from modpkg.core.bounds import PATTERN_CHARACTERS

_PLAIN = re.compile(r"(\^?)((?:[^\\.^$*+?{}\[\]|()\n]|\.|\\[^0-9A-Za-z\n])*)")
_STOP = re.compile(r"\.")
_PIECE = re.compile(r"\\(.)|(.)")
_CHARACTERS_PER_PLACE = 64
"""What it takes to look a text up, compared with a place."""
Places = tuple[int, ...]
Part = tuple[str, bool]
"""A part of a path, and whether it has to be there from the beginning to match."""


class PlainPatterns:
    """The numbers of patterns, by what they match."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, bool], dict[Places, dict[str, int]]] = {}
        """By length, and whether ``^`` comes before: by where any character may stand, and text."""

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[tuple[int, bool]]:
        """Yield the lengths of the patterns, and whether ``^`` comes before."""
        return iter(self._numbers)

    def add(self, pattern: str, number: int, work: Work) -> bool:
        """Return whether a pattern is plain text; if so, it is added.

        Raises:
            UnsafePattern: The work exceeds the bound.
        """
        work.spend(1 + len(pattern) // _CHARACTERS_PER_PLACE)
        plain = plain_text(pattern)
        if plain is None:
            return False
        text, places, anchored = plain
        tables = self._numbers.setdefault((len(text), anchored), {})
        tables.setdefault(places, {}).setdefault(text, number)
        return True

    def lowest(self, parts: Iterable[Part], work: Work) -> int | None:
        """Return the lowest number of a pattern that matches one of these parts as a whole.

        Raises:
            UnsafePattern: The work exceeds the bound.
        """
        numbers = []
        for text, anchored in parts:
            for places, table in self._numbers.get((len(text), anchored), {}).items():
                work.spend(1 + len(text) // _CHARACTERS_PER_PLACE)
                if (number := table.get(_masked(text, places))) is not None:
                    numbers.append(number)
        return min(numbers, default=None)


def plain_text(pattern: str) -> tuple[str, Places, bool] | None:
    """Return the text that a pattern is, where any character may stand, and whether ``^`` is first.

    None if it is more than that.

    >>> plain_text("q_proj"), plain_text(r"^h.0\\.q"), plain_text("h.*q")
    (('q_proj', (), False), ('h.0.q', (1,), True), None)
    """
    match = _PLAIN.fullmatch(pattern) if len(pattern) <= PATTERN_CHARACTERS else None
    if match is None:
        return None
    if "\\" not in pattern:
        return match[2], tuple(stop.start() for stop in _STOP.finditer(match[2])), bool(match[1])
    pieces = _PIECE.findall(match[2])
    places = tuple(place for place, (_, own) in enumerate(pieces) if own == ".")
    return "".join(escaped or own for escaped, own in pieces), places, bool(match[1])


def _masked(text: str, places: Places) -> str:
    """Return a text with full stops at some places."""
    letters = list(text)
    for place in places:
        letters[place] = "."
    return "".join(letters)
