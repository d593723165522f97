"""The next version of a level."""

from __future__ import annotations

from typing import Literal, get_args

from packaging.version import Version

BumpLevel = Literal["patch", "minor", "major", "stable"]
LEVELS: tuple[str, ...] = get_args(BumpLevel)


def bumped(version: Version, level: BumpLevel) -> Version:
    """Return the version raised by a level, without pre-release, post-release and local parts.

    It has as many numbers as before, and at least those up to the level's.

    >>> from packaging.version import Version
    >>> [str(bumped(Version("1.2.3"), level)) for level in LEVELS]
    ['1.2.4', '1.3.0', '2.0.0', '1.2.3']
    >>> str(bumped(Version("1.2"), "patch")), str(bumped(Version("2.0rc1"), "stable"))
    ('1.2.1', '2.0')
    """
    numbers = [*version.release]
    if level != "stable":
        place = {"major": 0, "minor": 1, "patch": 2}[level]
        numbers += [0] * (place + 1 - len(numbers))
        numbers[place] += 1
        numbers[place + 1 :] = [0] * len(numbers[place + 1 :])
    epoch = f"{version.epoch}!" if version.epoch else ""
    return Version(epoch + ".".join(map(str, numbers)))
