"""The versions of one name in ascending order, and the ranges of them that a specifier allows.

A specifier is not tested against each version. The versions of its clauses are looked up in the
sorted list: by text if they are spelled alike, else by bisection. Clauses with pre-, post- or
development releases, ``!=`` and ``===`` have exceptions in PEP 440: they are tested version by
version, by `packaging`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from packaging.specifiers import SpecifierSet
from packaging.version import Version

Runs = tuple[tuple[int, int], ...]
"""Ranges of positions ``low <= position < high``: ascending, not empty, not adjacent."""

VersionClause = tuple[str, str, str, Version]
"""A clause as it is written, its operator, its version's text, and its version."""


class Order:
    """The versions of one name, oldest first."""

    def __init__(
        self,
        versions: Sequence[Version],
        read: ParsedSpecifiers | None = None,
        spelled: Sequence[str] | None = None,
    ) -> None:
        self.versions = versions
        self._read = ParsedSpecifiers() if read is None else read
        texts = [*map(str, versions)] if spelled is None else spelled
        self._at = {text: position for position, text in enumerate(texts)}
        self._only_final = plainly_final("".join(texts)) or not any(
            version.is_prerelease or version.is_postrelease for version in versions
        )
        self._runs: dict[int, Runs] = {}
        """By the identity of a specifier, which ``read`` keeps."""
        self._ranges: dict[str, tuple[int, int]] = {}

    def runs(self, specifier: SpecifierSet) -> Runs:
        """Return the positions of the versions that a specifier allows, pre-releases included."""
        known = self._runs.get(id(specifier))
        if known is None:
            known = self._runs[id(specifier)] = self._find(specifier)
        return known

    def _find(self, specifier: SpecifierSet) -> Runs:
        clauses = self._read.of(specifier)
        if clauses is None:
            return runs_of(
                position
                for position, version in enumerate(self.versions)
                if specifier.contains(version, prereleases=True)
            )
        low, high = 0, len(self.versions)
        for clause in clauses:
            positions = self._ranges.get(clause[0])
            if positions is None:
                positions = self._ranges[clause[0]] = self._range(clause)
            start, end = positions
            if start > low:
                low = start
            if end < high:
                high = end
        return _run(low, high) if low < high else ()

    def _range(self, clause: VersionClause) -> tuple[int, int]:
        """Return the first position that a clause allows, and the first beyond."""
        _, operator, text, version = clause
        low, high = 0, len(self.versions)
        if operator in (">=", "~=", "=="):
            low = self._first(text, version)
        elif operator == ">":
            low = self._after_posts(text, version)
        if operator in ("<=", "=="):
            high = self._past(text, version)
        elif operator == "<":
            high = self._first_of_base(text, version)
        elif operator == "~=":
            high = self._first_of_base(*_next_prefix(text))
        return low, high

    def _first(self, text: str, version: Version) -> int:
        """Return the position of the first version that is at least ``version``."""
        at = self._at.get(text)
        return bisect_left(self.versions, version) if at is None else at

    def _past(self, text: str, version: Version) -> int:
        """Return the position of the first version above ``version``."""
        at = self._at.get(text)
        return bisect_right(self.versions, version) if at is None else at + 1

    def _first_of_base(self, text: str, version: Version) -> int:
        """Return where ``version``'s pre-releases begin: ``<2`` does not allow ``2.0a1``."""
        if self._only_final:
            return self._first(text, version)
        return bisect_left(self.versions, _first_prerelease(version))

    def _after_posts(self, text: str, version: Version) -> int:
        """Return where ``version``'s post-releases end: ``>2`` does not allow ``2.0.post1``."""
        at = self._past(text, version)
        while (
            not self._only_final
            and at < len(self.versions)
            and self.versions[at].is_postrelease
            and Version(self.versions[at].base_version) == version
        ):
            at += 1
        return at


def plainly_final(text: str) -> bool:
    """Return whether a version's text, or those of several, has only digits and full stops.

    Most have.

    >>> plainly_final("1.10"), plainly_final("1.0rc1"), plainly_final("v1")
    (True, False, False)
    """
    return text.replace(".", "").isdecimal()


class ParsedSpecifiers:
    """The clauses of specifiers, parsed once per specifier object, which many needs share.

    The objects are kept, so that no other one can get the identity of one.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[SpecifierSet, tuple[VersionClause, ...] | None]] = {}

    def of(self, specifier: SpecifierSet) -> tuple[VersionClause, ...] | None:
        """Return a specifier's clauses if each compares with a final version; else None."""
        known = self._known.get(id(specifier))
        if known is None:
            known = self._known[id(specifier)] = specifier, self._parse(specifier)
        return known[1]

    def _parse(self, specifier: SpecifierSet) -> tuple[VersionClause, ...] | None:
        clauses = []
        for item in specifier:
            if item.operator in ("!=", "===") or item.version.endswith(".*"):
                return None
            version = Version(item.version)
            if version.is_prerelease or version.is_postrelease or version.local is not None:
                return None
            clauses.append((str(item), item.operator, item.version, version))
        return tuple(clauses)


@lru_cache(maxsize=1 << 14)
def _run(low: int, high: int) -> Runs:
    """Return one range: thousands of names share it."""
    return ((low, high),)


@lru_cache(maxsize=1 << 12)
def _first_prerelease(version: Version) -> Version:
    return Version(f"{version}.dev0")


@lru_cache(maxsize=1 << 12)
def _next_prefix(text: str) -> tuple[str, Version]:
    """Return the first version above ``~=text``: 3 for 2.1, 2.2 for 2.1.5."""
    version = Version(text)
    # From the text, since ~=2.1.0 and ~=2.1 differ.
    *head, last, _ = version.release
    upper = ".".join(map(str, [*head, last + 1]))
    upper = f"{version.epoch}!{upper}" if version.epoch else upper
    return upper, Version(upper)


def runs_of(positions: Iterable[int]) -> Runs:
    """Return ascending positions as ranges.

    >>> runs_of([0, 1, 4])
    ((0, 2), (4, 5))
    """
    runs: list[tuple[int, int]] = []
    for position in positions:
        if runs and runs[-1][1] == position:
            runs[-1] = runs[-1][0], position + 1
        else:
            runs.append((position, position + 1))
    return tuple(runs)


def within(position: int, runs: Runs) -> bool:
    """Return whether a position is in one of the ranges."""
    for low, high in runs:  # noqa: SIM110 - a generator takes twice as long
        if low <= position < high:
            return True
    return False


def intersect(one: Runs, other: Runs) -> Runs:
    """Return the intersection of two lists of ranges.

    >>> intersect(((0, 5),), ((1, 2), (4, 9)))
    ((1, 2), (4, 5))
    """
    if one == other:
        return one
    if len(one) == 1 == len(other):
        ((low, high),), ((start, end),) = one, other
        first, last = max(low, start), min(high, end)
        return ((first, last),) if first < last else ()
    common = []
    for low, high in one:
        for start, end in other:
            first, last = max(low, start), min(high, end)
            if first < last:
                common.append((first, last))
    return tuple(common)


def mask_of(runs: Runs) -> int:
    """Return ranges of positions as bits."""
    mask = 0
    for low, high in runs:
        mask |= (1 << high) - (1 << low)
    return mask


def bits(mask: int) -> Iterator[int]:
    """Yield the positions of the bits that are set, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
