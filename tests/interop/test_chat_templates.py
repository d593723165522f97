"""A template that `modpkg build` tells of, since no conversation can use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modpkg.interop.chat_templates import unrenderable
from tests.compose.test_templates import CHATML, other_bounds

__all__ = ["other_bounds"]
ENDLESS = "{% for a in range(10 ** 5) %}{% for b in range(10 ** 5) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("form", ["text", "list", "file"])
def test_a_template_without_an_end_is_told(
    form: str, tmp_path: Path, other_bounds: pytest.MonkeyPatch
) -> None:
    other_bounds.setattr("modpkg.core.bounds.TEMPLATE_SECONDS", 1)
    for template, told in (
        (CHATML, False),
        ("{{ raise_exception('no') }}", False),
        (ENDLESS, True),
    ):
        named = [{"name": "default", "template": template}]
        path = tmp_path / "given"
        if form == "file":
            path.write_text(template)
            files = {"chat_template.jinja": path}
        else:
            path.write_text(json.dumps({"chat_template": named if form == "list" else template}))
            files = {"tokenizer_config.json": path}
        assert (unrenderable(files) is not None) is told
