"""Why JSON is not a record."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from modpkg.core.candidates import ThreadEntry
from modpkg.core.decoding import decoding_reason


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
