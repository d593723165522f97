from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.core.errors import ModpkgError
from modpkg.core.names import (
    caret,
    check_requirements,
    module_name,
    parse_requirement,
    parse_specifier,
    parse_version,
    read_requirement,
    requirement_text,
)
from tests.raising import raises


@pytest.mark.parametrize("text", ["Summarize_LoRA", "summarize.lora", "SUMMARIZE--lora"])
def test_names_are_compared_without_case_and_separators(text: str) -> None:
    assert module_name(text) == "summarize-lora"


@pytest.mark.parametrize("text", ["", "-a", "a-", "a b", "ä", "a/b", "..", "a" * 101, "a\n"])
def test_bad_names_are_refused(text: str) -> None:
    with raises("M101"):
        module_name(text)


@pytest.mark.parametrize("text", ["", "1.0+local", "one", "1..2", "1" * 200])
def test_bad_versions_are_refused(text: str) -> None:
    with raises("M102"):
        parse_version(text)


@pytest.mark.parametrize(
    ("version", "specifier"),
    [
        ("2.1", ">=2.1,<3"),
        ("2.1.3", ">=2.1.3,<3"),
        ("0.3.1", ">=0.3.1,<0.4"),
        ("0.0.3", ">=0.0.3,<0.0.4"),
        ("0.0", ">=0.0,<0.1"),
        ("0", ">=0,<1"),
        ("2.1rc1", ">=2.1rc1,<3"),
        ("1!2.1", ">=1!2.1,<1!3"),
    ],
)
def test_caret_means_what_cargo_and_npm_mean(version: str, specifier: str) -> None:
    assert caret(Version(version)) == specifier


@pytest.mark.parametrize(
    ("spelling", "meaning"),
    [
        ("summarizer", "summarizer"),
        ("summarizer>=2.1", "summarizer>=2.1"),
        ("Summarizer [News] >= 2.1 , < 3", "summarizer[news]>=2.1,<3"),
        ("summarizer@2.1", "summarizer==2.1"),
        ("summarizer@^2.1", "summarizer>=2.1,<3"),
        ("summarizer@~2.1.4", "summarizer~=2.1.4"),
        ("summarizer@~2", "summarizer>=2,<3"),
        ("summarizer[news]@2.1", "summarizer[news]==2.1"),
        ("summarizer@latest", "summarizer"),
        ("summarizer @ 2.1", "summarizer==2.1"),
    ],
)
def test_spellings_of_a_requirement(spelling: str, meaning: str) -> None:
    requirement = parse_requirement(spelling)
    text = requirement_text(requirement.name, requirement.extras, requirement.specifier)
    assert text == meaning


@pytest.mark.parametrize(
    "text", ["a", "a-b2>=1", "a>=1.0,<2", "a~=1.4,!=1.5", "a==1.*", "A_b[y,x]>=1,<2", "a>=1.0rc1"]
)
def test_a_requirement_is_what_packaging_reads(text: str) -> None:
    ours, theirs = parse_requirement(text), Requirement(text.replace("A_b", "a-b"))
    assert (ours.name, ours.extras, ours.specifier) == (
        theirs.name,
        theirs.extras,
        theirs.specifier,
    )
    assert str(ours) == str(theirs)
    assert len({ours, parse_requirement(text)}) == 1
    assert ours != parse_requirement("b")


@pytest.mark.parametrize(
    "text",
    ["", "a b", "a @ https://x.example/a.whl", "a>=1; python_version<'3'", "a@one", "a>>1", "@1"],
)
def test_bad_requirements_are_refused_in_a_sentence(text: str) -> None:
    with raises("M103", match="is not a requirement"):
        parse_requirement(text)


@given(st.text(max_size=40))
def test_any_text_is_a_requirement_or_a_sentence(text: str) -> None:
    try:
        requirement = parse_requirement(text)
    except ModpkgError:
        return
    spelled = requirement_text(requirement.name, requirement.extras, requirement.specifier)
    again = parse_requirement(spelled)
    assert (again.name, again.extras, again.specifier) == (
        requirement.name,
        requirement.extras,
        requirement.specifier,
    )


def test_specifiers_of_a_manifest() -> None:
    assert parse_specifier("*") == SpecifierSet()
    assert parse_specifier("^1.2") == SpecifierSet(">=1.2,<2")
    with raises("M103"):
        parse_specifier("one")


PARTS = [
    "a",
    "b-1",
    "A",
    "-",
    ">=",
    "==",
    "~=",
    "=",
    "!",
    "<",
    "1",
    "1.2",
    ".",
    ",",
    " ",
    "\n",
    "[x]",
]
PARTS += ["é", "a" * 60, "*", "a1", ">=1.0,<2", "a>=1\nb"]


@given(st.lists(st.lists(st.sampled_from(PARTS), max_size=5).map("".join), max_size=3))
def test_requirements_are_checked_together_as_one_by_one(texts: list[str]) -> None:
    def refused(check: Callable[[Any], object], given: object) -> str | None:
        try:
            check(given)
        except ModpkgError as error:
            return str(error)
        return None

    alone = (refused(read_requirement, text) for text in texts)
    assert refused(check_requirements, texts) == next(filter(None, alone), None)
