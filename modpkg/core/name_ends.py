"""Names of tensors, found by how they end: models of one architecture differ in prefixes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

_PREFIX_PARTS = 50
"""Most parts of a prefix; models have one to three."""


class NamesByEnd:
    """Dotted names, found in logarithmic time by what they end with."""

    def __init__(self, names: Iterable[str]) -> None:
        self._order = {name: number for number, name in enumerate(names)}
        self._reversed = sorted(f"{name[::-1]}." for name in self._order)

    def ending(self, tail: str) -> list[str]:
        """Return the names that are ``tail`` or end with it after a dot, in their order.

        >>> NamesByEnd(["model.a.b", "b", "c.ab"]).ending("b")
        ['model.a.b', 'b']
        """
        wanted = f"{tail[::-1]}."
        found = []
        for at in range(bisect_left(self._reversed, wanted), len(self._reversed)):
            if not self._reversed[at].startswith(wanted):
                break
            found.append(self._reversed[at][-2::-1])
        return sorted(found, key=self._order.__getitem__)

    def like(self, name: str) -> list[str]:
        """Return the names that are this one, apart from a prefix of either.

        >>> NamesByEnd(["model.a.b", "b", "c.ab"]).like("a.b")
        ['model.a.b', 'b']
        """
        ends = ends_of(name, _PREFIX_PARTS)
        next(ends)
        return self.ending(name) + [end for end in ends if end in self._order]


def ends_of(name: str, most: int | None = None) -> Iterator[str]:
    """Yield a name and what comes after each of its dots, or of its first ``most`` dots.

    >>> list(ends_of("a.b.c"))
    ['a.b.c', 'b.c', 'c']
    """
    yield name
    at, count = name.find("."), 0
    while at >= 0 and count != most:
        yield name[at + 1 :]
        at, count = name.find(".", at + 1), count + 1
