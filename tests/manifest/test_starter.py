"""What ``modpkg init`` writes reads back."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpkg.core.records import KINDS
from modpkg.manifest.edit import set_dependency
from modpkg.manifest.read import parse_manifest
from modpkg.manifest.starter import new_manifest, without_examples
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


@pytest.mark.parametrize("kind", ["app", *KINDS])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_its_examples_go_with_the_first_dependency(kind: str, ending: str) -> None:
    text = set_dependency(new_manifest(kind, "thing").replace("\n", ending), "other", ">=1")
    tidy = without_examples(text)
    assert parse_manifest(tidy, Path("modpkg.toml")) == parse_manifest(text, Path("modpkg.toml"))
    rest = tidy.partition(f"[dependencies]{ending}")[2]
    assert rest.startswith(f'other = ">=1"{ending}')
    assert without_examples(tidy) == tidy


def test_comments_of_a_person_stay() -> None:
    own = '# summarizer = ">=2.1"\n'
    mine = '# summarizer = ">=2.2"  # soon\n'
    head, tail = '[app]\nname = "x"\n', "[constraints]\n" + own
    text = f'{head}{own}[dependencies]\n{own}{mine}other = "*"\n{tail}'
    assert without_examples(text) == f'{head}{own}[dependencies]\n{mine}other = "*"\n{tail}'
    string = f"{head}[dependencies]\nother = '''\n{own}'''\n"
    assert without_examples(string) == string


def test_other_kinds_and_names_are_refused() -> None:
    with pytest.raises(ValueError, match="'robot' is neither 'app' nor one of base, adapter"):
        new_manifest("robot", "x")
    with raises("M101"):
        new_manifest("app", "no name")
