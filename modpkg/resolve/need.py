"""What the resolver works on: needs, and the releases that may meet them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from msgspec import Struct
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.core.names import ModuleName
from modpkg.manifest.schema import COMMAND_LINE
from modpkg.resolve.catalog import Release

Identifier = tuple[ModuleName, str | None]
"""A name, or a name and one of its extras."""

_ANY = SpecifierSet()


class Need(Struct, frozen=True, eq=False):
    """One requirement as the resolver sees it: a name, or one extra of it, in a range."""

    name: ModuleName
    extra: str | None
    specifier: SpecifierSet
    parent: Release | None = None
    """The release that has the requirement, whose expected interface must fit; None for roots."""
    where: str = ""
    """For roots: the file and line where it is written, or that it is the command line's."""
    users: tuple[str, ...] = ()
    """For roots: what else of the manifest uses the module, like ``[models.writer]``."""
    exact: Version | None = None
    """Set between an extra and its own name: the version that both must have."""

    @property
    def identifier(self) -> Identifier:
        return self.name, self.extra


class Candidate(Struct, frozen=True, eq=False):
    """A release, or one extra of it."""

    release: Release
    extra: str | None


def root_needs(
    name: str,
    extras: Iterable[str],
    specifier: SpecifierSet,
    where: str,
    *,
    asked: Collection[str] = (),
    users: Iterable[str] = (),
) -> list[Need]:
    """Return the needs of one root requirement; the command line asks for the extras ``asked``."""
    module, used = ModuleName(name), tuple(users)
    return [
        Need(module, None, specifier, where=where, users=used),
        *(
            Need(module, extra, _ANY, where=COMMAND_LINE)
            if extra in asked
            else Need(module, extra, specifier, where=where, users=used)
            for extra in sorted(extras)
        ),
    ]


def dependencies(candidate: Candidate) -> list[Need]:
    """Return what choosing a candidate requires, in the order in which it is written.

    An extra requires its own name at the same version, and the extra's modules. An extra that the
    release does not have requires nothing more: the caller warns.
    """
    release = candidate.release
    if candidate.extra is None:
        requirements = release.requires
        needs: list[Need] = []
    else:
        requirements = release.extras.get(candidate.extra, [])
        needs = [Need(release.name, None, _ANY, release, exact=release.version)]
    for requirement in requirements:
        name, specifier = requirement.name, requirement.specifier
        needs.append(Need(name, None, specifier, release))
        for extra in requirement.extras:
            needs.append(Need(name, extra, specifier, release))
    return needs
