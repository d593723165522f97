"""Tasks: prompts, truncation, pooling and results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from modpkg.core.errors import RunError
from modpkg.manifest.schema import Task
from modpkg.runtime.load import load_model
from modpkg.runtime.pipeline import Pipeline, open_pipeline
from modpkg.runtime.prompt import fill, token_ids
from tests.raising import raises
from tests.runtime.helpers import WORDS, bert, install, llama, tokenizer

TEXT = "the cat sat on a mat"


def test_generation_can_be_repeated_and_streams_what_it_returns(tmp_path: Path) -> None:
    task: dict[str, object] = {"kind": "text-generation", "max_new_tokens": 12}
    model = llama(vocab_size=len(WORDS), tie_word_embeddings=True)  # it repeats the last word
    home, packs = install(tmp_path, model, task=task)
    run = open_pipeline(home, packs)
    pieces = list(run.stream(TEXT))
    first = run(TEXT)
    assert first == open_pipeline(home, packs)(TEXT)
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
    assert open_pipeline(home, packs)(TEXT).task == kind


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
    labels = open_pipeline(home, packs)(TEXT).labels
    assert labels is not None
    assert [name for name, _ in labels] == ["good", "bad"]
    assert labels[0][1] == pytest.approx(1 / (1 + torch.e**-2))


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        *((number, None) for number in (1, 2)),
        *((number, "regression") for number in (1, 2)),
        *((number, "multi_label_classification") for number in (1, 2)),
        (2, "single_label_classification"),
    ],
)
def test_classification_is_that_of_transformers_pipeline(
    labels: int, problem: str | None, tmp_path: Path
) -> None:
    """A reranker, a reward model or a regression has one label, which is not certain."""
    torch.manual_seed(0)
    head = {"classifier.weight": torch.randn(labels, 32), "classifier.bias": torch.ones(labels)}
    config = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {str(number): f"l{number}" for number in range(labels)},
        "problem_type": problem,
    }
    home, packs = install(tmp_path, bert(), edit=lambda own: {**own, **head}, config=config)
    run = open_pipeline(home, packs)
    pipeline = transformers.TextClassificationPipeline(
        model=load_model(home, packs), tokenizer=run.tokenizer
    )
    wanted = {each["label"]: each["score"] for each in pipeline(TEXT, top_k=None)}
    got = run(TEXT).labels
    assert got is not None
    assert dict(got) == pytest.approx(wanted, abs=1e-6)


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
            vector = torch.tensor(open_pipeline(home, packs)(TEXT).embedding)
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
        open_pipeline(home, packs)(TEXT)


def test_a_long_text_is_truncated_with_a_warning(tmp_path: Path) -> None:
    task: dict[str, object] = {"kind": "text-generation", "max_new_tokens": 4}
    home, packs = install(tmp_path, llama(vocab_size=len(WORDS)), task=task)
    warnings: list[str] = []
    open_pipeline(home, packs, warn=warnings.append)(f"{TEXT} " * 50)
    assert len(warnings) == 1
    assert "64 tokens" in warnings[0]
    warnings.clear()
    open_pipeline(home, packs, warn=warnings.append)(TEXT)
    assert warnings == []


def test_an_unknown_task(tmp_path: Path) -> None:
    home, packs = install(tmp_path, bert(), task={"kind": "time-travel"})
    with raises("M705", match="time-travel"):
        open_pipeline(home, packs)(TEXT)


def test_a_model_without_tokenizer(tmp_path: Path) -> None:
    home, packs = install(tmp_path, bert(), with_tokenizer=False)
    with raises("M704", match="no tokenizer"):
        open_pipeline(home, packs)(TEXT)


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


TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} the {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}then {% endif %}"
)


def chatting(folder: Path, **task: object) -> Pipeline:
    """Return the pipeline of a model with a chat template."""
    kind: dict[str, object] = {"kind": "text-generation", "max_new_tokens": 6}
    home, packs = install(folder, llama(vocab_size=len(WORDS)), task={**kind, **task})
    (home / "chat_template.jinja").write_text(TEMPLATE)
    return open_pipeline(home, packs)


def reference(text: str, seed: int = 0, **options: Any) -> str:
    """Return what transformers generates for a prompt."""
    model, known = llama(vocab_size=len(WORDS)), tokenizer()
    ids = known(text, return_tensors="pt")["input_ids"]
    torch.manual_seed(seed)
    output = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return str(known.decode(output[0, ids.shape[1] :], skip_special_tokens=True)).strip()


def test_sampled_text_is_that_of_transformers_and_can_be_repeated(tmp_path: Path) -> None:
    task: dict[str, object] = {"kind": "text-generation", "max_new_tokens": 8}
    run = open_pipeline(*install(tmp_path, llama(vocab_size=len(WORDS)), task=task))
    result = run(TEXT, temperature=1.7, top_p=0.9, seed=5)
    options = {"do_sample": True, "temperature": 1.7, "top_p": 0.9, "max_new_tokens": 8}
    assert result.text == reference(TEXT, seed=5, **options)
    before = torch.get_rng_state()
    assert run(TEXT, temperature=1.7, top_p=0.9, seed=result.seed) == result
    assert torch.equal(torch.get_rng_state(), before)
    drawn = run(TEXT, temperature=1.7)
    assert run(TEXT, temperature=1.7, seed=drawn.seed) == drawn
    assert run(TEXT).seed is None


def test_the_generation_config_decides_where_nobody_else_does(tmp_path: Path) -> None:
    home, packs = install(tmp_path, llama(vocab_size=len(WORDS)))
    settings = {"do_sample": True, "temperature": 2.0, "top_k": 5, "max_new_tokens": 4}
    (home / "generation_config.json").write_text(json.dumps(settings))
    result = open_pipeline(home, packs)(TEXT, seed=1)
    assert result.text == reference(TEXT, seed=1, **settings)
    assert open_pipeline(home, packs)(TEXT, temperature=0).seed is None


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"cache_implementation": "quantized", "cache_config": {"backend": "x"}}, "backend"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "trust_remote_code"),  # its code is on a hub
    ],
)
def test_a_generation_config_that_needs_more_is_told(
    settings: dict[str, Any], match: str, tmp_path: Path
) -> None:
    home, packs = install(tmp_path, llama(vocab_size=len(WORDS)))
    (home / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, **settings}))
    with raises("M726", match=match):
        open_pipeline(home, packs)("the cat")


def test_a_task_that_says_no_length_leaves_it_to_the_generation_config(tmp_path: Path) -> None:
    task: Any = msgspec.to_builtins(Task(kind="text-generation"))
    home, packs = install(tmp_path, llama(vocab_size=len(WORDS)), task=task)
    (home / "generation_config.json").write_text('{"max_new_tokens": 4}')
    assert open_pipeline(home, packs)(TEXT).text == reference(TEXT, max_new_tokens=4)


def test_a_default_length_does_not_cut_the_text_of_a_small_model(tmp_path: Path) -> None:
    model = llama(vocab_size=len(WORDS), max_position_embeddings=32)
    warnings: list[str] = []
    run = open_pipeline(*install(tmp_path, model), warn=warnings.append)
    result = run(TEXT)
    assert result.text == reference(TEXT, max_new_tokens=16)
    assert warnings == []


@pytest.mark.parametrize("new", [20, 58, 63, 64, 600])
def test_new_tokens_give_way_and_not_the_prompt(new: int, tmp_path: Path) -> None:
    model, warnings = llama(vocab_size=len(WORDS)), list[str]()
    run = open_pipeline(*install(tmp_path, model), warn=warnings.append)
    longer = f"{TEXT} {TEXT} then"
    texts = [TEXT, longer, "the cat"]
    fitting = [min(new, 64 - len(text.split())) for text in texts]
    wanted = [reference(t, max_new_tokens=n) for t, n in zip(texts, fitting, strict=True)]
    assert [result.text for result in run(texts, max_new_tokens=new)] == wanted
    assert [run(text, max_new_tokens=new).text for text in texts] == wanted
    assert reference(TEXT, max_new_tokens=min(new, 100)).startswith(wanted[0])
    assert warnings == []


def test_a_prompt_is_cut_only_if_it_does_not_fit_the_context(tmp_path: Path) -> None:
    warnings: list[str] = []
    home, packs = install(tmp_path, llama(vocab_size=len(WORDS)))
    run = open_pipeline(home, packs, warn=warnings.append)
    words = " ".join(["cat sat"] * 40).split()
    fits, full = " ".join(words[:63]), " ".join(words[:64])
    assert run(fits, max_new_tokens=9).text == reference(fits, max_new_tokens=1)
    assert warnings == []
    assert run(full, max_new_tokens=9).text == reference(" ".join(words[:55]), max_new_tokens=9)
    assert run(full, max_new_tokens=900).text == reference(" ".join(words[:32]), max_new_tokens=32)
    assert len(warnings) == 2


def test_prompt_and_answer_of_an_encoder_decoder_each_have_the_context(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 48}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 48}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 1}
    config = transformers.BartConfig(
        vocab_size=len(WORDS), max_position_embeddings=24, forced_eos_token_id=None,
        **sizes, **heads, **ids,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BartForConditionalGeneration(config).eval()
    text, known, warnings = " ".join(["cat sat"] * 12), tokenizer(), list[str]()
    task: dict[str, object] = {"kind": "summarization"}
    run = open_pipeline(*install(tmp_path, model, task=task), warn=warnings.append)
    given = known(text, return_tensors="pt")["input_ids"]
    for new, fitting in ((20, 20), (24, 24), (600, 24)):
        output = model.generate(given, max_new_tokens=fitting, do_sample=False)[0]
        wanted = str(known.decode(output, skip_special_tokens=True)).strip()
        assert run(text, max_new_tokens=new).text == wanted
    assert warnings == []


@pytest.mark.parametrize("given", [5, None, 1.5])
def test_what_is_no_text_is_refused(given: Any, tmp_path: Path) -> None:
    run = open_pipeline(*install(tmp_path, llama(vocab_size=len(WORDS))))
    with raises("M709"):
        run(given)


def test_a_text_ends_before_a_stop_and_the_stream_does_too(tmp_path: Path) -> None:
    run = open_pipeline(*install(tmp_path, llama(vocab_size=len(WORDS), tie_word_embeddings=True)))
    whole = run(TEXT, max_new_tokens=6).text
    assert whole is not None
    stop = whole.split()[1]
    assert run(TEXT, max_new_tokens=6, stop=(stop,)).text == whole[: whole.index(stop)].strip()
    assert run(TEXT, max_new_tokens=6, stop=stop).text == whole[: whole.index(stop)].strip()
    pieces = run.stream(TEXT, max_new_tokens=6, stop=(stop,))
    assert "".join(pieces).strip() == whole[: whole.index(stop)].strip()


def test_a_conversation_takes_the_chat_template(tmp_path: Path) -> None:
    run = chatting(tmp_path)
    messages = [
        {"role": "user", "content": "cat"},
        {"role": "assistant", "content": "mat"},
        {"role": "user", "content": "sat"},
    ]
    said = "user the cat assistant the mat user the sat then"
    assert run(messages).text == reference(said, max_new_tokens=6, do_sample=False)
    assert run(messages, system="on").text == reference(
        f"system the on {said}", max_new_tokens=6, do_sample=False
    )
    assert [r.text for r in run([messages, messages[:1]])] == [
        run(messages).text,
        run("cat").text,
    ]


def test_a_long_conversation_loses_its_oldest_messages(tmp_path: Path) -> None:
    run = chatting(tmp_path, system="mat")
    turn = [{"role": "user", "content": "cat"}, {"role": "assistant", "content": "sat"}]
    last = [{"role": "user", "content": "on"}]
    ids, was_cut = token_ids(run.tokenizer, run.task, [*turn * 9, *last], 20)
    assert was_cut
    assert len(ids) <= 20
    text = run.tokenizer.decode(ids)
    assert text.startswith("<unk> the mat <unk> the cat")
    assert text.endswith("<unk> the on then")


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        ([], {}),
        ([{"role": "user"}], {}),
        ([["cat"]], {}),
        ([{"role": "user", "content": "cat"}], {}),
        ("cat", {"system": "sat"}),
        ("cat", {"adapter": "x"}),
    ],
)
def test_what_does_not_go_with_a_model_is_told(
    inputs: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    run = open_pipeline(*install(tmp_path, llama(vocab_size=len(WORDS))))
    if not inputs:
        assert run(inputs) == []
        return
    with pytest.raises(RunError) as told:
        run(inputs, **options)
    assert told.value.code in ("M709", "M726")


def test_a_model_that_embeds_does_not_generate(tmp_path: Path) -> None:
    run = open_pipeline(*install(tmp_path, bert()))
    for options in ({"temperature": 0.0}, {"stop": ("a",)}, {"system": "x"}):
        with raises("M709", match="does not generate"):
            run(TEXT, **options)
    with raises("M709", match="does not generate"):
        list(run.stream(TEXT))
    both = run([TEXT, "the cat"])
    assert [len(result.embedding or ()) for result in both] == [32, 32]


def test_a_stream_that_is_closed_lets_the_next_call_run(tmp_path: Path) -> None:
    run = open_pipeline(*install(tmp_path, llama(vocab_size=len(WORDS), eos_token_id=None)))
    pieces = run.stream(TEXT, max_new_tokens=40, temperature=3.0, seed=1)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert run(TEXT, max_new_tokens=1).task == "text-generation"


def test_an_error_in_a_stream_is_raised_where_it_is_read(tmp_path: Path) -> None:
    run = open_pipeline(*install(tmp_path, llama(vocab_size=len(WORDS))))
    with raises("M709"):
        next(run.stream(TEXT, adapter="x"))
