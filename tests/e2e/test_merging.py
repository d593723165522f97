"""Merging by what the tests say, on real weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.command import modpkg, modpkg_json
from tests.e2e.conftest import Demo
from tests.e2e.test_vetting import candidate

PAIRS = [
    ("A dog runs in the park.", "A puppy is running outside.", 4.0),
    ("A man plays the guitar.", "Somebody makes music.", 3.0),
    ("The train is late again.", "My cat sleeps all day.", 0.0),
    ("She reads a long book.", "A woman is reading.", 4.0),
    ("It will rain tomorrow.", "He bought a red car.", 0.5),
    ("The soup is too hot.", "The food burns my tongue.", 3.5),
]


def test_auto_takes_the_method_that_the_base_s_own_tests_like_best(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(demo.home / "registry", tmp_path / "registry")
    monkeypatch.setenv("MODPKG_REGISTRY", str(tmp_path / "registry"))
    base = candidate(demo, tmp_path / "base", (), 0.0)
    rows = [json.dumps({"text": a, "other": b, "score": score}) for a, b, score in PAIRS]
    (base / "pairs.jsonl").write_text("\n".join(rows))
    manifest = (base / "modpkg.toml").read_text()
    (base / "modpkg.toml").write_text(
        manifest + '[[tests]]\nname = "alike"\ncases = "pairs.jsonl"\nmetric = "spearman"\n'
        "at_least = 0.1\n"
    )
    modpkg("build", base)
    modpkg("publish", base)
    copies = []
    for seed in (1, 2):
        copy = tmp_path / f"copy-{seed}"
        copy.mkdir()
        tensors = load_file(base / "model.safetensors")
        name = next(name for name in sorted(tensors) if "layer.5.output.dense.weight" in name)
        noise = torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(seed))
        tensors[name] = tensors[name] + 0.1 * tensors[name].std() * noise
        save_file(tensors, copy / "model.safetensors")
        copies.append(copy)
    asked = ("merge", "--base", "minilm-l6==1.0.1", *copies, "--method", "auto")
    result = modpkg_json(*asked, "--out", tmp_path / "merged")
    tried = {one["method"]: one for one in result["tried"]}
    assert set(tried) == {"mean", "ties", "task-arithmetic", "model-stock"}
    best = result["tried"][0]
    assert result["method"] == best["method"]
    assert best["failed"] == min(one["failed"] for one in result["tried"])
    assert best["gain"] == max(
        one["gain"] for one in result["tried"] if one["failed"] == best["failed"]
    )
    # The candidate carries the base's tests, and they give what they gave when it was chosen.
    again = json.loads(modpkg("test", "--json", cwd=tmp_path / "merged", check=False).stdout)
    assert again["reports"][0]["results"][0]["value"] == best["report"]["results"][0]["value"]
