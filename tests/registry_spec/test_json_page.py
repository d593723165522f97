"""``docs/json.md`` is what the code generates."""

from __future__ import annotations

import re

from modpkg.cli.documents import SHAPES
from registry_spec.json_page import PAGE, json_page


def test_the_page_is_generated() -> None:
    page = json_page()
    assert page == PAGE.read_text("utf-8"), "run: python -m registry_spec json-page"
    heads = {
        command for line in re.findall("^### (.*)$", page, re.M) for command in line.split(", ")
    }
    assert set(SHAPES) <= heads
    links = set(re.findall(r"\]\(#(\w+)\)", page))
    assert links <= {head.lower() for head in heads}
