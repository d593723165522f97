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
SECURITY = ROOT / "docs" / "security.md"
_TEST = re.compile(r"\[(test_\w+)::(test_\w+)\]\(([^)\s]+)\)")
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


def test_there_is_a_way_to_report_a_hole() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    for said in ("private vulnerability report", "within a week", "docs/security.md"):
        assert said in text


def listed_attacks() -> dict[str, list[list[str]]]:
    """Return the rows of the tables of attacks that others have listed, by heading."""
    text = SECURITY.read_text().split("## Attacks that others have listed\n")[1].split("\n## ")[0]
    parts = (part.split("\n", 1) for part in text.split("\n### ")[1:])
    return {
        heading: [
            [cell.strip() for cell in line.strip("| ").split(" | ")]
            for line in table.split("|---|---|---|\n")[1].splitlines()
            if line.startswith("| ")
        ]
        for heading, table in parts
    }


def test_tests_that_a_page_names_are_there() -> None:
    named_tests = _TEST.findall(SECURITY.read_text())
    assert len(named_tests) > 60
    for file, function, path in named_tests:
        source = (SECURITY.parent / path).resolve()
        assert source.stem == file, path
        assert re.search(rf"^def {function}\(", source.read_text(), re.M), f"{file}::{function}"


def test_each_listed_attack_has_a_test_or_is_not_covered() -> None:
    tables = listed_attacks()
    assert [len(rows) for rows in tables.values()] == [11, 13, 19]
    for rows in tables.values():
        for what, answer, shown in rows:
            assert _TEST.search(shown) or (shown, "Not covered" in answer) == (
                "not covered",
                True,
            ), what


def test_each_attack_of_the_lists_has_a_row() -> None:
    tuf, slsa, openssf = (
        {row[0].partition(":")[0] for row in rows} for rows in listed_attacks().values()
    )
    assert len(tuf) == 11
    assert {row[:3] for row in slsa if row.startswith("(")} == {
        f"({letter})" for letter in "ABCDEFGHI"
    }
    assert {f"{what} {level}" for what in ("General", "CLI") for level in (1, 2, 3)} <= openssf
