"""Two models with different tokenizers, from a recipe of mergekit to an installed merge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save
from tokenizers import Tokenizer

from modpkg.core.names import parse_requirement
from modpkg.environment.install import install
from modpkg.environment.plan import InstallRequest
from modpkg.environment.project import Project, find_project
from modpkg.environment.workspace import Workspace
from modpkg.interop.hf import export_hf
from modpkg.interop.mergekit import import_mergekit
from modpkg.resolve.lock import read_lock
from tests import tiny
from tests.compose.test_mergekit_vocabularies import ADDED, KEPT, WORDS, of
from tests.modules import write_module

FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def tokenizer(name: str) -> dict[str, Any]:
    words = WORDS[name]
    added = [
        {"id": len(words) + n, "content": token, **FLAGS, "special": True}
        for n, token in enumerate(ADDED[name])
    ]
    vocab = {word: n for n, word in enumerate(words)}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    }  # fmt: skip


@pytest.fixture
def merged(home: Path, tmp_path: Path) -> Path:
    """The export of an installed merge of two models with other tokens each."""
    registry, kept = home / "registry", load_file(KEPT)
    for name in ("a", "b"):
        tensors = of(kept, name)
        config = {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8,
            "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": len(tensors["lm_head.weight"]),
            "tie_word_embeddings": False, "dtype": "float32",
        }  # fmt: skip
        files = {
            "model.safetensors": save({k: t.contiguous() for k, t in tensors.items()}),
            "config.json": json.dumps(config).encode(),
            "tokenizer.json": json.dumps(tokenizer(name)).encode(),
            "tokenizer_config.json": json.dumps(
                {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
            ).encode(),
        }
        tiny.publish(write_module(tmp_path / name, name, "1.0", "base", files=files), registry)
    (tmp_path / "r.yml").write_text(
        "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {t: 1}\n"
        "tokenizer: {source: union, pad_to_multiple_of: 16}\nchat_template: chatml\n"
    )
    import_mergekit(tmp_path / "r.yml", tmp_path / "m", "m", "1.0", license="MIT")
    tiny.publish(tmp_path / "m", registry)
    workspace = Workspace(find_project())
    install(workspace, InstallRequest(add=[parse_requirement("m")]))
    environment = workspace.environment
    export_hf(environment.folder(1) / "models" / "m", environment.packs, tmp_path / "out")
    return tmp_path / "out"


def test_a_union_is_a_model_with_its_own_tokenizer(merged: Path) -> None:
    config = json.loads((merged / "config.json").read_text())
    assert config["vocab_size"] == 16
    made = Tokenizer.from_file(str(merged / "tokenizer.json"))
    assert made.encode("two <|end|> red").tokens == ["two", "<|end|>", "red"]
    rows, kept = load_file(merged / "model.safetensors"), load_file(KEPT)
    for tensor in ("model.embed_tokens.weight", "lm_head.weight"):
        for number, word in enumerate([*WORDS["b"], *ADDED["b"]]):  # t: 1 is b alone
            place = made.token_to_id(word)
            assert rows[tensor][place].tolist() == kept[f"b/{tensor}"][number].tolist(), word

    import transformers

    loaded = transformers.AutoTokenizer.from_pretrained(merged)
    assert loaded.convert_tokens_to_ids("<|end|>") == made.token_to_id("<|end|>")
    assert "<|im_start|>" in loaded.chat_template


def test_a_union_within_another_merge_is_what_its_weights_give(
    merged: Path, home: Path, tmp_path: Path
) -> None:
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    files = {name: (merged / name).read_bytes() for name in names}
    whole = write_module(tmp_path / "whole", "whole", "1.0", "base", files=files)
    tiny.publish(whole, home / "registry")
    results = []
    for inner in ("m", "whole"):
        folder = tmp_path / f"of-{inner}"
        folder.mkdir()
        (folder / "modpkg.toml").write_text(
            f'[app]\nname = "app"\n[dependencies]\nb = "*"\n{inner} = "*"\n[models.outer]\n'
            f'base = "b"\nmethod = "linear"\nvocabulary = {{ source = "union" }}\n'
            f'steps = [{{ op = "dense", module = "{inner}", scale = 0.75 }}]\n'
        )
        project = Project(folder / "modpkg.toml")
        install(Workspace(project), InstallRequest())
        lock = read_lock(project.lock_path)
        assert lock is not None
        results.append(next(each.result for each in lock.composed if each.model == "outer"))
    assert results[0] == results[1]
