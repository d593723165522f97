"""Ranges of versions, compared: what a requirement allows now and did not, and the reverse."""

from __future__ import annotations

from collections.abc import Iterable

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.community.semver.levels import lowest


def probes(*specifiers: SpecifierSet) -> list[Version]:
    """Return versions among which any two of these specifiers show what they disagree on.

    A specifier changes its mind only at the versions that it names, and at the ends of those that
    stand for a range (``~=2.1``, ``==1.*``). So these, a final version after each and one before
    all of them will do; versions that are no final ones are left to the resolver's own rules.
    """
    named = {Version("0")}
    for clause in (clause for specifier in specifiers for clause in specifier):
        text = clause.version.removesuffix(".*")
        version = Version(Version(text).base_version)
        named |= {version, Version(text)}
        release = version.release
        if clause.operator == "~=":
            release = release[:-1]
        if clause.operator == "~=" or clause.version.endswith(".*"):
            epoch = f"{version.epoch}!" if version.epoch else ""
            upper = (*release[:-1], release[-1] + 1)
            named.add(Version(epoch + ".".join(map(str, upper))))
    after = {_after(version) for version in named}
    return sorted(version for version in named | after if not version.is_prerelease)


def _after(version: Version) -> Version:
    """Return a final version after this one, before any other that a person would write."""
    release = (*version.release, *(0 for _ in range(4 - len(version.release))), 1)
    epoch = f"{version.epoch}!" if version.epoch else ""
    return Version(epoch + ".".join(map(str, release)))


def allowed(specifier: SpecifierSet, versions: Iterable[Version]) -> list[Version]:
    """Return those of the versions that a specifier allows."""
    return [v for v in versions if specifier.contains(v, prereleases=True)]


def breaking_line(version: Version) -> tuple[int, ...]:
    """Return the first numbers of a version up to the one whose rise breaks."""
    upper = lowest(version, "major")
    return (version.epoch, *upper.release)
