"""What a text names is decided before anything is looked up."""

from __future__ import annotations

import pytest

from modpkg.community.modules.reference import Reference, parse_reference, parse_release
from tests.raising import raises


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("tiny==1.0", Reference("tiny==1.0", "tiny", version="1.0")),
        ("Tiny==1.0.0rc1", Reference("Tiny==1.0.0rc1", "Tiny", version="1.0.0rc1")),
        ("tiny==01.0", Reference("tiny==01.0", "tiny", version="1.0")),
        ("tiny@3", Reference("tiny@3", "tiny", generation=3)),
        ("tiny@1.0", Reference("tiny@1.0", "tiny@1.0")),
        ("tiny@1234567890", Reference("tiny@1234567890", "tiny@1234567890")),
        ("tiny", Reference("tiny", "tiny")),
        ("tiny=1.0", Reference("tiny=1.0", "tiny=1.0")),
        ("./tiny==1.0", Reference("./tiny==1.0", "./tiny==1.0")),
        ("a/b@3", Reference("a/b@3", "a/b@3")),
        ("..", Reference("..", "..")),
    ],
)
def test_a_text_names_a_release_a_generation_a_name_or_a_folder(
    text: str, reference: Reference
) -> None:
    assert parse_reference(text) == reference


def test_a_name_is_normalized_and_checked_when_it_is_used() -> None:
    assert parse_reference("Tiny_LoRA==1.0").name == "tiny-lora"
    assert parse_reference("tiny@3").name == "tiny"
    with raises("M101"):
        _ = parse_reference("no name").name


@pytest.mark.parametrize("text", ["./tiny", "a/b", "a\\b"])
def test_a_text_with_a_separator_is_never_a_name(text: str) -> None:
    assert not parse_reference(text).can_be_name
    assert parse_reference("tiny").can_be_name


def test_a_version_has_to_be_one() -> None:
    with raises("M102"):
        parse_reference("tiny==new")


@pytest.mark.parametrize("text", ["Tiny==1.0", "tiny@1.0"])
def test_a_release_has_a_version(text: str) -> None:
    assert parse_release(text) == ("tiny", "1.0")
    assert parse_release("tiny@3") == ("tiny", "3")


@pytest.mark.parametrize("text", ["tiny", "tiny=1.0", "./tiny==1.0", "==1.0", "tiny=="])
def test_a_release_without_name_or_version_is_refused(text: str) -> None:
    with raises("M901", match="NAME==VERSION"):
        parse_release(text)
