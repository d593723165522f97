"""The configs beside a tokenizer say nothing but settings: no files, classes or arguments."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from modpkg.compose.tokenizer import open_tokenizer
from modpkg.compose.tokenizer_settings import (
    SPECIAL_TOKENS,
    check_class,
    check_special_tokens,
    check_tokenizer_config,
)
from modpkg.core.errors import RunError
from modpkg.core.filenames import CONFIG, TOKENIZER_CONFIG
from tests.raising import raises
from tests.runtime.helpers import tokenizer


@pytest.mark.parametrize(
    "config",
    [
        {"fast_tokenizer_files": ["tokenizer.4.0.json", "tokenizer.json"], "init_inputs": []},
        {"vocab_file": "vocab.json", "tokenizer_file": None, "special_tokens_map_file": "a/b.json"},
        {"special_tokens_map_file": "/root/.cache/special_tokens_map.json"},
        {"name_or_path": "/home/someone/model", "chat_template": "{{ '/a' }}", "from_slow": True},
        {"mecab_kwargs": {"mecab_dic": "unidic_lite"}, "sp_model_kwargs": {"alpha": 0.1}},
        {"extra_special_tokens": {"x": "<a/b>"}, "pad_token": {"content": "/x", "lstrip": False}},
        {"added_tokens_decoder": {"0": {"content": "//"}}, "language": "en"},
    ],
)
def test_settings_pass(config: dict[str, Any]) -> None:
    check_tokenizer_config(config)


@pytest.mark.parametrize(
    "config",
    [
        {"fast_tokenizer_files": ["tokenizer./../../secret.json"]},
        {"fast_tokenizer_files": ["/etc/tokenizer.4.json"]},
        {"vocab_file": "../../other/vocab.txt"},
        {"gguf_file": "~/model.gguf"},
        {"normalizer_file": "https://example.org/x"},
        {"vocab": "/etc/passwd"},
        {"tokenizer_object": "a:b"},
        {"slow_tokenizer": "..\\x"},
        {"sudachi_kwargs": {"sudachi_config_path": "/tmp/evil.json"}},
        {"mecab_kwargs": {"mecab_option": "/tmp/evil"}},
        {"init_inputs": ["vocab.txt"]},
    ],
)
def test_files_outside_and_arguments_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"outside of its folder|arguments of its own"):
        check_tokenizer_config(config)


def test_special_tokens_are_tokens() -> None:
    check_special_tokens({"pad_token": "a", "additional_special_tokens": ["/b"], "image_token": {}})
    with pytest.raises(ValueError, match="tokenizer_file"):
        check_special_tokens({"tokenizer_file": "tokenizer.json"})


@pytest.mark.parametrize(
    "name", [None, "LlamaTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend", "MyTokenizer"]
)
def test_classes_of_tokenizers(name: str | None) -> None:
    check_class(transformers, {"tokenizer_class": name}, CONFIG)


@pytest.mark.parametrize("name", ["AutoModel", "LlamaForCausalLM", "GenerationConfig", "models", 7])
def test_other_classes_are_refused(name: object) -> None:
    with pytest.raises(ValueError, match="no tokenizer's"):
        check_class(transformers, {"tokenizer_class": name}, CONFIG)


def opened(folder: Path) -> Any:
    return open_tokenizer(
        transformers, folder, lambda reason: RunError("M704", name="m", reason=reason)
    )


@pytest.mark.parametrize(
    ("file", "extra"),
    [
        (TOKENIZER_CONFIG, {"vocab_file": "/etc/passwd"}),
        (TOKENIZER_CONFIG, {"a": [{"auto_map": {"AutoTokenizer": ["a.B", None]}}]}),
        (SPECIAL_TOKENS, {"tokenizer_file": "/etc/passwd"}),
        (CONFIG, {"model_type": "llama", "auto_map": {"AutoConfig": "a.B"}}),
        (CONFIG, {"model_type": "llama", "dtype": "os.system"}),
        (CONFIG, {"tokenizer_class": "AutoModel"}),
    ],
)
def test_they_are_checked_where_a_tokenizer_is_opened(
    tmp_path: Path, file: str, extra: dict[str, Any]
) -> None:
    tokenizer().save_pretrained(tmp_path)
    path = tmp_path / file
    own = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**own, **extra}))
    with raises("M704", match="its tokenizer cannot be read"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        dict,
        lambda config: {**config, "configuration_files": ["../../config.4.0.0.json"]},
        lambda config: {**config, "model_type": "unknown"},
        lambda config: {"a": 1},
    ],
)
def test_the_class_is_chosen_as_transformers_does(
    tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    tokenizer().save_pretrained(tmp_path)
    config = transformers.LlamaConfig(vocab_size=13, name_or_path="evil/x").to_dict()
    (tmp_path / CONFIG).write_text(json.dumps(change({**config, "model_type": "llama"})))
    got = opened(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({**config, "model_type": "llama"}))
    wanted = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(got) is type(wanted)
    assert got.name_or_path == str(tmp_path)
    assert got("the cat")["input_ids"] == wanted("the cat")["input_ids"]
