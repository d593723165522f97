"""Tasks: prompts, truncation, pooling and results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modpkg.runtime.prompt import fill, token_ids
from modpkg.runtime.tasks import run_task
from tests.raising import raises
from tests.runtime.helpers import WORDS, bert, install, llama, tokenizer

TEXT = "the cat sat on a mat"


def test_generation_can_be_repeated_and_streams_what_it_returns(tmp_path: Path) -> None:
    task: dict[str, object] = {"kind": "text-generation", "max_new_tokens": 12}
    model = llama(vocab_size=len(WORDS), tie_word_embeddings=True)  # it repeats the last word
    home, packs = install(tmp_path, model, task=task)
    pieces: list[str] = []
    first = run_task(home, packs, TEXT, stream=pieces.append)
    assert first == run_task(home, packs, TEXT)
    assert first.task == "text-generation"
    assert first.text
    assert "".join(pieces).strip() == first.text


@pytest.mark.parametrize(
    ("model", "config", "kind"),
    [
        (llama, {}, "text-generation"),
        (bert, {}, "feature-extraction"),
    ],
)
def test_the_task_is_inferred_from_the_architecture(
    model: Any, config: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    size = {"vocab_size": len(WORDS)} if model is llama else {}
    home, packs = install(tmp_path, model(**size), config=config)
    assert run_task(home, packs, TEXT).task == kind


def test_classification_gives_labels_with_probabilities(tmp_path: Path) -> None:
    def with_head(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        head = {
            "classifier.weight": torch.zeros(2, 32),
            "classifier.bias": torch.tensor([0.0, 2.0]),
        }
        return {**tensors, **head}

    config = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "bad", "1": "good"},
    }
    home, packs = install(tmp_path, bert(), edit=with_head, config=config)
    labels = run_task(home, packs, TEXT).labels
    assert labels is not None
    assert [name for name, _ in labels] == ["good", "bad"]
    assert labels[0][1] == pytest.approx(1 / (1 + torch.e**-2))


def pooled(folder: Path, pooling: dict[str, Any], *after: str) -> None:
    """Write the files that make a sentence-transformers model of ``folder``."""
    names = ["Transformer", "Pooling", *after]
    kinds = "sentence_transformers.models"
    entries = [
        {"idx": n, "name": str(n), "path": f"{n}_{name}" if n else "", "type": f"{kinds}.{name}"}
        for n, name in enumerate(names)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def test_pooling_and_normalize(tmp_path: Path) -> None:
    states = bert()(tokenizer()(TEXT, return_tensors="pt")["input_ids"]).last_hidden_state[0]
    expected = {
        "pooling_mode_mean_tokens": states.mean(0),
        "pooling_mode_cls_token": states[0],
        "pooling_mode_max_tokens": states.max(0).values,
    }
    for mode, plain in expected.items():
        for after in ([], ["Normalize"]):
            home, packs = install(tmp_path / f"{mode}{len(after)}", bert())
            pooled(home, {"word_embedding_dimension": 32, mode: True}, *after)
            vector = torch.tensor(run_task(home, packs, TEXT).embedding)
            wanted = torch.nn.functional.normalize(plain, dim=0) if after else plain
            torch.testing.assert_close(vector, wanted.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "after", "named"),
    [
        ({"pooling_mode_mean_tokens": True}, ["LSTM"], "LSTM"),
        ({"pooling_mode": "middle"}, [], "middle"),
        ({}, [], "no mode"),
    ],
)
def test_unsupported_modules_and_poolings_are_named(
    pooling: dict[str, Any], after: list[str], named: str, tmp_path: Path
) -> None:
    home, packs = install(tmp_path, bert())
    pooled(home, pooling, *after)
    with raises("M704", match=named):
        run_task(home, packs, TEXT)


def test_a_long_text_is_truncated_with_a_warning(tmp_path: Path) -> None:
    task: dict[str, object] = {"kind": "text-generation", "max_new_tokens": 4}
    home, packs = install(tmp_path, llama(vocab_size=len(WORDS)), task=task)
    warnings: list[str] = []
    run_task(home, packs, f"{TEXT} " * 50, warn=warnings.append)
    assert len(warnings) == 1
    assert "64 tokens" in warnings[0]
    warnings.clear()
    run_task(home, packs, TEXT, warn=warnings.append)
    assert warnings == []


def test_an_unknown_task(tmp_path: Path) -> None:
    home, packs = install(tmp_path, bert(), task={"kind": "time-travel"})
    with raises("M705", match="time-travel"):
        run_task(home, packs, TEXT)


def test_a_model_without_tokenizer(tmp_path: Path) -> None:
    home, packs = install(tmp_path, bert(), with_tokenizer=False)
    with raises("M704", match="no tokenizer"):
        run_task(home, packs, TEXT)


@given(st.text(), st.sampled_from(["{{ text }}", "{{text}}", "{{  text\t}}"]))
def test_only_the_text_placeholder_is_replaced(text: str, hole: str) -> None:
    assert (
        fill(f"a {hole} b {{{{ other }}}} {{% raw %}}", text)
        == f"a {text} b {{{{ other }}}} {{% raw %}}"
    )


def test_truncation_keeps_the_instruction() -> None:
    task = {"prompt": "then {{ text }} slept", "chat": False}
    ids, cut = token_ids(tokenizer(), task, f"{TEXT} " * 50, 20)
    assert cut
    assert len(ids) <= 20
    words = tokenizer().decode(ids).split()
    assert (words[0], words[-1]) == ("then", "slept")


def test_the_chat_template_is_used_when_there_is_one() -> None:
    made = tokenizer()
    made.chat_template = (
        "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}then{% endif %}"
    )
    for chat, words in (
        (None, ["<unk>", "on", "<unk>", "cat", "then"]),
        (True, ["<unk>", "on", "<unk>", "cat", "then"]),
        (False, ["cat"]),
    ):
        ids, _ = token_ids(made, {"chat": chat, "system": "on"}, "cat", 50)
        assert made.decode(ids).split() == words
