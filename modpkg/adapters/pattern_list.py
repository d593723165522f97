"""Lists of patterns: of which the first counts that matches, and of which any has to match."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from modpkg.adapters.patterns import Pattern, UnsafePattern, Work
from modpkg.adapters.plain_patterns import Part, PlainPatterns

_PARTS_PER_PLACE = 16
"""What it takes to look for a place where a pattern could be, compared with to match there."""


class PatternList:
    """Patterns, each extended by what PEFT puts around it, in the order in which they are tried."""

    BEFORE, AFTER, FREE = r"(.*\.)?(", ")$", 1
    """What `peft.utils.other.get_pattern_key` puts around a pattern, and how many parts of it match
    any number of characters."""

    def __init__(self, patterns: Iterable[str], work: Work) -> None:
        """Raises:
        UnsafePattern: One is no pattern, cannot be matched within the bound, or comes after so
            many that reading them takes too long.
        """
        self._work = work
        self._patterns = list(patterns)
        self._plain = PlainPatterns()
        self._read: dict[int, Pattern] = {}
        self._others: list[int] = []
        for number, pattern in enumerate(self._patterns):
            if not self._plain.add(pattern, number, work):
                self._others.append(number)
                self._pattern(number)

    def first(self, path: str) -> str | None:
        """Return the first pattern that matches a path.

        Raises:
            UnsafePattern: The patterns cannot be matched in bounded work.
        """
        if not self._patterns:
            return None
        found: int | None = None
        if "\n" in path:  # which no full stop stands for, and before which $ matches
            tried: Iterable[int] = range(len(self._patterns))
        else:
            found, tried = self._plain.lowest(self._parts(path), self._work), self._others
        for number in tried:
            if found is not None and found < number:
                break
            try:
                if self._pattern(number).matches(path, self._work):
                    found = number
                    break
            except UnsafePattern as error:
                raise UnsafePattern(str(error), self._patterns[number]) from None
        return None if found is None else self._patterns[found]

    def _parts(self, path: str) -> Iterator[Part]:
        """Yield what a pattern without special characters may match of a path."""
        yield path, True
        yield path, False
        for place, character in enumerate(path):
            if character == ".":
                yield path[place + 1 :], False

    def _pattern(self, number: int) -> Pattern:
        """Return a pattern, read once."""
        if number not in self._read:
            text = self._patterns[number]
            try:
                self._work.read(text)
                self._read[number] = Pattern(text, self.BEFORE, self.AFTER, self.FREE)
            except UnsafePattern as error:
                raise UnsafePattern(str(error), text) from None
        return self._read[number]


class SavedPatterns(PatternList):
    """The patterns of ``modules_to_save``, as PEFT's `check_target_module_exists` matches them."""

    BEFORE, AFTER, FREE = r"(^|.*\.)", r"($|\..*)", 1

    def _parts(self, path: str) -> Iterator[Part]:
        dots = [place for place, character in enumerate(path) if character == "."]
        starts, stops, lengths = (0, *(dot + 1 for dot in dots)), {*dots, len(path)}, self._plain
        self._work.spend(len(starts) * len(lengths) // _PARTS_PER_PLACE)
        for start in starts:
            for length, anchored in lengths:
                if start + length in stops and not (anchored and start):
                    yield path[start : start + length], anchored
