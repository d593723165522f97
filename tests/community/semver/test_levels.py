"""Laws of versions: what a level requires, and what ranges of versions mean."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.community.semver.config import extends
from modpkg.community.semver.levels import LEVELS, Fact, Level, is_legal, level_of, lowest_version
from modpkg.community.semver.manifest import allowed_versions, breaking_line, probe_versions
from modpkg.core.names import caret
from tests.manifest.strategies import steady

finals = st.builds(
    lambda epoch, parts: Version(f"{epoch}!{'.'.join(map(str, parts))}"),
    st.integers(0, 1),
    st.lists(st.integers(0, 4), min_size=1, max_size=4),
)
versions = st.builds(
    lambda version, end: Version(f"{version}{end}"),
    finals,
    st.sampled_from(["", "", "rc1", "a2", ".dev1", ".post1"]),
)
levels: st.SearchStrategy[Level] = st.sampled_from(LEVELS)
facts = st.lists(st.builds(Fact, st.just("values"), st.just("x"), levels), max_size=4)


@given(facts, facts)
@steady
def test_more_facts_never_lower_the_level(some: list[Fact], more: list[Fact]) -> None:
    assert LEVELS.index(level_of([*some, *more])) >= LEVELS.index(level_of(some))
    assert level_of([*some, *more]) == level_of([*more, *some])


@given(versions)
@steady
def test_a_higher_level_never_allows_a_lower_version(earlier: Version) -> None:
    asked = [lowest_version(earlier, level) for level in LEVELS]
    assert asked == sorted(asked)
    assert asked[-1] > Version(earlier.base_version)


@given(versions, versions, levels, levels)
@steady
def test_a_version_legal_for_a_level_is_legal_for_lower_levels(
    version: Version, earlier: Version, one: Level, two: Level
) -> None:
    less, more = sorted((one, two), key=LEVELS.index)
    if is_legal(version, earlier, more):
        assert version > earlier
        assert is_legal(version, earlier, less)


@given(finals, versions.filter(lambda version: version.is_prerelease), levels)
@steady
def test_a_pre_release_is_legal_where_its_version_is(
    earlier: Version, version: Version, level: Level
) -> None:
    assume(version > earlier)
    final = Version(version.base_version)
    assert is_legal(version, earlier, level) == is_legal(final, earlier, level)


@given(finals)
@steady
def test_major_is_where_a_caret_ends(earlier: Version) -> None:
    """``^1.2`` allows every change that is not major, and no major one."""
    padded = Version(f"{earlier.epoch}!" + ".".join(map(str, (*earlier.release, 0, 0)[:3])))
    compatible = SpecifierSet(caret(padded))
    assert lowest_version(earlier, "major") not in compatible
    if padded.release[:2] != (0, 0):  # of 0.0.x each version is a line of its own
        assert lowest_version(earlier, "patch") in compatible
        assert lowest_version(earlier, "minor") in compatible


clauses = st.builds(
    "{}{}".format,
    st.sampled_from([">=", "<", "==", "!=", "<=", ">"]),
    st.builds("{}.{}".format, st.integers(0, 3), st.integers(0, 3)),
)
others = st.sampled_from(["~=1.2", "~=0.3.1", "==1.*", "!=2.*", "==0.1.*"])
specifiers = st.lists(clauses | others, max_size=3).map(",".join).map(SpecifierSet)
EVERY = [Version(f"{a}.{b}.{c}") for a in range(5) for b in range(5) for c in range(3)]


@given(specifiers, specifiers)
@steady
def test_probes_show_all_that_two_ranges_disagree_on(one: SpecifierSet, two: SpecifierSet) -> None:
    near = probe_versions(one, two)
    for first, second in ((one, two), (two, one)):
        tried = {*allowed_versions(first, EVERY)} - {*allowed_versions(second, EVERY)}
        shown = {*allowed_versions(first, near)} - {*allowed_versions(second, near)}
        assert bool(tried) <= bool(shown)
        lines = {breaking_line(version) for version in shown}
        assert not tried or lines & {breaking_line(version) for version in tried}


words = st.dictionaries(st.text("abc", max_size=2), st.integers(0, 9), max_size=4)


@given(words, words)
@steady
def test_a_tokenizer_extends_another_where_all_tokens_stay(
    old: dict[str, int], new: dict[str, int]
) -> None:
    def tokenizer(vocab: dict[str, int], lower: bool = False) -> dict[str, object]:
        return {
            "model": {"type": "WordLevel", "vocab": vocab},
            "normalizer": {"lowercase": lower},
            "truncation": None,
        }

    assert extends(tokenizer(old), tokenizer(old))
    assert extends(tokenizer(old), tokenizer(old | {"new": 99}) | {"truncation": {"max": 1}})
    assert extends(tokenizer(old), tokenizer(new)) == (old.items() <= new.items())
    assert not extends(tokenizer(old), tokenizer(old, lower=True))


def test_examples_of_levels() -> None:
    v = Version
    assert is_legal(v("1.2.4"), v("1.2.3"), "patch")
    assert not is_legal(v("1.2.4"), v("1.2.3"), "minor")
    assert is_legal(v("1.3"), v("1.2.3"), "minor")
    assert not is_legal(v("1.3"), v("1.2.3"), "major")
    assert is_legal(v("2.0rc1"), v("1.2.3"), "major")
    assert is_legal(v("1.2.3.post1"), v("1.2.3"), "none")
    assert not is_legal(v("1.2.3.post1"), v("1.2.3"), "patch")
    assert is_legal(v("1!0.1"), v("7.0"), "major")
    assert is_legal(v("1.0"), v("1.0rc1"), "major")
    assert not is_legal(v("1.0"), v("1.0"), "none")


@pytest.mark.parametrize(
    ("earlier", "expected"),
    [
        ("1.2.3", ["1.2.4", "1.2.4", "1.3.0", "2.0.0"]),
        ("0.3.1", ["0.3.2", "0.3.2", "0.3.2", "0.4.0"]),
        ("0.0.5", ["0.0.6", "0.0.6", "0.0.6", "0.0.6"]),
        ("7", ["7.0.1", "7.0.1", "7.1.0", "8.0.0"]),
        ("7.4", ["7.4.1", "7.4.1", "7.5.0", "8.0.0"]),
        ("0", ["0.0.1", "0.0.1", "0.0.1", "0.0.1"]),
        ("1.2.3.9", ["1.2.4", "1.2.4", "1.3.0", "2.0.0"]),
        ("2!1.2.3", ["2!1.2.4", "2!1.2.4", "2!1.3.0", "2!2.0.0"]),
        ("1.2.3.post4", ["1.2.4", "1.2.4", "1.3.0", "2.0.0"]),
    ],
)
def test_lowest_version_of_each_level(earlier: str, expected: list[str]) -> None:
    assert [str(lowest_version(Version(earlier), level)) for level in LEVELS] == expected


@pytest.mark.parametrize(
    ("given_levels", "expected"),
    [
        ([], "none"),
        (["none"], "none"),
        (["patch"], "patch"),
        (["minor", "patch"], "minor"),
        (["patch", "major", "none"], "major"),
        (["patch", "minor", "minor"], "minor"),
    ],
)
def test_level_of_facts_is_the_highest(given_levels: list[Level], expected: Level) -> None:
    assert level_of(Fact("values", "x", level) for level in given_levels) == expected


@pytest.mark.parametrize(
    ("version", "earlier", "level", "legal"),
    [
        ("1.2.3", "1.2.3", "none", False),
        ("1.2.2", "1.2.3", "none", False),
        ("1.2.3.post1", "1.2.3", "none", True),
        ("1.2.3.post1", "1.2.3", "patch", False),
        ("1.2.4", "1.2.3", "patch", True),
        ("1.3.0", "1.2.3", "minor", True),
        ("1.4.1", "1.2.3", "minor", True),
        ("1.2.9", "1.2.3", "minor", False),
        ("1.9.9", "1.2.3", "major", False),
        ("2.0.0", "1.2.3", "major", True),
        ("2.0.0rc1", "1.2.3", "major", True),
        ("1.0.1rc2", "1.0.1rc1", "major", True),
        ("1.0.1rc1", "1.0.1rc2", "none", False),
        ("1.0.1rc1", "1.0.1rc1", "major", False),
    ],
)
def test_legal_releases(version: str, earlier: str, level: Level, legal: bool) -> None:
    assert is_legal(Version(version), Version(earlier), level) is legal
