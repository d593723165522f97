"""Text from outside is printed without what a terminal obeys."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modpkg.core.bounds import MESSAGE_CHARACTERS, SHOWN_CHARACTERS
from modpkg.core.errors import ResolutionImpossible, RunError
from modpkg.core.printable import (
    ONE_LINE,
    json_ascii,
    one_line,
    os_reason,
    printable,
    printable_styled,
)

HOSTILE = [
    "\x1b[2J\x1b[1;1H",  # clears the screen
    "\x1b]0;title\x07",  # renames the window
    "\x1b[8m",  # hides what follows
    "\x9b31m",  # the same by one character
    "a\rb",
    "\x00",
    "\x7f",
    "\u202egnp.exe",
    "\u2066",
    "\u200b",
    "\ufeff",
    "\U000e0041",
    "\udce9",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_terminal_obeys_is_written_out(text: str) -> None:
    for clean in (printable, printable_styled, one_line):
        shown = clean(f"before {text} after")
        assert shown.isprintable()
        shown.encode()
        assert shown.startswith("before ")
        assert shown.endswith(" after")


@given(st.text())
def test_plain_text_is_kept_and_all_text_becomes_printable(text: str) -> None:
    assert printable(printable(text)) == printable(text)
    assert "\n" not in one_line(text)
    one_line(text).encode()
    if text.isprintable() and "\u200b" not in text:
        assert printable(text) == one_line(text) == printable_styled(text) == text


def test_writing_systems_and_our_styles_are_kept() -> None:
    for text in ("naïve", "日本語", "می‌خواهم", "👩‍🔬", "a\tb\nc"):
        assert printable(text) == text
    assert printable_styled("\x1b[1mbold\x1b[0m \x1b[31mred\x1b[0m") == (
        "\x1b[1mbold\x1b[0m \x1b[31mred\x1b[0m"
    )


@pytest.mark.parametrize("text", HOSTILE[:-1])
def test_json_keeps_the_value(text: str) -> None:
    written = json_ascii(json.dumps({"text": text}, ensure_ascii=False))
    assert json.loads(written) == {"text": text}
    assert written.isprintable()


@given(st.text())
def test_one_line_is_what_the_pattern_of_records_takes(text: str) -> None:
    if re.search(ONE_LINE, text):
        assert "\n" not in text
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert re.search(ONE_LINE, one_line(text))


def test_a_line_feed_at_the_end_is_not_of_one_line() -> None:
    assert re.search(ONE_LINE, "abc")
    assert not re.search(ONE_LINE, "abc\n")


def test_a_sentence_is_one_bounded_line_whatever_it_is_filled_with() -> None:
    error = RunError("M706", source=Path("a\nerror[M999]: forged\x1b[2J"))
    assert str(error).isprintable()
    long = RunError("M706", source="x" * 100_000)
    assert len(str(long)) < SHOWN_CHARACTERS + 200
    assert long.values == {"source": "x" * 100_000}
    for value in (["a\x1b"] * 100_000, 10**10_000, {"a": "x" * 10**6}, Exception("\x1b" * 10**5)):
        text = str(RunError("M706", source=value))
        assert len(text) < 5 * SHOWN_CHARACTERS
        assert text.isprintable()


def test_a_message_of_many_lines_has_an_end() -> None:
    error = ResolutionImpossible("M401", explanation="a line\n" * 100_000)
    assert len(str(error)) < MESSAGE_CHARACTERS + 100


def test_an_error_of_the_system_is_told_without_its_number_and_path() -> None:
    assert os_reason(IsADirectoryError(21, "Is a directory", "a/b")) == "is a directory"
    assert os_reason(ValueError("its end is missing")) == "its end is missing"
