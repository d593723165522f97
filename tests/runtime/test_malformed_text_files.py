"""Files about texts, cut off or with one value of another type: reported, never a traceback."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modpkg.core.errors import ModpkgError
from modpkg.runtime.pipeline import open_pipeline
from tests.runtime.helpers import WORDS, bert, install, llama

OTHERS = (None, True, 7, -1.5, "x", [1], {"a": 1})
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
GENERATION = {"eos_token_id": [1], "pad_token_id": 0, "max_length": 20, "do_sample": False}
SENTENCE = {
    "modules.json": [
        {"name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ],
    "1_Pooling/config.json": {"pooling_mode": "mean", "include_prompt": False},
    "config_sentence_transformers.json": {
        "prompts": {"query": "it"},
        "default_prompt_name": "query",
        "truncate_dim": 8,
    },
    "sentence_bert_config.json": {"max_seq_length": 4, "do_lower_case": True},
}


def mutants(text: str, every: int) -> Iterator[str]:
    """Yield a file cut off at tenths of its length, and a JSON document with a value replaced."""
    yield from (text[: len(text) * tenth // 10] for tenth in range(1, 10, 3))
    with contextlib.suppress(ValueError):
        document = json.loads(text)
        found = [
            (path, value)
            for path, old in places(document)
            for value in OTHERS
            if type(value) is not type(old)
        ]
        for path, value in found[::every]:
            changed = copy.deepcopy(document)
            owner: Any = changed
            for key in path[:-1]:
                owner = owner[key]
            owner[path[-1]] = value
            yield json.dumps(changed)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key), inner
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("models")
    task: dict[str, object] = {"kind": "text-generation", "max_new_tokens": 1}
    writes = install(folder / "llama", llama(vocab_size=len(WORDS)), task=task)
    (writes[0] / "chat_template.jinja").write_text(TEMPLATE)
    (writes[0] / "generation_config.json").write_text(json.dumps(GENERATION))
    embeds = install(folder / "bert", bert())
    for path, value in SENTENCE.items():
        (embeds[0] / path).parent.mkdir(exist_ok=True)
        (embeds[0] / path).write_text(json.dumps(value))
    return {"llama": writes, "bert": embeds}


@pytest.mark.parametrize(
    ("model", "path", "every"),
    [
        ("llama", "tokenizer.json", 41),
        ("llama", "tokenizer_config.json", 11),
        ("llama", "chat_template.jinja", 1),
        ("llama", "generation_config.json", 3),
        *(("bert", path, 3) for path in SENTENCE),
    ],
)
def test_no_traceback(
    models: dict[str, tuple[Path, Path]], tmp_path: Path, model: str, path: str, every: int
) -> None:
    home, packs = models[model]
    shutil.copytree(home, tmp_path / "home")
    told = 0
    for mutant in mutants((home / path).read_text(), every):
        (tmp_path / "home" / path).write_text(mutant)
        try:
            open_pipeline(tmp_path / "home", packs)("the cat sat")
        except ModpkgError as error:
            told += bool(str(error))
    assert told


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('no') }}", "{{ messages[0].a.b.c }}", "{% import 'os' %}", "{% if %}", ""],
)
def test_a_chat_template_that_fails_is_told(
    models: dict[str, tuple[Path, Path]], tmp_path: Path, template: str
) -> None:
    home, packs = models["llama"]
    shutil.copytree(home, tmp_path / "home")
    (tmp_path / "home" / "chat_template.jinja").write_text(template)
    with pytest.raises(ModpkgError, match="chat = false in the task|makes no token"):
        open_pipeline(tmp_path / "home", packs)("the cat sat")
