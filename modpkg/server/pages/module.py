"""The page of a module, or of one version of it."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from modpkg.core.errors import ModpkgError
from modpkg.core.names import parse_requirement, specifier_text
from modpkg.core.records import IndexLine
from modpkg.server.pages.catalogue import Catalogue, ModuleReleases, required_line
from modpkg.server.pages.graph import DependencyGraph, dependency_graph
from modpkg.server.pages.head import said
from modpkg.server.pages.readme import Readme
from modpkg.server.pages.release_facts import ReleaseFacts

RECENT = 8
"""Versions on a module's page."""
PAGE = 100
"""Versions on one page of all of them."""
_MOST_NEEDS, _MOST_DEPENDANTS = 100, 60


class ShownNeed(Struct, frozen=True):
    """A requirement of a release."""

    name: str
    extras: str
    versions: str
    """The versions that are allowed; "any version" for all."""
    newest: str
    """The newest of them that the registry has; empty if it has none."""
    extra: str = ""
    """The extra that it belongs to; empty for what is always needed."""


class ShownVersion(Struct, frozen=True, kw_only=True):
    """A version in a list."""

    version: str
    published: str
    size: int
    """Bytes that it added to the registry."""
    yanked: str | None
    deprecated: str | None
    removed: str | None


class ModulePage(Struct, frozen=True, kw_only=True):
    """The page of a release."""

    line: IndexLine
    facts: ReleaseFacts
    newest: str
    """The version that describes the module."""
    is_newest: bool
    before: str
    """The version before; empty for a first one."""
    update: int
    """Bytes that an update from it fetches; 0 for a first one."""
    signers: tuple[str, ...]
    """The keys that have signed it."""
    readme: Readme | None
    needs: tuple[ShownNeed, ...]
    needed_by: tuple[str, ...]
    needed_by_left: int
    all_counted: bool
    """Whether the whole registry was looked through for them."""
    versions: tuple[ShownVersion, ...]
    total_versions: int
    graph: DependencyGraph | None


class VersionsPage(Struct, frozen=True, kw_only=True):
    """All versions of a module, page by page."""

    name: str
    versions: tuple[ShownVersion, ...]
    total: int
    page: int
    """From 1."""
    pages: int


def module_page(catalogue: Catalogue, releases: ModuleReleases, line: IndexLine) -> ModulePage:
    """Return the page of a release."""
    before = releases.before(line)
    needed_by, counted = catalogue.needed_by(line.name)
    return ModulePage(
        line=line,
        facts=catalogue.facts(line),
        newest=releases.newest.version,
        is_newest=line.version == releases.newest.version,
        before="" if before is None else before.version,
        update=0 if before is None else catalogue.update(before, line),
        signers=catalogue.signers(line),
        readme=catalogue.readme(line),
        needs=tuple(_needs(catalogue, line))[:_MOST_NEEDS],
        needed_by=tuple(needed_by[:_MOST_DEPENDANTS]),
        needed_by_left=max(0, len(needed_by) - _MOST_DEPENDANTS),
        all_counted=counted,
        versions=tuple(map(shown_version, releases.lines[:RECENT])),
        total_versions=len(releases.lines),
        graph=dependency_graph(catalogue, line),
    )


def versions_page(releases: ModuleReleases, page: int) -> VersionsPage:
    """Return a page of a module's versions."""
    pages = -(-len(releases.lines) // PAGE)
    page = min(max(1, page), pages)
    shown = releases.lines[(page - 1) * PAGE : page * PAGE]
    return VersionsPage(
        name=releases.name,
        versions=tuple(map(shown_version, shown)),
        total=len(releases.lines),
        page=page,
        pages=pages,
    )


def shown_version(line: IndexLine) -> ShownVersion:
    """Return a version for a list."""
    return ShownVersion(
        version=line.version,
        published=line.published,
        size=line.size,
        yanked=line.yanked,
        deprecated=said(line.deprecated),
        removed=said(line.removed),
    )


def _needs(catalogue: Catalogue, line: IndexLine) -> Iterable[ShownNeed]:
    texts = [(text, "") for text in line.requires]
    texts += [(text, extra) for extra, of in line.extras.items() for text in of]
    for text, extra in texts[:_MOST_NEEDS]:
        requirement = parse_requirement(text)
        newest = None
        try:
            releases = catalogue.releases_or_none(requirement.name)
            newest = None if releases is None else required_line(releases, text)
        except ModpkgError:
            newest = None
        yield ShownNeed(
            name=requirement.name,
            extras=", ".join(sorted(requirement.extras)),
            versions=specifier_text(requirement.specifier) or "any version",
            newest="" if newest is None else newest.version,
            extra=extra,
        )
