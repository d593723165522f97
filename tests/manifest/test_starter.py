"""What ``modpkg init`` writes reads back."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpkg.core.records import KINDS
from modpkg.manifest.edit import set_dependency
from modpkg.manifest.read import parse_manifest
from modpkg.manifest.starter import new_manifest
from tests.raising import raises


@pytest.mark.parametrize("kind", ["app", *KINDS])
def test_a_new_manifest_is_valid(kind: str) -> None:
    text = new_manifest(kind, "My_Thing")
    manifest = parse_manifest(text, Path("modpkg.toml"))
    if kind == "app":
        assert (manifest.app, manifest.module) == ("my-thing", None)
    else:
        assert manifest.module is not None
        assert (manifest.module.name, manifest.module.kind) == ("my-thing", kind)
    assert set_dependency(text, "other", "*").count("[dependencies]") == 1


@pytest.mark.parametrize("kind", ["app", *KINDS])
def test_its_commented_lines_are_valid_too(kind: str) -> None:
    """Whoever takes the '# ' away gets a manifest that works."""
    text = new_manifest(kind, "thing")
    lines = [
        line[2:] if line.startswith("# ") and ("=" in line or "# [" in line) else line
        for line in text.splitlines()
    ]
    assert parse_manifest("\n".join(lines), Path("modpkg.toml")) is not None
    assert "\n".join(lines) != text or kind == "base"


def test_other_kinds_and_names_are_refused() -> None:
    with pytest.raises(ValueError, match="'robot' is neither 'app' nor one of base, adapter"):
        new_manifest("robot", "x")
    with raises("M101"):
        new_manifest("app", "no name")
