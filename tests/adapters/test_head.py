"""What a head adds to a base, replaces and removes."""

from __future__ import annotations

from typing import Any

import pytest

from modpkg.adapters import bind_head
from tests.adapters.samples import BASE
from tests.raising import raises


def test_a_head_adds_replaces_and_removes() -> None:
    names = {"score.weight": ("F32", (2, 4)), "model.norm.weight": ("F32", (4,))}
    head = bind_head("m", names, BASE, ["model.norm.", "model.layers.10."])
    assert head.added == ("score.weight",)
    assert head.replaced == ("model.norm.weight",)
    assert head.removed == ("model.layers.10.q.weight",)


@pytest.mark.parametrize(
    ("names", "replace", "message"),
    [
        ({}, [], "no tensor"),
        ({"model.norm.weight": ("F32", (4,))}, [], 'replace = \\["model.norm.weight"\\]'),
        ({"score.weight": ("F32", (2, 4))}, ["lm_head."], "'lm_head.'"),
        ({"score.weight": ("F32", (2, 4))}, ["model.norm"], "'model.norm'"),
    ],
)
def test_clashes_and_unknown_names_are_refused(
    names: Any, replace: list[str], message: str
) -> None:
    with raises("M601", match=message):
        bind_head("m", names, BASE, replace)
