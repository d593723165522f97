"""What the tests keep of mergekit, against mergekit itself: run by ``make mergekit``."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from modpkg.interop.mergekit import read_recipe
from modpkg.interop.mergekit_export import recipe_of_mergekit
from modpkg.manifest.read import parse_manifest
from tests.compose.test_mergekit import HERE, RECIPES


def test_the_expected_files_match_mergekit(tmp_path: Path) -> None:
    script = HERE / "make_expected.py"
    subprocess.run([os.environ["MERGEKIT_PYTHON"], script, tmp_path], check=True)
    for recipe in RECIPES:
        live, kept = (load_file(d / f"{recipe}.safetensors") for d in (tmp_path, HERE))
        assert live.keys() == kept.keys()
        assert all(torch.equal(live[key], kept[key]) for key in live), recipe


def test_mergekit_makes_the_same_of_exported_recipes(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    for recipe in RECIPES:
        read = read_recipe(HERE / "recipes" / f"{recipe}.yml")
        manifest = parse_manifest(read.manifest("m", "1.0", "MIT"), Path("modpkg.toml"))
        assert manifest.compose is not None
        written = recipe_of_mergekit("m", manifest.compose)
        # make_expected.py sets the dtype
        text = yaml.safe_dump({k: v for k, v in written.items() if "dtype" not in k})
        (tmp_path / "recipes" / f"{recipe}.yml").write_text(text)
    script = HERE / "make_expected.py"
    command = [os.environ["MERGEKIT_PYTHON"], script, tmp_path, tmp_path / "recipes"]
    subprocess.run(command, check=True)
    for recipe in RECIPES:
        made, kept = (load_file(d / f"{recipe}.safetensors") for d in (tmp_path, HERE))
        assert made.keys() == kept.keys()
        for key in made:
            # mergekit adds in float32 in the order of the models, which may be another one
            close = key.startswith("float32/") and torch.allclose(made[key], kept[key])
            assert close or torch.equal(made[key], kept[key]), (recipe, key)


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
