"""From facts to a level, and from a level to the versions that it allows. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct
from packaging.version import Version

Level = Literal["none", "patch", "minor", "major"]
LEVELS: tuple[Level, ...] = ("none", "patch", "minor", "major")
"""From a change that needs no release to one that breaks dependants."""


class Fact(Struct, frozen=True):
    """One thing that changed, and the level that it requires by itself."""

    about: str
    """What changed: ``tensors``, ``values``, ``config.json``, ``tests`` …"""
    text: str
    """A clause that can end a sentence."""
    level: Level


def level_of(facts: Iterable[Fact]) -> Level:
    """Return the level that facts require together: the highest of theirs."""
    return LEVELS[max((LEVELS.index(fact.level) for fact in facts), default=0)]


def lowest_version(earlier: Version, level: Level) -> Version:
    """Return the lowest final version allowed after ``earlier`` for a change of this level.

    Before 1.0, raising the first non-zero number is a breaking change, as for ``^0.3.1``.

    >>> [str(lowest_version(Version("1.2.3"), level)) for level in LEVELS]
    ['1.2.4', '1.2.4', '1.3.0', '2.0.0']
    >>> [str(lowest_version(Version("0.3.1"), level)) for level in LEVELS]
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
    """Return whether a change of this level may be released as ``version`` after ``earlier``.

    A pre-release counts as the final version that it leads to; after a pre-release any higher
    version is allowed. A post-release (``1.0.0.post1``) needs a change of level ``none``.
    """
    if version <= earlier:
        return False
    if level == "none" or earlier.is_prerelease:
        return True
    return Version(version.base_version) >= lowest_version(earlier, level)
