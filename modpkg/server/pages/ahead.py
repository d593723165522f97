"""What pages will need, worked out before anybody asks: of many tensors that takes long."""

from __future__ import annotations

from modpkg.core.errors import ModpkgError
from modpkg.server.pages.catalogue import Catalogue
from modpkg.server.pages.rendering import prepare_templates
from modpkg.server.pages.tensors import compared_with

NEWEST = 64
"""Modules whose newest release is looked at."""


def prepare_pages(catalogue: Catalogue, prepared: set[str]) -> None:
    """Work out what the pages of the modules that were published last show, and who needs whom.

    ``prepared`` has the digests of the releases that need no looking at any more.
    """
    prepare_templates()
    modules = catalogue.modules()
    while not catalogue.needed_by("")[1]:
        pass
    for line in modules.newest[:NEWEST]:
        try:
            releases = catalogue.releases(line.name)
            newest = releases.newest
            if newest.release in prepared:
                continue
            prepared.add(newest.release)
            if (before := releases.before(newest)) is not None:
                catalogue.update(before, newest)
            catalogue.readme(newest)
            catalogue.table(newest)
            compared_with(catalogue, releases, newest)
        except ModpkgError:
            continue  # its page says why
