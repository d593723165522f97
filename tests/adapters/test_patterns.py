"""Patterns are matched as `re` does, in bounded work."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from modpkg.adapters.patterns import UnsafePattern, Work, at_end, matches, matches_whole

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


@settings(max_examples=150, deadline=None)
@given(PATTERNS, TEXTS)
def test_a_match_is_found_where_re_finds_one(pattern: str, text: str) -> None:
    assert matches(pattern, text, Work()) == (re.match(pattern, text) is not None)
    assert matches_whole(pattern, text, Work()) == (re.fullmatch(pattern, text) is not None)


@pytest.mark.parametrize("text", ["layers.1.q", "1.q", "11.q", "model.layers.1.q", "x1.q"])
@pytest.mark.parametrize("pattern", ["1.q", r"(?:layers\.)?1\.q", "1.q|x", "^1.q", "a)|(1.q"])
def test_a_pattern_of_a_path_is_pefts(pattern: str, text: str) -> None:
    assert matches(at_end(pattern), text, Work()) == (get_pattern_key([pattern], text) == pattern)


@pytest.mark.parametrize("pattern", ["(a+)+b", "(.*)*x", "(a|aa)+$x", "((a*)*)*b"])
def test_patterns_that_are_slow_in_re_are_matched(pattern: str) -> None:
    assert not matches(at_end(pattern), "a" * 40, Work())
    assert matches(at_end(f"{pattern}|a*"), "a" * 40, Work())


def test_the_work_of_a_match_is_bounded() -> None:
    with pytest.raises(UnsafePattern, match="too long"):
        matches(at_end(".*.*.*.*(.*)*x"), "a." * 450, Work())


@pytest.mark.parametrize(
    "pattern", [r"(a)\1", "(a)?(?(1)b|c)", "(?P<x>a)(?P=x)", "[", "a{9999999999}", "(" * 60]
)
def test_what_is_not_matched_is_refused(pattern: str) -> None:
    with pytest.raises(UnsafePattern):
        matches(pattern, "aa", Work())


def test_the_work_for_several_texts_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modpkg.adapters.patterns.PATTERN_WORK", 10_000)
    work = Work()
    matches("(?:a|b)*c", "ab" * 30, work)
    with pytest.raises(UnsafePattern, match="too long"):
        [matches("(?:a|b)*c", "ab" * 30, work) for _ in range(1000)]
