"""A tokenizer.json that makes texts or tokens grow without bound is refused before it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modpkg.compose.tokenizer_bounds import check_tokenizer_bounds
from modpkg.runtime.load import load_model
from modpkg.runtime.pipeline import load_tokenizer
from modpkg.runtime.prompt import tokenized
from tests.raising import raises
from tests.runtime.helpers import WORDS, install, llama


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


DOUBLES = [replace({"String": "a"}, "b" * 2), replace({"String": "b"}, "a" * 2)] * 20


def steps(*each: Any, kind: str = "normalizers") -> dict[str, Any]:
    return {"type": "Sequence", kind: list(each)}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"normalizer": steps(*DOUBLES)}, "normalizer"),
        ({"normalizer": steps(steps(*DOUBLES[:20]), steps(*DOUBLES[20:]))}, "normalizer"),
        ({"decoder": steps(*DOUBLES, kind="decoders")}, "decoder"),
        ({"normalizer": replace({"Regex": "a?"}, "x" * 200)}, "normalizer"),
        ({"normalizer": replace({"String": ""}, "x" * 200)}, "normalizer"),
        ({"normalizer": {"type": "Prepend", "prepend": "x" * 20_000}}, "normalizer"),
        (
            {"normalizer": steps({"type": "Prepend", "prepend": "x" * 5000}, *DOUBLES[:2])},
            "normalizer",
        ),
        ({"post_processor": {"type": "TemplateProcessing", "single": [{}] * 2000}}, "2000 pieces"),
        (
            {
                "post_processor": steps(
                    {"special_tokens": {"x": {"ids": [0] * 2000}}}, kind="processors"
                )
            },
            "2000 tokens",
        ),
        ({"padding": {"strategy": {"Fixed": 10**9}}}, "pads"),
        ({"padding": {"strategy": "BatchLongest", "pad_to_multiple_of": 10**9}}, "pads"),
    ],
)
def test_growth_is_refused(document: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_tokenizer_bounds(document)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"normalizer": None, "decoder": 7, "padding": [], "post_processor": {"single": 3}},
        # Llama, CLIP, T5 and the like
        {"normalizer": steps({"type": "Prepend", "prepend": "▁"}, replace({"String": " "}, "▁"))},
        {
            "normalizer": steps(
                {"type": "NFC"}, replace({"Regex": r"\s+"}, " "), {"type": "Lowercase"}
            )
        },
        {
            "normalizer": steps(
                *[replace({"Regex": " {2,}"}, "▁"), replace({"String": "``"}, '"')] * 9
            )
        },
        {"normalizer": replace({"String": "…"}, "...")},
        {"padding": {"strategy": {"Fixed": 128}}},
    ],
)
def test_honest_ones_are_taken(document: dict[str, Any]) -> None:
    check_tokenizer_bounds(document)


@pytest.fixture
def home(tmp_path: Path) -> tuple[Path, Path]:
    return install(tmp_path / "m", llama(vocab_size=len(WORDS)))


def test_it_is_told_where_a_tokenizer_is_opened(home: tuple[Path, Path]) -> None:
    path = home[0] / "tokenizer.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "normalizer": steps(*DOUBLES)}))
    with raises("M704", match="makes texts grow without bound"):
        load_tokenizer("m", home[0])


def test_a_pattern_that_takes_too_long_is_told(home: tuple[Path, Path]) -> None:
    """The library panics, which is no `Exception`."""
    path = home[0] / "tokenizer.json"
    document = json.loads(path.read_text())
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$b"}, "behavior": "Isolated"}
    document["pre_tokenizer"] = {**split, "invert": False}
    path.write_text(json.dumps(document))
    tokenizer = load_tokenizer("m", home[0])
    with raises("M726", match="retry-limit"):
        tokenized(tokenizer, "a" * 30 + "c")


@pytest.mark.parametrize("key", ["num_beams", "num_return_sequences", "max_new_tokens"])
def test_a_generation_config_is_bounded(home: tuple[Path, Path], key: str) -> None:
    path = home[0] / "generation_config.json"
    more = {"num_beams": 10**9} if key == "num_return_sequences" else {}
    path.write_text(json.dumps({"eos_token_id": 1, key: 10**9, **more}))
    with raises("M704", match="generation_config.json is invalid"):
        load_model(*home)
