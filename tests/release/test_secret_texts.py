"""Secrets in files: what is found, what is left alone, and how a file says that its are made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpkg.release.secret_texts import secret_in
from tests.modules import publish, write_module
from tests.raising import raises

SECRETS = [
    "hf_" + "aB" * 17,
    "ghp_" + "a1" * 18,
    "github_pat_" + "a" * 22 + "_" + "b" * 59,
    "glpat-" + "x" * 20,
    "AKIA" + "A1" * 8,
    "AIza" + "x" * 35,
    "sk-ant-" + "x" * 40,
    "sk-proj-" + "x" * 40,
    "xoxb-" + "1" * 10 + "-" + "a" * 20,
    "npm_" + "a" * 36,
    "pypi-AgE" + "x" * 50,
    "dckr_pat_" + "x" * 27,
    "modpkg_" + "x" * 44,
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN OPENSSH PRIVATE KEY-----",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_found_in_text(secret: str) -> None:
    for text in (secret, f'{{"token": "{secret}"}}', f"a\n{secret}\nb", f"KEY={secret}"):
        assert secret_in(text.encode()) is not None


@pytest.mark.parametrize("secret", SECRETS)
def test_a_part_of_a_longer_word_is_none(secret: str) -> None:
    assert secret_in(f"x{secret}".encode()) is None


@pytest.mark.parametrize(
    "text",
    ["hf_model", "ghp_", "sk-learn", "AKIA", "npm_config", "a public KEY", "modpkg_home", "xox-"],
)
def test_words_that_begin_alike_are_none(text: str) -> None:
    assert secret_in(text.encode()) is None


def test_a_release_with_a_secret_is_not_published(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    secret = SECRETS[0].encode()
    # across the border of two chunks that are read
    late = b" " * ((1 << 20) - 10) + secret
    for number, data in enumerate((secret, late)):
        folder = write_module(tmp_path / f"m{number}", f"words{number}", files={"notes.md": data})
        with raises("M535", match="notes.md"):
            publish(folder, registry)
        assert not registry.exists()
    folder = write_module(
        tmp_path / "made-up",
        "words",
        files={"tests/notes.md": secret},
        more='[files]\nmade-up-secrets = ["tests/*"]\n',
    )
    assert publish(folder, registry).version == "1.0"


def test_a_manifest_has_no_secret_either(tmp_path: Path) -> None:
    folder = write_module(tmp_path / "m", "words", more=f'[card]\ntags = ["{SECRETS[0]}"]\n')
    with raises("M535", match=r"modpkg\.toml"):
        publish(folder, tmp_path / "registry")
