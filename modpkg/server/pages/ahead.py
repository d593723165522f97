"""What pages will need, worked out before anybody asks: of many tensors that takes long."""

from __future__ import annotations

from modpkg.core.errors import ModpkgError
from modpkg.server.pages.candidates import candidate_page
from modpkg.server.pages.catalogue import Catalogue
from modpkg.server.pages.rendering import prepare_templates
from modpkg.server.pages.tensors import compared_with

NEWEST = 64
"""Modules whose newest release is looked at."""
_CANDIDATES = 4
"""Open candidates of one module that are looked at, the newest."""


def prepare_pages(catalogue: Catalogue, prepared: set[str]) -> None:
    """Work out what the pages of the modules that were published last show, and who needs whom.

    ``prepared`` has the digests of the releases that need no looking at any more.
    """
    prepare_templates()
    modules = catalogue.modules()
    while not catalogue.needed_by("")[1]:
        pass
    for line in modules.newest[:NEWEST]:
        prepare_module(catalogue, line.name, prepared)


def prepare_module(catalogue: Catalogue, name: str, prepared: set[str]) -> None:
    """Work out what the pages of a module's newest release show, as for `prepare_pages`."""
    try:
        releases = catalogue.releases(name)
        newest = releases.newest
        if newest.release in prepared:
            return
        prepared.add(newest.release)
        if (before := releases.before(newest)) is not None:
            catalogue.update(before, newest)
        catalogue.readme(newest)
        catalogue.table(newest)
        compared_with(catalogue, releases, newest)
    except ModpkgError:
        pass  # its page says why


def prepare_candidates(catalogue: Catalogue, name: str) -> None:
    """Work out what the pages of a module's newest candidates show."""
    try:
        releases = catalogue.releases_or_none(name)
        candidates = catalogue.candidates(name)
        for one in [one for one in candidates if one.status == "open"][-_CANDIDATES:]:
            candidate_page(catalogue, releases, candidates, one.number, 1)
    except ModpkgError:
        pass
