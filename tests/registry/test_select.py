"""Choosing a release when no version is named: yanked ones, pre-releases, ranges."""

from __future__ import annotations

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.core.records import IndexLine
from modpkg.registry.select import earlier_release, newest_release


def lines(text: str) -> list[IndexLine]:
    """Return index lines of versions; a yanked one is written ``~1.0``."""
    return [
        IndexLine(
            name="m",
            version=word.lstrip("~"),
            kind="base",
            release="sha256:" + "0" * 64,
            yanked="" if word.startswith("~") else None,
        )
        for word in text.split()
    ]


def version_of(line: IndexLine | None) -> str | None:
    return None if line is None else line.version


@pytest.mark.parametrize(
    ("versions", "specifier", "newest"),
    [
        ("", "", None),
        ("1.0", "", "1.0"),
        ("1.9 1.10 1.2", "", "1.10"),
        # the range
        ("1.0 2.0", "<2", "1.0"),
        ("1.0 2.0", ">=1,<2", "1.0"),
        ("1.0 2.0", ">2", None),
        # yanked
        ("1.0 ~2.0", "", "1.0"),
        ("~1.0 ~2.0", "", None),
        ("1.0 ~2.0", ">=2", None),
        # pre-releases
        ("1.0 2.0rc1", "", "1.0"),
        ("1.0 2.0.dev1", "", "1.0"),
        ("1.0rc1 1.0rc2", "", "1.0rc2"),
        ("1.0 2.0rc1 2.0rc2", ">1.0", "2.0rc2"),
        ("1.0 1.0.post1", "", "1.0.post1"),
        # both: a pre-release before a yanked final release
        ("~1.0 2.0rc1", "", "2.0rc1"),
        ("1.0rc1 ~1.0", "", "1.0rc1"),
        ("1.0 ~2.0rc1", "", "1.0"),
    ],
)
def test_the_newest_release_to_use(versions: str, specifier: str, newest: str | None) -> None:
    for order in (lines(versions), lines(versions)[::-1]):
        assert version_of(newest_release(order, SpecifierSet(specifier))) == newest


@pytest.mark.parametrize(
    ("versions", "newest"),
    [
        ("1.0 ~2.0", "1.0"),
        ("1.0rc1 ~2.0", "1.0rc1"),
        ("~1.0 ~2.0", "2.0"),
        ("~1.0 ~2.0rc1", "1.0"),
        ("~2.0rc1 ~2.0rc2", "2.0rc2"),
        ("", None),
    ],
)
def test_a_yanked_release_where_there_is_no_other(versions: str, newest: str | None) -> None:
    assert version_of(newest_release(lines(versions), or_yanked=True)) == newest
    assert newest_release(lines("~1.0"), SpecifierSet(">1"), or_yanked=True) is None


@pytest.mark.parametrize(
    ("versions", "newest"),
    [
        ("1.0 2.0rc1", "2.0rc1"),
        ("1.0 2.0rc1 2.0rc2", "2.0rc1"),
        ("1.0 2.0rc1 2.0", "2.0"),
        ("1.0 ~2.0rc1", "1.0"),
        ("2.0rc1 2.0rc2", "2.0rc1"),
    ],
)
def test_an_admitted_pre_release_counts_as_final(versions: str, newest: str) -> None:
    admitted = {Version("2.0rc1")}
    assert version_of(newest_release(lines(versions), admitted=admitted)) == newest


@pytest.mark.parametrize(
    ("versions", "version", "earlier"),
    [
        ("", "1.0", None),
        ("1.0", "1.1", "1.0"),
        ("1.9 1.10 1.2", "2.0", "1.10"),
        # only what is lower
        ("1.0 2.0", "1.0.1", "1.0"),
        ("1.0", "1.0", None),
        ("2.0", "1.0", None),
        # yanked: where there is no other
        ("1.0.0 ~1.0.1", "1.0.2", "1.0.0"),
        ("~1.0.0 ~1.0.1", "1.0.2", "1.0.1"),
        ("~1.0.0 1.0.1", "1.0.1", "1.0.0"),
        # pre-releases: never
        ("1.0 2.0rc1", "2.0", "1.0"),
        ("2.0rc1", "2.0", None),
        ("2.0rc1", "2.0rc2", None),
        ("1.0", "2.0rc1", "1.0"),
        ("1.0 1.0.post1", "1.1", "1.0.post1"),
        # both: a yanked final release before a pre-release
        ("~1.0 2.0rc1", "2.0", "1.0"),
    ],
)
def test_the_release_that_a_version_is_compared_with(
    versions: str, version: str, earlier: str | None
) -> None:
    for order in (lines(versions), lines(versions)[::-1]):
        assert version_of(earlier_release(order, Version(version))) == earlier


@pytest.mark.parametrize(
    ("versions", "version", "earlier"),
    [
        ("1.0 1.1", "1.1", "1.1"),
        ("1.0 2.0", "1.1", "1.0"),
        ("1.0 2.0rc1", "2.0rc1", "2.0rc1"),
        ("1.0 2.0rc1 2.0rc2", "2.0rc2", "2.0rc2"),
        ("1.0 2.0rc1", "2.0rc2", "1.0"),
        ("1.0 ~1.1", "1.1", "1.0"),
        ("~1.0 ~1.1", "1.1", "1.1"),
        ("1.0", "1.0.0", "1.0"),
    ],
)
def test_a_version_that_is_published_is_compared_with_itself(
    versions: str, version: str, earlier: str
) -> None:
    assert version_of(earlier_release(lines(versions), Version(version), itself=True)) == earlier


def test_the_first_of_equal_versions_is_selected() -> None:
    two = lines("1.0 1.0.0")
    assert newest_release(two) is two[0]
    assert earlier_release(two, Version("2")) is two[0]
    assert newest_release(two[::-1]) is two[1]
