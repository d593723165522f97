"""The newest suitable release: which one is used or compared with when no version is named."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.core.names import parse_version
from modpkg.core.records import IndexLine
from modpkg.registry.standing import without_removed

_ANY = SpecifierSet()


def newest_release(
    lines: Iterable[IndexLine],
    specifier: SpecifierSet = _ANY,
    *,
    admitted: Collection[Version] = (),
    or_yanked: bool = False,
) -> IndexLine | None:
    """Return the newest release to use; None where there is none.

    Yanked releases are left out, and removed ones always. A pre-release is used only where no final
    release is in range.

    Args:
        specifier: The range that the release has to be in.
        admitted: Pre-releases that count as final ones.
        or_yanked: Use a yanked release where no other is in range.
    """
    usable = usable_releases(lines, specifier, admitted=admitted, or_yanked=or_yanked)
    return usable[0] if usable else None


def usable_releases(
    lines: Iterable[IndexLine],
    specifier: SpecifierSet = _ANY,
    *,
    admitted: Collection[Version] = (),
    or_yanked: bool = False,
) -> list[IndexLine]:
    """Return the releases of which `newest_release` returns the first, newest first."""
    in_range = [
        line
        for line in without_removed(lines)
        if specifier.contains(line.version, prereleases=True)
    ]
    usable = _not_yanked(in_range) or (in_range if or_yanked else [])
    final = [line for line in usable if _is_final(line) or _version(line) in admitted]
    return sorted(final or usable, key=_version, reverse=True)


def earlier_release(
    lines: Iterable[IndexLine], version: Version, *, itself: bool = False
) -> IndexLine | None:
    """Return the release that ``version`` is compared with; None for a first release.

    It is the newest final release that is lower; a yanked one only where no other is lower. A
    pre-release promises no compatibility, so nothing is compared with one.

    Args:
        itself: A release of this very version counts too, final or not.
    """
    candidates = [
        line
        for line in without_removed(lines)
        if (_is_final(line) and _version(line) < version) or (itself and _version(line) == version)
    ]
    return _newest(_not_yanked(candidates) or candidates)


def _not_yanked(lines: Iterable[IndexLine]) -> list[IndexLine]:
    return [line for line in lines if line.yanked is None]


def _is_final(line: IndexLine) -> bool:
    return not _version(line).is_prerelease


def _version(line: IndexLine) -> Version:
    return parse_version(line.version)


def _newest(lines: Iterable[IndexLine]) -> IndexLine | None:
    return max(lines, key=_version, default=None)
