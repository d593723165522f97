"""What the tests keep of mergekit, against mergekit itself: run by ``make mergekit``."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.compose.test_mergekit import HERE, RECIPES


def test_the_expected_files_match_mergekit(tmp_path: Path) -> None:
    script = HERE / "make_expected.py"
    subprocess.run([os.environ["MERGEKIT_PYTHON"], script, tmp_path], check=True)
    for recipe in RECIPES:
        live, kept = (load_file(d / f"{recipe}.safetensors") for d in (tmp_path, HERE))
        assert live.keys() == kept.keys()
        assert all(torch.equal(live[key], kept[key]) for key in live), recipe


def test_the_expected_mixtures_match_mergekit(tmp_path: Path) -> None:
    script = HERE / "make_experts.py"
    subprocess.run([os.environ["MERGEKIT_PYTHON"], script, tmp_path], check=True)
    live, kept = (load_file(folder / "experts.safetensors") for folder in (tmp_path, HERE))
    assert live.keys() == kept.keys()
    assert all(torch.equal(live[key], kept[key]) for key in live)


def test_the_expected_vocabularies_match_mergekit(tmp_path: Path) -> None:
    """By token: mergekit numbers those of a union in another order each time."""
    script = HERE / "make_vocabularies.py"
    subprocess.run([os.environ["MERGEKIT_PYTHON"], script, tmp_path], check=True)
    found = []
    for folder in (tmp_path, HERE):
        file = folder / "vocabularies.safetensors"
        with safe_open(file, "pt") as opened:
            numbers = json.loads(opened.metadata()["tokens"])
        rows = {}
        for name, tensor in load_file(file).items():
            tokens = numbers.get(name.rpartition("/")[0])
            order = [tokens[token] for token in sorted(tokens)] if tokens else slice(None)
            rows[name] = tensor[order]
        found.append(rows)
    live, kept = found
    assert live.keys() == kept.keys()
    assert all(torch.equal(live[key], kept[key]) for key in live)
