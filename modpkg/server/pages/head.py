"""What is at the top of each page about a module."""

from __future__ import annotations

from urllib.parse import quote

from msgspec import UNSET, Struct, UnsetType

from modpkg.core.records import IndexLine
from modpkg.server.pages.catalogue import Catalogue, ModuleReleases


class Tab(Struct, frozen=True):
    """A link to another page about the module."""

    key: str
    label: str
    address: str
    count: int | None
    is_current: bool


class ModuleHead(Struct, frozen=True, kw_only=True):
    """What is at the top of each page about a module."""

    name: str
    version: str
    """Empty on pages that are about all of them."""
    newest: str
    kind: str
    summary: str
    install: str
    """The command that installs it; empty where nothing can be installed."""
    yanked: str | None
    deprecated: str | None
    successor: str
    removed: str | None
    archived: str | None
    is_private: bool
    tabs: tuple[Tab, ...]


def said(text: str | UnsetType) -> str | None:
    """Return an optional text of an index line; None if it has none."""
    return None if text is UNSET else text


def module_head(
    catalogue: Catalogue,
    releases: ModuleReleases,
    line: IndexLine,
    *,
    current: str,
    address: str,
    candidates: int = 0,
    archived: str | None = None,
    is_private: bool = False,
) -> ModuleHead:
    """Return the head of a page.

    Args:
        catalogue: The registry.
        releases: The module's.
        line: The release that the page is about.
        current: The tab that the page is of.
        address: The registry's, for the command that installs it.
        candidates: How many of them are open.
        archived: Why nothing more is published; None if it may be.
        is_private: Whether only some people may see it.
    """
    facts = catalogue.facts(line)
    own = f"/modules/{quote(line.name)}"
    release = f"{own}/{quote(line.version)}"
    is_newest = line.version == releases.newest.version
    before = releases.before(line)
    tabs = [
        ("overview", "Overview", own if is_newest else release, None),
        ("versions", "Versions", f"{own}/versions", len(releases.lines)),
        ("candidates", "Candidates", f"{own}/candidates", candidates),
    ]
    if before is not None:
        compare = f"{own}/compare/{quote(before.version)}/{quote(line.version)}"
        tabs.insert(2, ("compare", "Compare", compare, None))
    if facts.tensors:
        tabs.insert(2, ("tensors", "Tensors", f"{release}/tensors", facts.tensors))
    removed = said(line.removed)
    what = line.name if is_newest else f'"{line.name}=={line.version}"'
    return ModuleHead(
        name=line.name,
        version=line.version,
        newest=releases.newest.version,
        kind=line.kind,
        summary=facts.summary,
        install="" if removed is not None else f"modpkg install {what} --registry {address}",
        yanked=line.yanked,
        deprecated=said(line.deprecated),
        successor=said(line.successor) or "",
        removed=removed,
        archived=archived,
        is_private=is_private,
        tabs=tuple(Tab(key, label, to, count, key == current) for key, label, to, count in tabs),
    )


def proposed_head(line: IndexLine, candidates: int, *, is_private: bool) -> ModuleHead:
    """Return the head of the pages of a module that has candidates, and no release yet."""
    address = f"/modules/{quote(line.name)}/candidates"
    return ModuleHead(
        name=line.name,
        version="",
        newest="",
        kind=line.kind,
        summary="",
        install="",
        yanked=None,
        deprecated=None,
        successor="",
        removed=None,
        archived=None,
        is_private=is_private,
        tabs=(Tab("candidates", "Candidates", address, candidates, True),),
    )
