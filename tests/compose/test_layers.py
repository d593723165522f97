"""Models assembled from layers of several models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from modpkg.compose.composition import Composition
from modpkg.compose.executor import compose
from modpkg.compose.layers import positions
from modpkg.compose.plan import plan
from modpkg.core.names import ModuleName
from modpkg.manifest.schema import Compose, Layers
from tests.compose.helpers import module, values
from tests.raising import raises


def stacked(folder: Path, *runs: Layers, method: str = "passthrough", **config: Any) -> Composition:
    modules = {}
    for number, name in enumerate("ab"):
        tensors = {f"model.layers.{k}.w": torch.full((2,), 10.0 * number + k) for k in range(3)}
        tensors |= {"model.norm.weight": torch.full((2,), number + 0.5)}
        own = {"num_hidden_layers": 3, "layer_types": [f"{name}{k}" for k in range(3)], **config}
        modules[name] = module(folder, name, "base", tensors, config=own)
    return plan("m", "1", Compose(base=ModuleName("a"), method=method, layers=runs), modules)


def run(name: str, first: int, stop: int, **more: Any) -> Layers:
    return Layers(module=ModuleName(name), range=(first, stop), **more)


def test_layers_are_taken_and_renumbered(tmp_path: Path) -> None:
    runs = run("a", 0, 2), run("b", 0, 3, scale=0.5, tensors=("model.norm.",))
    composition = stacked(tmp_path, *runs)
    got = values(compose(composition, tmp_path).tensors)
    found = [float(got[f"model.layers.{k}.w"][0]) for k in range(5)]
    assert found == [0.0, 1.0, 5.0, 5.5, 6.0]
    assert got["model.norm.weight"].tolist() == [1.5, 1.5]
    assert composition.config["num_hidden_layers"] == 5
    assert composition.config["layer_types"] == ["a0", "a1", "b0", "b1", "b2"]


def test_runs_that_cannot_be_assembled(tmp_path: Path) -> None:
    for runs, message in (
        ([run("b", 2, 4)], "b has no layer 3"),
        ([run("b", 0, 1, tensors=("lm_head.",))], "no tensor 'lm_head.' outside"),
    ):
        with raises("M601", match=message):
            stacked(tmp_path, *runs)
    with raises("M601", match="does not state the number of layers"):
        stacked(tmp_path, run("b", 0, 1), num_hidden_layers=None)
    with raises("M601", match='method = "passthrough"'):
        stacked(tmp_path, run("b", 0, 1, scale=2.0), method="sum")


def test_positions_are_by_stack() -> None:
    names = ["enc.block.0.w", "enc.block.1.w", "dec.block.0.w", "embed"]
    assert list(positions(names).values()) == [0.0, 1.0, 1.0, 0.0]
