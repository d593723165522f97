"""A template that `modpkg build` tells of, since no conversation can use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modpkg.interop.chat_templates import unrenderable
from tests.compose.test_templates import CHATML, other_bounds

__all__ = ["other_bounds"]
ENDLESS = "{% for a in range(10 ** 5) %}{% for b in range(10 ** 5) %}{% endfor %}{% endfor %}"


def test_a_template_without_an_end_is_told(
    tmp_path: Path, other_bounds: pytest.MonkeyPatch
) -> None:
    other_bounds.setattr("modpkg.core.bounds.TEMPLATE_SECONDS", 1)
    path = tmp_path / "chat_template.jinja"
    for template, told in (
        (CHATML, False),
        ("{{ raise_exception('no') }}", False),
        (ENDLESS, True),
    ):
        path.write_text(template)
        assert (unrenderable({path.name: path}) is not None) is told


@pytest.mark.parametrize("given", ["b", [{"name": "a", "template": "b"}], ["b", 1], None, {}])
def test_templates_are_found_where_transformers_writes_them(
    given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modpkg.interop.chat_templates._refusal", str.upper)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"chat_template": given}))
    assert unrenderable({path.name: path}) == ("B" if given else None)
