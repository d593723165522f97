"""Which layers an adapter changes."""

from __future__ import annotations

from typing import Any

import pytest

from modpkg.adapters import bind_adapter
from modpkg.core.records import TensorType
from tests.adapters.samples import PLAIN, pair
from tests.raising import raises

LAYERED = {f"model.layers.{k}.q_proj.weight": TensorType("F32", [4, 4]) for k in range(3)}
TWO = {
    **pair("model.layers.0.q_proj", columns=4),
    **pair("model.layers.1.q_proj", columns=4),
}


@pytest.mark.parametrize(
    ("config", "model"),
    [
        ({"layers_to_transform": [0, 1]}, {"num_hidden_layers": 3}),
        ({"target_modules": r"model.layers.[01].q_proj"}, {"num_hidden_layers": 3}),
        ({"target_modules": ["layers.0.q_proj", "layers.1.q_proj"]}, {"num_hidden_layers": 3}),
        ({"exclude_modules": ["layers.2.q_proj"]}, {"num_hidden_layers": 3}),
        ({}, {"num_hidden_layers": 2}),  # one more on disk, which the model does not have
        ({}, {}),
    ],
)
def test_an_adapter_may_select_layers(config: dict[str, Any], model: dict[str, Any]) -> None:
    given = {**PLAIN, "target_modules": ["q_proj"], **config}
    changes = bind_adapter("a", TWO, given, LAYERED, model_config=model)
    assert len(changes.changes) == 2


@pytest.mark.parametrize(
    "model", [{"num_hidden_layers": 3}, {"n_layer": 3}, {"text_config": {"num_layers": 3}}]
)
def test_a_base_with_more_layers_than_it_was_trained_on_is_refused(model: dict[str, Any]) -> None:
    given = {**PLAIN, "target_modules": ["q_proj"]}
    with raises("M606", match="it changes 2 layers.* the base has 3"):
        bind_adapter("a", TWO, given, LAYERED, model_config=model)
