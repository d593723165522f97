"""Which version a change may have: from facts to a level, and from a level to a version. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct
from packaging.version import Version

Level = Literal["none", "patch", "minor", "major"]
LEVELS: tuple[Level, ...] = ("none", "patch", "minor", "major")
"""From what asks for no release at all to what breaks those who rely on the one before."""


class Fact(Struct, frozen=True):
    """One thing that changed, and the level that it asks for by itself."""

    about: str
    """What it is a fact of: ``tensors``, ``values``, ``config.json``, ``tests`` …"""
    text: str
    """A clause that a sentence can end with."""
    level: Level


def level_of(facts: Iterable[Fact]) -> Level:
    """Return the level that facts ask for together: the highest of theirs.

    So a further change never lowers it.
    """
    return LEVELS[max((LEVELS.index(fact.level) for fact in facts), default=0)]


def lowest(earlier: Version, level: Level) -> Version:
    """Return the lowest final version that a change of this level may have after ``earlier``.

    Before 1.0 the first number that is not zero is the one that breaks, as for ``^0.3.1``.

    >>> [str(lowest(Version("1.2.3"), level)) for level in LEVELS]
    ['1.2.4', '1.2.4', '1.3.0', '2.0.0']
    >>> [str(lowest(Version("0.3.1"), level)) for level in LEVELS]
    ['0.3.2', '0.3.2', '0.3.2', '0.4.0']
    """
    first, second, third = (*earlier.release, 0, 0)[:3]
    later = (first, second, third + 1)
    if level == "major":
        later = (first + 1, 0, 0) if first else (0, second + 1, 0) if second else later
    elif level == "minor" and first:
        later = (first, second + 1, 0)
    epoch = f"{earlier.epoch}!" if earlier.epoch else ""
    return Version(epoch + ".".join(map(str, later)))


def is_legal(version: Version, earlier: Version, level: Level) -> bool:
    """Say whether a change of this level may be released as ``version`` after ``earlier``.

    A pre-release counts as the version that it leads to, and promises nothing itself. A
    post-release (``1.0.0.post1``) is legal where nothing changed that anybody runs.
    """
    if version <= earlier:
        return False
    if level == "none" or earlier.is_prerelease:
        return True
    return Version(version.base_version) >= lowest(earlier, level)
