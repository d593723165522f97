"""Patterns are matched as `re` does, in bounded work."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from modpkg.adapters.pattern_list import PatternList, SavedPatterns
from modpkg.adapters.patterns import Pattern, UnsafePattern, Work, matches_whole

_ATOMS = st.sampled_from(
    [
        *("a", "b", ".", r"\.", r"\d", "[ab]", "[^a]", "q_proj", "0", "^", "$", r"\b", r"\w"),
        *("(?=a)", "(?!b)", "(?<=a)", "(?<!b)", "(?i:A)"),
    ]
)
_TIMES = st.sampled_from(["", "*", "+", "?", "{2}", "{1,3}", "*?", "+?", "??", "{0,2}?"])
PATTERNS = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds("(?:{}|{})".format, inner, inner),
        st.builds("({}){}".format, inner, _TIMES),
        st.builds("({}){}({}){}".format, inner, _TIMES, inner, _TIMES),
        st.builds("(?{}{})".format, st.sampled_from("=!"), inner),
    ),
    max_leaves=8,
)
TEXTS = st.text("ab.0A_", max_size=9)
NAMES = st.lists(
    st.lists(
        st.sampled_from(["a", "b", ".", r"\.", "^", "$", "0", "q_proj", r"\-"]), max_size=4
    ).map("".join),
    unique=True,
    max_size=4,
)
PATHS = st.lists(st.sampled_from(["a", "b", ".", "0", "q_proj", "-", "\n"]), max_size=7).map(
    "".join
)


@settings(max_examples=100, deadline=None)
@given(PATTERNS, TEXTS)
def test_a_match_is_found_where_re_finds_one(pattern: str, text: str) -> None:
    assert Pattern(pattern).matches(text, Work()) == (re.match(pattern, text) is not None)
    assert matches_whole(pattern, text, Work()) == (re.fullmatch(pattern, text) is not None)


@pytest.mark.parametrize("text", ["layers.1.q", "1.q", "11.q", "model.layers.1.q", "x1.q"])
@pytest.mark.parametrize("pattern", ["1.q", r"(?:layers\.)?1\.q", "1.q|x", "^1.q", "a)|(1.q"])
def test_a_pattern_of_a_path_is_pefts(pattern: str, text: str) -> None:
    found = PatternList([pattern], Work()).first(text) == pattern
    assert found == (get_pattern_key([pattern], text) == pattern)


@settings(max_examples=100, deadline=None)
@given(NAMES, PATHS)
def test_the_first_of_several_patterns_is_pefts(patterns: list[str], path: str) -> None:
    """Most are plain text, which is looked up."""
    found = PatternList(patterns, Work()).first(path)
    assert found == next((p for p in patterns if re.match(rf"(.*\.)?({p})$", path)), None)
    saved = SavedPatterns(patterns, Work()).first(path)
    assert saved == next((p for p in patterns if re.match(rf"(^|.*\.){p}($|\..*)", path)), None)


def test_a_pattern_for_each_of_many_modules_is_looked_up() -> None:
    names = [f"layers.{layer}.mlp.{name}_proj" for layer in range(1000) for name in "abc"]
    patterns = PatternList(names, Work())
    assert all(patterns.first(f"model.{name}") == name for name in names)
    assert patterns.first("model.layers.1000.mlp.a_proj") is None


def test_too_many_expressions_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modpkg.adapters.patterns.PATTERN_WORK", 10_000)
    with pytest.raises(UnsafePattern, match="too long to read"):
        PatternList([f".*x{n}.*y" for n in range(10_000)], Work())


@pytest.mark.parametrize("pattern", ["(a+)+b", "(.*)*x", "(a|aa)+$x", "((a*)*)*b"])
def test_patterns_that_are_slow_in_re_are_matched(pattern: str) -> None:
    assert PatternList([pattern, f"{pattern}|a*"], Work()).first("a" * 40) == f"{pattern}|a*"


def test_the_work_of_a_match_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modpkg.adapters.patterns.PATTERN_WORK", 100_000)
    with pytest.raises(UnsafePattern, match="matching it takes too long"):
        PatternList([".*.*.*.*(.*)*x"], Work()).first("a." * 450)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a)\1",
        "(a)?(?(1)b|c)",
        "(?P<x>a)(?P=x)",
        "[",
        "a{9999999999}",
        "(" * 60,
        "(?i:[a-\uffee])",
    ],
)
def test_what_is_not_matched_is_refused(pattern: str) -> None:
    with pytest.raises(UnsafePattern):
        Pattern(pattern)


def test_the_work_for_several_texts_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modpkg.adapters.patterns.PATTERN_WORK", 10_000)
    work = Work()
    pattern = Pattern("(?:a|b)*c")
    pattern.matches("ab" * 30, work)
    with pytest.raises(UnsafePattern, match="too long"):
        [pattern.matches("ab" * 30, work) for _ in range(1000)]
