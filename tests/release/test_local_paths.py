"""Paths of the builder's machine stay on it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from modpkg.core.digests import digest_bytes, parse_digest
from modpkg.core.tree import BlobTree
from modpkg.manifest.read import read_manifest
from modpkg.release.build import build
from modpkg.release.local_paths import is_local, remove_local_paths, without_local_paths
from tests.modules import write_module

BASE = "/home/anna/models/base"

PEFT_README = f"""---
base_model: {BASE}
library_name: peft
tags:
- base_model:adapter:{BASE}
- lora
---

# Model Card for Model ID

This model is a fine-tuned version of [{BASE}](https://huggingface.co/{BASE}) on {BASE}.
"""

CLEAN_README = """---
library_name: peft
tags:
- lora
---

# Model Card for Model ID

This model is a fine-tuned version of the base on the base.
"""


@pytest.mark.parametrize(
    ("name", "local"),
    [
        (BASE, True),
        ("./base", True),
        ("../base", True),
        ("~/base", True),
        ("runs/one/checkpoint-5", True),
        ("C:\\models\\base", True),
        ("C:/models/base", True),
        ("models\\base", True),
        ("file:///models/base", True),
        ("org/name", False),
        ("org/name-1.5_b", False),
        ("gpt2", False),
    ],
)
def test_what_is_a_local_path(name: str, local: bool) -> None:
    assert is_local(name) is local


def test_a_release_has_no_path_of_the_machine(tmp_path: Path) -> None:
    files: dict[str, dict[str, object]] = {
        "adapter_config.json": {"peft_type": "LORA", "base_model_name_or_path": BASE, "r": 2},
        "config.json": {"_name_or_path": "/mnt/data/run", "model_type": "llama"},
        "sub/tokenizer_config.json": {"name_or_path": "~/tok", "tokenizer_file": "/x/t.json"},
    }
    files["trainer_state.json"] = {
        "best_model_checkpoint": f"{BASE}/checkpoint-5",
        "log_dir": "runs/one",
        "epoch": 1.5,
    }
    files["processor_config.json"] = {"inner": {"tokenizer_name_or_path": "../tok"}}
    written = {path: json.dumps(value).encode() for path, value in files.items()}
    written["README.md"] = PEFT_README.encode()
    folder = write_module(tmp_path / "m", "m", files=written)
    manifest = read_manifest(folder / "modpkg.toml")
    assert manifest.module is not None
    record = build(manifest, manifest.module, folder / "dist").record
    tree = BlobTree(folder / "dist")
    blobs = {
        path: tree.path(parse_digest(entry.digest)).read_bytes()
        for path, entry in record.files.items()
    }
    assert json.loads(blobs["adapter_config.json"]) == {
        "peft_type": "LORA",
        "base_model_name_or_path": None,
        "r": 2,
    }
    assert json.loads(blobs["config.json"]) == {"_name_or_path": None, "model_type": "llama"}
    assert set(json.loads(blobs["sub/tokenizer_config.json"]).values()) == {None}
    assert json.loads(blobs["trainer_state.json"]) == {
        "best_model_checkpoint": None,
        "log_dir": "runs/one",
        "epoch": 1.5,
    }
    assert json.loads(blobs["processor_config.json"]) == {"inner": {"tokenizer_name_or_path": None}}
    assert blobs["README.md"].decode() == CLEAN_README
    assert (folder / "README.md").read_text() == PEFT_README


def test_files_without_a_local_path_keep_their_bytes(tmp_path: Path) -> None:
    """Releases that were built before keep their digests."""
    config = b'{"base_model_name_or_path":   "org/name", "r": 2}'
    readme = b"---\nbase_model: org/name\ntags:\n- base_model:adapter:org/name\n---\n/ and ~/x\n"
    odd = b'{"base_model_name_or_path": 7'
    folder = write_module(
        tmp_path / "m",
        "m",
        files={"adapter_config.json": config, "README.md": readme, "generation_config.json": odd},
    )
    manifest = read_manifest(folder / "modpkg.toml")
    assert manifest.module is not None
    record = build(manifest, manifest.module, folder / "dist").record
    assert {path: entry.digest for path, entry in record.files.items()} == {
        "adapter_config.json": digest_bytes(config),
        "README.md": digest_bytes(readme),
        "generation_config.json": digest_bytes(odd),
    }


def test_a_readme_alone_is_cleaned_by_its_front_matter(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(PEFT_README)
    assert without_local_paths("README.md", path).decode() == CLEAN_README
    remove_local_paths(tmp_path)
    assert path.read_text() == CLEAN_README
    path.write_bytes(b"\xff\xfe/home")
    assert without_local_paths("README.md", path) == b"\xff\xfe/home"


YAML = """\
base_model: /home/anna/models/base  # mine
output_dir: "/home/anna/out dir"
models:
  - model: /home/anna/models/one
  - /data/sets/two
  - {path: ~/three, weight: 0.5}
files: [/data/a.json, b.json]
url: https://models.example/a/b
name: org/base
route: /v1
date: 2026-01-01
"""
CLEAN_YAML = """\
base_model: null  # mine
output_dir: null
models:
  - model: null
  - null
  - {path: null, weight: 0.5}
files: [null, b.json]
url: https://models.example/a/b
name: org/base
route: /v1
date: 2026-01-01
"""


def cleaned(tmp_path: Path, name: str, data: str) -> str:
    path = tmp_path / name
    path.write_text(data)
    return without_local_paths(name, path).decode()


def test_paths_in_yaml(tmp_path: Path) -> None:
    assert cleaned(tmp_path, "train.yaml", YAML) == CLEAN_YAML
    assert cleaned(tmp_path, "train.yml", CLEAN_YAML) == CLEAN_YAML


def test_paths_in_large_json_in_lists_and_beside_infinity(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "added_tokens_decoder": {str(n): {"content": "x" * 90} for n in range(20_000)},
        "limit": float("inf"),
        "runs": [{"name_or_path": BASE, "data_files": [f"{BASE}/a.json", "b.json"]}],
        "datasets": [{"path": BASE, "type": "alpaca"}],
    }
    found = json.loads(cleaned(tmp_path, "tokenizer_config.json", json.dumps(config)))
    assert found["runs"] == [{"name_or_path": None, "data_files": [None, "b.json"]}]
    assert found["datasets"] == [{"path": None, "type": "alpaca"}]
    assert found["limit"] == float("inf")
    assert len(found["added_tokens_decoder"]) == 20_000


def test_a_yaml_that_is_one_long_line_takes_no_time(tmp_path: Path) -> None:
    for text in ("a: " + "/b" * 50_000 + ":", "- " * 50_000, "{,[ " * 50_000, "a" * 200_000):
        start = time.process_time()
        cleaned(tmp_path, "a.yaml", text)
        assert time.process_time() - start < 10
