"""A folder for other tools has no config that makes them run or fetch what it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modpkg.interop.exported_configs import check_exported, without_foreign_class
from tests.raising import raises


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, value in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(value))
    return folder


def sentence(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Dense", "type": kind},
    ]
    return {"modules.json": modules, "1_Dense/config.json": config}


OWN = "sentence_transformers.models.Dense"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"config.json": {"_attn_implementation": "flash_attention_2", "dtype": "float16"}},
        {"tokenizer_config.json": {"name_or_path": "a/b"}, "special_tokens_map.json": {}},
        sentence(OWN, {"activation_function": "torch.nn.modules.linear.Identity"}),
        {"sentence_bert_config.json": {"model_args": {"trust_remote_code": False}}},
        {"config.json": {}, "data_config.json": [{"name": "a/b", "lines": 1}]},
    ],
)
def test_honest_folders(tmp_path: Path, files: dict[str, Any]) -> None:
    check_exported("m", write(tmp_path, files))


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": {"_attn_implementation": "someone/kernel"}},
        {"config.json": {"text_config": {"auto_map": {"AutoModel": "a--b.C"}}}},
        {"config.json": {"dtype": "os.system"}},
        {"config.json": {"quantization_config": {"format": "evil.py:Cls"}}},
        {"generation_config.json": {"custom_generate": "someone/code"}},
        {"processor_config.json": {"auto_map": {"AutoProcessor": "a.B"}}},
        {"sentence_bert_config.json": {"model_args": {"trust_remote_code": True}}},
        {"config_sentence_transformers.json": {"a": [{"trust_remote_code": True}]}},
        {"tokenizer_config.json": {"vocab_file": "/etc/passwd"}},
        {"special_tokens_map.json": {"tokenizer_file": "/etc/passwd"}},
        sentence("os.system", {}),
        sentence(OWN, {"activation_function": "os.system"}),
        sentence(OWN, {"auto_map": {"a": "b.C"}}),
    ],
)
def test_hostile_folders_are_refused(tmp_path: Path, files: dict[str, Any]) -> None:
    with raises("M704", "M707"):
        check_exported("m", write(tmp_path, files))


def test_an_adapter_names_a_class_of_a_known_library_or_none() -> None:
    own = {"auto_mapping": {"base_model_class": "M", "parent_library": "transformers.models.llama"}}
    assert without_foreign_class(own) == own
    for library in ("os", "__main__", "transformers_modules.a.b", None):
        foreign = {"r": 1, "auto_mapping": {"base_model_class": "M", "parent_library": library}}
        assert without_foreign_class(foreign) == {"r": 1, "auto_mapping": None}
