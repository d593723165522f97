"""Why JSON is not a record."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from modpkg.core.candidates import ThreadEntry
from modpkg.core.decoding import decoding_reason
from tests.manifest.strategies import steady


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("text", "a\x1bb", "its 'text' has a control character or a mark of direction"),
        ("text", "a\u202eb", "its 'text' has a control character or a mark of direction"),
        ("by", "a\nb", "its 'by' has a line feed, a control character"),
        ("text", 7, "its 'text' is a number, and has to be a text"),
        ("by", "x" * 9999, "its 'by' is longer than 2000 characters"),
    ],
)
def test_a_text_that_is_not_taken_is_told_by_what_it_has(
    field: str, value: Any, reason: str
) -> None:
    record = {"kind": "comment", "by": "ada", "at": "now", "text": "one\ntwo"}
    assert msgspec.convert(record, ThreadEntry).text == "one\ntwo"
    with pytest.raises(msgspec.ValidationError) as failed:
        msgspec.json.decode(msgspec.json.encode(record | {field: value}), type=ThreadEntry)
    assert decoding_reason(failed.value).startswith(reason)


SAID = {
    "Expected `str | null`, got `int`": "it is a number, and has to be a text or null",
    "Expected `int`, got `Decimal`": "it is something else, and has to be a number",
    "Expected `int`, got `str` - at `key` in `$`": "a key of it is a text, and has to be a number",
    "Expected `object`, got `int` - at `$[...]`": (
        "an entry of it is a number, and has to be a table"
    ),
    "Expected `str`, got `int` - at `$.a[0].b[...]`": (
        "an entry of its 'a[0].b' is a number, and has to be a text"
    ),
    "Expected `int` - at `$.a`": "its 'a' has to be a number",
    "Expected `int` >= 0 - at `$.a`": "its 'a' has to be at least 0",
    "Expected `int` <= -9": "it has to be at most -9",
    "Expected `float` < 1.0": "it has to be less than 1.0",
    "Expected `float` > 1e+300": "it has to be more than 1e+300",
    "Expected `int` that's a multiple of 2": "it is no multiple of 2",
    "Expected `str` of length <= 3": "it is longer than 3 characters",
    "Expected `str` of length >= 1": "it is empty",
    "Expected `str` of length >= 2": "it has fewer than 2 characters",
    "Expected `bytes` of length <= 3": "it has more than 3 bytes",
    "Expected `array` of length <= 3 - at `$.a`": "its 'a' has more than 3 entries",
    "Expected `array` of at most length 3, got 4": "it has more than 3 entries",
    "Expected `array` of at most length 3": "it has more than 3 entries",
    "Expected `array` of at least length 1, got 0": "it is empty",
    "Expected `object` of length >= 2": "it has fewer than 2 entries",
    "Expected `array` of length 2": "it is a list of another length than 2",
    "Expected `array` of length 2, got 3": "it is a list of another length than 2",
    "Expected `array` of length 2 to 4": "it is a list of another length than 2 to 4",
    "Expected `array` of length 2 to 4, got 5": "it is a list of another length than 2 to 4",
    "Expected `str` matching regex '^(sha256:[0-9a-f]{64})?$'": "it is not a digest",
    "Expected `str` matching regex '^a|`b$' - at `$.c`": "its 'c' is not written as it has to be",
    "Expected `datetime` with a timezone component": "it has no time zone",
    "Expected `time` with no timezone component": "it has a time zone",
    "Integer value out of range - at `$.a`": "its 'a' is a number out of range",
    "Number out of range": "it is a number out of range",
    "Object missing required field `a` - at `$.b`": "its 'b' has no 'a'",
    "Object contains unknown field `a`": "it has the unknown field 'a'",
    "Invalid enum value 'x' - at `$.a`": "its 'a' is 'x', which is not a known value",
    "Invalid value 7": "it is 7, which is not a known value",
    "Invalid RFC3339 encoded date": "it is not a date",
    "Invalid RFC3339 encoded datetime": "it is not a time",
    "Invalid RFC3339 encoded time": "it is not a time",
    "Invalid epoch timestamp": "it is not a time",
    "Invalid MessagePack timestamp: nanoseconds out of range": "it is not a time",
    "Timestamp is out of range ": "it is not a time",
    "Invalid ISO8601 duration": "it is not a span of time",
    "Only units 'D', 'H', 'M', and 'S' are supported when parsing ISO8601 durations": (
        "it is not a span of time"
    ),
    "Duration is out of range": "it is not a span of time",
    "Invalid UUID bytes": "it is not a UUID",
    "Invalid base64 encoded string": "it is not in base64",
    "Invalid decimal string": "it is not a decimal number",
    "Input data was truncated": "it ends too early",
    "JSON is malformed: trailing characters (byte 3)": (
        "JSON is malformed: trailing characters (byte 3)"
    ),
    "its seal does not match - at `$.a`": "its 'a': its seal does not match",
}


@pytest.mark.parametrize("text", SAID)
def test_each_form_of_a_sentence_has_words(text: str) -> None:
    """Those of msgspec 0.22, and what our own checks say, which are raised inside it."""
    assert decoding_reason(msgspec.ValidationError(text)) == SAID[text]


def test_what_is_no_text_is_said_too() -> None:
    for data, reason in (
        (b'"\xff"', "it is not UTF-8"),
        (b"[" * 100_000, "it has too many tables"),
    ):
        with pytest.raises((UnicodeDecodeError, RecursionError)) as failed:
            msgspec.json.decode(data)
        assert decoding_reason(failed.value).startswith(reason)


class Part(Struct, tag="x", forbid_unknown_fields=True):
    number: Annotated[int, Meta(ge=0, le=9)]
    kind: Literal["x", "xy"] = "x"


class Other(Struct, tag="y"):
    size: Annotated[float, Meta(gt=0, lt=1)]
    parts: Annotated[list[Part], Meta(min_length=1, max_length=2)]
    pair: tuple[int, str]
    names: dict[Annotated[str, Meta(pattern="^x")], Annotated[str, Meta(max_length=1)]] = {}
    when: datetime | None = None
    data: bytes = b""


WORDS = st.text("xy-", max_size=5)
KEYS = st.sampled_from(["type", *Part.__struct_fields__, *Other.__struct_fields__]) | WORDS
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)
TAGGED = st.fixed_dictionaries({"type": st.sampled_from(["x", "y"])}, optional=dict.fromkeys(
    (*Part.__struct_fields__, *Other.__struct_fields__), VALUES
))  # fmt: skip


@steady
@given(VALUES | TAGGED, st.integers(0, 30))
def test_no_word_of_msgspec_or_python_is_in_a_reason(value: Any, cut: int) -> None:
    whole = json.dumps(value).encode()
    for data in (whole, whole[:cut], whole[cut:]):
        for kind in (Part | Other, list[Part | Other], dict[str, Other], Other):
            try:
                msgspec.json.decode(data, type=kind)
            except msgspec.MsgspecError as error:
                reason = decoding_reason(error)
            else:
                continue
            if not reason.startswith("JSON is malformed: "):
                assert not LEAKS.search(reason), reason
                assert reason.startswith(("it ", "its ", "an entry of it", "a key of it")), reason


LEAKS = re.compile(
    r"`|\$|\b(Expected|Invalid|Object|Struct|Part|Other|int|str|bool|float|array|object|got|regex)\b"
)
