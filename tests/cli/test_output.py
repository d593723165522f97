"""What is printed, whatever the encoding of standard output."""

from __future__ import annotations

import io
import json
import sys

import pytest

from modpkg.cli.output import print_object
from modpkg.core.system import prepare_console


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii", "utf-8"])
def test_json_is_json_in_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a backslash and three letters, an umlaut would not be JSON."""
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", out)
    prepare_console()
    print_object({"text": "\u00e4 \u4f60\u597d \U0001f600 \u2514"})
    out.flush()
    written = out.buffer.getvalue()  # type: ignore[attr-defined]
    assert json.loads(written.decode("utf-8")) == {"text": "\u00e4 \u4f60\u597d \U0001f600 \u2514"}
    assert written.isascii() == (encoding != "utf-8")
