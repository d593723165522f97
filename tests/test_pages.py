"""The pages of the documentation: all of them are in the site, and their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tomli
import yaml

from tests.documents import ROOT

FOLDERS = ("docs", "registry_spec", "examples", "benchmarks/results")
PAGES = sorted(
    [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
    + [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md")]
)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^ *```.*?^ *```$", re.M | re.S)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def nav_pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav)
            for page in nav_pages(part)]  # fmt: skip


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as forges and MkDocs make them."""
    text = _FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    kept = (re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", h).strip().lower()) for h in headings)
    return {heading.replace(" ", "-") for heading in kept}


def test_every_page_is_in_the_site() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = nav_pages(site["nav"])
    assert len(listed) == len(set(listed))
    unlisted = tuple(line.lstrip("/") for line in site["not_in_nav"].split())
    assert {*listed} == {named(p) for p in PAGES if not named(p).startswith(unlisted)}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_resolve(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text())):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def test_the_readme_has_absolute_links_once_there_is_an_address() -> None:
    """PyPI shows the README without the files beside it."""
    project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
    if "urls" in project:
        links = _LINK.findall(_FENCE.sub("", (ROOT / "README.md").read_text()))
        assert [link for link in links if "://" not in link and link[0] != "#"] == []
